"""What a first hour meets: names that are mistyped, commands that fail, counts in words."""

from pathlib import Path

import pytest
from sqlalchemy import update

from ownlm.cli import serve
from ownlm.cli.output import progress_bar
from ownlm.errors import UnknownUserError
from ownlm.history.task import shipped_tasks
from ownlm.home import Home
from ownlm.server.errors import message_of, status_of
from ownlm.store import tables
from tests.community import rows, write_rows, write_task
from tests.shell import QuickShell


@pytest.fixture
def empty(tmp_path: Path) -> QuickShell:
    """A folder with a task file and a history, and no home."""
    write_task(tmp_path)
    write_rows(tmp_path / "one.jsonl", rows("ada", 1))
    (tmp_path / "empty").mkdir()
    return QuickShell(tmp_path)


FAILING = [
    ("base", "add", "./empty"),
    ("base", "add", "./none"),
    ("history", "add", "none.jsonl", "--task", "sorting.toml"),
    ("history", "add", "one.jsonl", "--task", "none.toml"),
    ("train", "one.jsonl", "--task", "sorting.toml"),
    ("train", "--task", "sorting.toml"),
    ("train", "one.jsonl", "--task", "sorting.toml", "--ladder"),
    ("adapt", "one.jsonl", "--task", "sorting.toml", "--out", "adapted"),
]


@pytest.mark.parametrize("command", FAILING, ids=" ".join)
def test_a_command_that_fails_leaves_no_empty_home(command: tuple[str, ...], empty: QuickShell) -> None:
    told = empty.run(*command, code=1)
    assert told.startswith("error: ") and "stay in the home" not in told
    assert not (empty.folder / ".ownlm").exists()
    before = sorted((empty.folder / "empty").iterdir())
    empty.run(*command, "--home", "empty", code=1)
    assert sorted((empty.folder / "empty").iterdir()) == before


@pytest.mark.parametrize("home", [".ownlm", "empty"])
def test_a_file_is_checked_without_a_home(home: str, empty: QuickShell) -> None:
    check = ("history", "add", "--dry-run", "--home", home, "--task", "sorting.toml")
    assert "1 of them new, not added" in empty.run(*check, "one.jsonl")
    assert "none.jsonl" in empty.run(*check, "none.jsonl", code=1)
    (empty.folder / "timed.jsonl").write_text('{"user_id": "u", "text": "rain", "created_at": "2021-03-04"}', "utf8")
    timed = ("history", "add", "--dry-run", "--home", home, "--task", "free-text", "timed.jsonl")
    told = empty.both(*timed)[1]
    assert "rename it to 'time'" in told and len(empty.json(*timed)["notes"]) == 1
    assert not (empty.folder / home).exists() or not list((empty.folder / home).iterdir())


MISTYPED = [
    (("export", "ada", "out"), "Did you mean `ownlm users export`?"),
    (("forget", "ada"), "Did you mean `ownlm history forget` or `ownlm users forget`?"),
    (("trian",), "Did you mean `ownlm train`?"),
    (("user", "ls"), "Did you mean `ownlm users`?"),
    (("xyzzy",), "No such command 'xyzzy'."),
]


@pytest.mark.parametrize(("command", "told"), MISTYPED)
def test_a_mistyped_command(command: tuple[str, ...], told: str, empty: QuickShell) -> None:
    said = " ".join(empty.run(*command, code=2).replace("│", " ").split())
    assert told in said and (said.count("Did you mean") == ("Did" in told))


def test_a_mistyped_task_is_told_with_the_tasks_of_the_home(shell: QuickShell) -> None:
    shell.run("history", "add", "people.jsonl", "--task", "sorting.toml")
    told = shell.run("train", "--task", "sortng", code=1)
    assert "There is no task 'sortng'; did you mean 'sorting'?" in told and "src" not in told
    assert all(name in told for name in (*shipped_tasks(), "sorting")) and "ownlm/history" not in told


@pytest.mark.parametrize(
    ("key", "told"), [("lables", "'lables'; did you mean 'labels'?"), ("xyzzy", "the unknown key 'xyzzy'")]
)
def test_a_stray_key_of_a_task_file_is_named(key: str, told: str, empty: QuickShell) -> None:
    with (empty.folder / "sorting.toml").open("a") as file:
        file.write(f'{key} = ["a", "b"]\n')
    said = empty.run("history", "add", "one.jsonl", "--task", "sorting.toml", code=1)
    assert told in said and "Expected: one of: name, instruction, input, answer, labels" in said


def test_the_random_base_is_added_by_name(empty: QuickShell) -> None:
    assert "random: 0." in empty.run("base", "add", "random")
    assert empty.json("base", "add", "random") == empty.json("base", "add", "random")
    assert [base["name"] for base in empty.json("base", "ls")] == ["random"]
    told = empty.run("train", "one.jsonl", "--task", "sorting.toml", "--base", "randon", code=1)
    assert "no base 'randon'; did you mean 'random'?" in told
    assert len(empty.json("train", "one.jsonl", "--task", "sorting.toml", "--epochs", "1")["trained"]) == 1
    assert "ada: 1 record in sorting" in empty.run("users", "show", "ada")
    told = empty.run("doctor")
    assert "users with an adapter" in told and "drafts" not in told  # what there is none of is left out


WITH_A_MISTYPED_USER = [
    ("ask", "Adda", "thing", "--task", "sorting"),
    ("users", "show", "Adda"),
    ("users", "export", "Adda", "out"),
    ("users", "forget", "Adda"),
    ("users", "use", "Adda", "1"),
    ("users", "consent", "Adda"),
    ("users", "consent", "Adda", "--share"),
    ("history", "show", "Adda", "--task", "sorting"),
    ("history", "edit", "Adda", "1", "--set", "text=thing"),
    ("history", "forget", "Adda", "--record", "1"),
    ("train", "--task", "sorting", "--user", "Adda"),
    ("profile", "--task", "sorting", "--user", "Adda"),
    ("adapt", "--task", "sorting", "--user", "Adda", "--out", "adapted"),
]


def test_a_mistyped_user_is_answered_with_the_nearest_name(shell: QuickShell) -> None:
    shell.run("history", "add", "people.jsonl", "--task", "sorting.toml")
    for command in WITH_A_MISTYPED_USER:
        told = shell.run(*command, code=1)
        assert "user 'Adda'" in told and "; did you mean 'ada'?" in told, command
        assert "did you mean" not in shell.run(*("zoltan" if one == "Adda" else one for one in command), code=1)


def test_the_server_suggests_no_other_users_name(shell: QuickShell) -> None:
    shell.run("history", "add", "people.jsonl", "--task", "sorting.toml")
    with pytest.raises(UnknownUserError, match="'ada'") as raised:
        Home(shell.folder / ".ownlm").history("adda", "sorting")
    assert "'ada'" not in message_of(raised.value) and status_of(raised.value) == (404, "not_found")


SOURCES = [  # beside the folders `mybase-1` and `models/smol-1`
    ("./mybase1", "did you mean 'mybase-1'?"),
    ("models/smol1", "and there is no such folder; did you mean 'models/smol-1'?"),
    ("model/smol-1", "and there is no such folder; there is no folder 'model'"),
    ("./model/deep/smol", "there is no folder 'model/deep'"),
    ("smollm2-135", "did you mean 'smollm2-135m'?"),
    ("randon", "did you mean 'random'?"),
]


@pytest.mark.parametrize(("source", "told"), SOURCES)
def test_a_mistyped_source_of_a_base(source: str, told: str, empty: QuickShell) -> None:
    for folder in ("mybase-1", "models/smol-1"):
        (empty.folder / folder).mkdir(parents=True)
    said = empty.run("base", "add", source, code=1)
    assert told in said and said.count("did you mean") == told.count("did you mean")


def test_a_stage_that_ends_often_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as progress:
        for done, total in ((0, 4), (4, 4), (5, 9), (9, 9), (9, 9), (0, 2), (2, 2)):
            progress("download", done, total)
    assert capsys.readouterr().err.splitlines() == ["download: 4 of 4", "download: 2 of 2"]


def test_a_users_name_stays_in_one_line(shell: QuickShell) -> None:
    shell.run("history", "add", "people.jsonl", "--task", "sorting.toml")
    user = "two\nlines\x1b"  # a home made before such names were refused
    with Home(shell.folder / ".ownlm").store.database.writing() as db:
        db.execute(update(tables.records).where(tables.records.c.user == "ada").values(user=user))
    for command in (
        ("users", "consent", user, "--share"), ("users", "consent", user, "--no-share"), ("users", "ls"),
        ("users", "show", user), ("history", "ls"), ("history", "show", user, "--task", "sorting"),
        ("history", "edit", user, "1", "--set", "text=thing"),
    ):  # fmt: skip
        out, err = shell.both(*command, code="edit" in command)
        assert r"two\nlines\x1b" in out + err and "two\nlines" not in out + err, command


def test_serve_interrupted_before_it_listens(shell: QuickShell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(serve, "_engine", interrupted)
    told = shell.run("serve", "--port", "0", code=1)
    assert "Interrupted before the server was ready" in told and "training" not in told


def test_the_address_of_a_server_has_its_root_path(shell: QuickShell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    said = shell.run("serve", "--port", "0", "--root-path", "own/models")
    assert said.count("/own/models") == 3 and "/own/models/v1: the API" in said
