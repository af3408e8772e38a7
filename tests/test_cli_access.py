"""Consents, tokens and lists of many users, as they are typed."""

import json
import stat
from pathlib import Path

import pytest

from ownlm.errors import NotFoundError, StoreError
from ownlm.history.record import History, Record
from ownlm.history.task import load_task
from ownlm.home import Home
from ownlm.store.database import Database
from ownlm.store.tokens import find_token
from tests.shell import QuickShell


@pytest.fixture
def crowd(shell: QuickShell) -> QuickShell:
    """A home with 60 users: user-00 has 1 record, user-59 has 60."""
    home = Home(shell.folder / ".ownlm")
    task = load_task(str(shell.folder / "sorting.toml"))
    home.store.put_task(task)
    home.store.add_records(
        task.name,
        [
            History(
                f"user-{n:02}",
                tuple(Record(f"user-{n:02}", str(k), {"text": "t", "folder": "bin"}, None) for k in range(n + 1)),
            )
            for n in range(60)
        ],
    )
    return shell


def consents(shell: QuickShell) -> dict[str, str]:
    return {row["user"]: row["licence"] for name in ("users",) for row in _all(shell) if row["shares"]}


def _all(shell: QuickShell) -> list[dict[str, object]]:
    names = "\n".join(f"user-{n:02}" for n in range(60))
    (shell.folder / "all.txt").write_text(names)
    rows: list[dict[str, object]] = shell.json("users", "consent", "--file", "all.txt")
    return rows


PLAIN = "\ufeffuser-01\r\n\r\nuser-02  \nuser-01\n"
LINES = '{"user": "user-01", "share": true}\n{"user": "user-02", "share": true, "licence": "CC0"}\n'
TABLE = 'licence,user,share\r\n"CC0, or so",user-01,yes\r\n,user-02,false\r\n'


@pytest.mark.parametrize(
    ("name", "content", "options", "agreed", "counts"),
    [
        ("a.txt", PLAIN, ["--share"], {"user-01": "CC-BY-4.0", "user-02": "CC-BY-4.0"}, (2, 0, 0)),
        ("a.txt", "user-01", ["--share", "--licence", "MIT"], {"user-01": "MIT"}, (1, 0, 0)),
        ("a.jsonl", LINES, [], {"user-01": "CC-BY-4.0", "user-02": "CC0"}, (2, 0, 0)),
        ("a.txt", LINES, ["--share", "--licence", "MIT"], {"user-01": "MIT", "user-02": "CC0"}, (2, 0, 0)),
        ("a.csv", TABLE, [], {"user-01": "CC0, or so"}, (1, 0, 1)),
        ("a.csv", "user\nuser-03\n", ["--no-share"], {}, (0, 0, 1)),
        ("header.txt", "user\nuser-03\n", ["--share"], {"user-03": "CC-BY-4.0"}, (1, 0, 0)),
    ],
)
def test_consents_of_a_file(
    crowd: QuickShell, name: str, content: str, options: list[str], agreed: dict[str, str], counts: tuple[int, int, int]
) -> None:
    (crowd.folder / name).write_text(content, "utf8", newline="")
    changed = crowd.json("users", "consent", "--file", name, *options)
    assert (changed["given"], changed["withdrawn"], changed["unchanged"]) == counts
    assert consents(crowd) == agreed
    told = crowd.run("users", "consent", "--file", name, *options)  # again: nothing changes
    assert f"given: 0; withdrawn: 0; unchanged: {sum(counts)}" in told and consents(crowd) == agreed
    crowd.run("users", "consent", "--file", name, "--no-share") if name == "a.txt" and content != LINES else None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("user-01\nnobody\nuser-02\nnone\n", ["2 of the 4 users", "'nobody', 'none'", "nothing was changed"]),
        ('{"user": "user-01"}\nuser-02\n{"user": " x"}\n', ["2 lines", "line 2: not a JSON object", "line 3"]),
        ('{"user": "user-01", "shares": true}\n', ["unknown key 'shares'"]),
        ('{"user": "user-01", "share": "perhaps"}\n', ["neither true nor false"]),
        ('{"user": "user-01", "share": true}\n{"user": "user-01", "share": false}\n', ["line 2", "line 1"]),
        ('{"user": "user-01", "share": false, "licence": "CC0"}\n', ["licence for a user who does not share"]),
        ("user,share\nuser-01\n", ["1 cells under 2 columns"]),
        ("\n \n", ["is empty"]),
    ],
)
def test_a_wrong_file_changes_nothing(crowd: QuickShell, content: str, words: list[str]) -> None:
    (crowd.folder / "a.txt").write_text(content)
    told = crowd.run("users", "consent", "--file", "a.txt", "--share", code=1)
    assert all(word in told for word in words), told
    assert consents(crowd) == {}


def test_withdrawals_name_the_pools_and_missing_words(shared: Home) -> None:
    shell = QuickShell(shared.store.folder.parent)
    (shell.folder / "all.txt").write_text("\n".join(sorted({one.user for one in shared.histories()})))
    out, warned = shell.both("users", "consent", "--file", "all.txt", "--no-share", "--home", "home")
    assert "withdrawn: 4; unchanged: 3" in out and "remain in 1 pool" in warned and "pool withdraw" in warned
    with pytest.raises(NotFoundError, match="'x'") as caught:
        shared.access.change_consents(["gina"], ["x", "y"])
    assert "nothing was changed" in str(caught.value) and not shared.consent("gina").shares
    (shell.folder / "half.jsonl").write_text('{"user": "gina", "share": true}\n{"user": "eva"}\n')
    assert "line 2 is the first" in shell.run("users", "consent", "--file", "half.jsonl", "--home", "home", code=1)


def test_wrong_usage(crowd: QuickShell) -> None:
    (crowd.folder / "a.txt").write_text("user-01")
    for wrong in (
        ["consent"], ["consent", "user-01", "--file", "a.txt"], ["token", "--file", "a.txt"],
        ["token", "user-01", "--out", "x"], ["token", "user-01", "--file", "a.txt", "--json"],
        ["token", "--operator", "--replace"], ["token", "--list", "--revoke-all"], ["ls", "--limit", "0"],
    ):  # fmt: skip
        if wrong != ["token", "--list", "--revoke-all"]:
            crowd.run("users", *wrong, code=2)


def test_tokens_of_a_file(crowd: QuickShell) -> None:
    (crowd.folder / "a.txt").write_text("user-01\nuser-02\nsomebody new\n")
    told = crowd.run("users", "token", "--file", "a.txt", "--out", "tokens.jsonl", "--expires", "30d")
    out = crowd.folder / "tokens.jsonl"
    given = [json.loads(line) for line in out.read_text().splitlines()]
    assert "3 tokens" in told and stat.S_IMODE(out.stat().st_mode) == 0o600
    store = Home(crowd.folder / ".ownlm").store
    for one in given:
        found = find_token(store, one["token"])
        assert found and (found.id, found.user, found.scope) == (one["id"], one["user"], "user")
        assert one["scope"] == "user" and one["expires"] and not found.expired
    there = crowd.run("users", "token", "--file", "a.txt", "--out", "tokens.jsonl", code=1)
    assert "already" in there and "another --out; with --replace, the new tokens revoke" in there
    assert len(crowd.json("users", "token", "--list")) == 3
    newer = crowd.json("users", "token", "--file", "a.txt", "--replace")
    assert find_token(store, given[0]["token"]) is None and len(crowd.json("users", "token", "--list")) == 3
    assert [find_token(store, one["token"]).user for one in newer] == ["user-01", "user-02", "somebody new"]  # type: ignore[union-attr]
    (crowd.folder / "b.txt").write_text("user-01\nuser-05\n")
    revoked = crowd.json("users", "token", "--file", "b.txt", "--revoke-all")
    assert [one["user"] for one in revoked["revoked"]] == ["user-01"] and revoked["users_without_token"] == 1
    assert "revoked: 1 token;" in crowd.run("users", "token", "user-02", "--revoke-all")
    assert len(crowd.json("users", "token", "--list")) == 1


def test_tokens_that_cannot_be_written_down_are_not_given(crowd: QuickShell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Valid tokens and their file come together: a full disk gives none, a kill before the end leaves no file."""
    (crowd.folder / "a.txt").write_text("user-01\nuser-02\n")
    home = Home(crowd.folder / ".ownlm")

    def full(given: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises((OSError, StoreError)):
        home.access.give_tokens(["user-01"], deliver=full)
    assert home.access.tokens() == []
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(SystemExit(137)))  # as a kill after the commit
    crowd.run("users", "token", "--file", "a.txt", "--out", "tokens.jsonl", code=137)
    monkeypatch.undo()
    assert not (crowd.folder / "tokens.jsonl").exists()
    crowd.run("users", "token", "--file", "a.txt", "--out", "tokens.jsonl", "--replace")
    valid = [json.loads(line)["id"] for line in (crowd.folder / "tokens.jsonl").read_text().splitlines()]
    assert sorted(valid) == sorted(one.id for one in home.access.tokens())
    assert isinstance(home.store.database, Database)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--min-records", "58"], ["user-57", "user-58", "user-59"]),
        (["--max-records", "2"], ["user-00", "user-01"]),
        (["--contains", "R-1", "--max-records", "12"], ["user-10", "user-11"]),
        (["--starts-with", "user-5", "--sort", "records", "--limit", "2"], ["user-59", "user-58"]),
        (["--sort", "name", "--limit", "1"], ["user-00"]),
        (["--consent"], ["user-03", "user-07"]),
        (["--no-consent", "--max-records", "4"], ["user-00", "user-01", "user-02"]),
        (["--adapter"], []),
        (["--stale"], []),
        (["--up-to-date"], []),
        (["--no-adapter", "--starts-with", "user-0", "--min-records", "10"], ["user-09"]),
    ],
)
def test_filters_of_users_ls(crowd: QuickShell, options: list[str], expected: list[str]) -> None:
    Home(crowd.folder / ".ownlm").access.change_consents(["user-03", "user-07"])
    assert [row["user"] for row in crowd.json("users", "ls", *options)] == expected
    table = crowd.run("users", "ls", *options)
    assert all(name in table for name in expected) and table.count("user-") == len(expected)


@pytest.mark.parametrize("command", [["users", "ls"], ["history", "ls"]])
def test_a_list_prints_what_can_be_read(crowd: QuickShell, command: list[str]) -> None:
    table = crowd.run(*command)
    assert table.count("user-") == 20 and "and 40 more: --all" in table
    assert crowd.run(*command, "--all").count("user-") == 60 and len(crowd.json(*command)) == 60
    assert crowd.run(*command, "--limit", "30").count("user-") == 30
    assert len(crowd.json(*command, "--limit", "30")) == 30


def test_other_long_lists_are_cut(crowd: QuickShell) -> None:
    (crowd.folder / "a.txt").write_text("\n".join(f"user-{n:02}" for n in range(60)))
    crowd.json("users", "token", "--file", "a.txt")
    told = crowd.run("users", "token", "--list")
    assert told.count("user-") == 20 and "and 40 more" in told
    assert "and 40 more" in crowd.run("users", "consent", "--file", "a.txt")
    bad = [{"user_id": "eva", "id": str(n)} for n in range(50)]
    rows = [*bad, {"user_id": "eva", "id": "x", "text": "y" * 9000, "folder": "bin"}]
    (crowd.folder / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, warned = crowd.both("history", "add", "bad.jsonl", "--task", "sorting.toml", "--skip-bad")
    assert warned.count("left out: ") == 21 and "30 more rows, 50 in all" in warned
    shown = crowd.run("history", "show", "eva", "--task", "sorting")
    assert "9,000 characters" in shown and len(shown) < 9000
