"""`ownlm train --ladder`, as it is typed."""

import contextlib
import sqlite3
from pathlib import Path

from ownlm.home import Home
from ownlm.progress import silent
from ownlm.store.database import working
from tests.community import rows, write_rows
from tests.sharing import everything
from tests.shell import Shell

LADDER = ["train", "--task", "sorting", "--ladder", "--epochs", "1"]


def with_pool(shell: Shell) -> str:
    """Adds three sharers, whose pieces make a pool; its digest."""
    sharers = ("sami", "tove", "ugo")
    write_rows(shell.folder / "sharers.jsonl", *(rows(user, 11) for user in sharers))
    home = Home(shell.folder / ".ownlm")
    home.add_history(shell.folder / "sharers.jsonl", str(shell.folder / "sorting.toml"))
    for user in sharers:
        home.consent(user, True)
    return home.pools.share("sorting", select="active", steps=1, gate_steps=1).pool.digest


def test_the_ladder_in_json_and_in_words(shell: Shell) -> None:
    digest = with_pool(shell)
    report = shell.json(*LADDER, "people.jsonl", "--pool", digest[:8])
    assert {row["user"]: row["rung"] for row in report["ladder"]} == {
        "ada": "adapted", "bela": "assembled", "ciro": "assembled", "sami": "own", "tove": "own", "ugo": "own"
    }  # fmt: skip
    assert report["ladder"][0] == {"user": "ada", "records": 7, "rung": "adapted", "why": "5 to 49 records"}
    assert sorted(report) == [
        "added", "anew", "assembled", "checkpointed", "failed", "ladder", "not_chosen", "notes", "resumed", "skipped",
        "stale", "tokens_per_s", "trained",
    ]  # fmt: skip
    assert [row["user"] for row in report["assembled"]] == ["bela", "ciro", "ada"]
    assert sorted(report["assembled"][0]) == [
        "bytes", "kept", "recipe", "records", "seconds", "top_sharers", "user"]  # fmt: skip
    assert sorted(row["user"] for row in report["trained"]) == ["sami", "tove", "ugo"]
    assert report["added"] == {"new": 14, "known": 0, "forgotten": 0} and report["failed"] == []

    told = shell.run(*LADDER)
    assert "2 assembled, 1 adapted, 3 own" in told and "5 to 49 records" in told
    assert "is a sharer of the pool" in told and "skipped 3: up to date" in told


def files(shell: Shell) -> dict[Path, bytes]:
    """All of them; of the database its content, since SQLite moves bytes out of its log when a reader leaves."""
    folder = shell.folder / ".ownlm"
    with contextlib.closing(sqlite3.connect(folder / "ownlm.db")) as database:
        content = "\n".join(database.iterdump()).encode()
    others = {path: data for path, data in everything(shell.folder).items() if not path.name.startswith("ownlm.db")}
    return {**others, Path("content"): content}


def test_a_dry_run_says_who_would_stand_where_and_changes_nothing(shell: Shell) -> None:
    digest = with_pool(shell)
    shell.run("history", "add", "people.jsonl", "--task", "sorting.toml")
    Home(shell.folder / ".ownlm").assemble("sorting", users=["bela"], adapt_steps=1)
    before = files(shell)
    report = shell.json(*LADDER, "--dry-run", "--pool", digest[:8])
    assert report["added"] is None and report["skipped"] == [] and report["ladder"][0] == {
        "user": "ada", "records": 7, "rung": "adapted", "why": "5 to 49 records"}  # fmt: skip
    told = shell.run(*LADDER, "--dry-run")
    assert "1 assembled, 2 adapted, 3 own" in told and "stands there already" in told and "nothing written" in told
    assert files(shell) == before
    with working(shell.folder / ".ownlm", "a test", silent):  # nobody is waited for
        shell.run(*LADDER, "--dry-run")
    assert "not added" in shell.run(*LADDER, "--dry-run", "people.jsonl")
    assert "no home" in shell.run(*LADDER, "--dry-run", "--home", "elsewhere", code=1)
    top = shell.json(*LADDER, "--dry-run", "--top", "2", "--min-records", "7")
    assert [row["user"] for row in top["ladder"]] == ["sami", "tove"] and len(top["skipped"]) == 4
    assert "skipped 3: not among the top 3 by number of records" in shell.run(*LADDER, "--dry-run", "--top", "3")
    done = shell.json(*LADDER)
    assert done["ladder"] == shell.json(*LADDER, "--dry-run")["ladder"] and len(done["ladder"]) == 6
    assert sorted(row["user"] for row in done["assembled"]) == ["ada", "bela", "ciro"]  # as it was said


def test_what_does_not_go_together_is_refused(shell: Shell) -> None:
    assert "--ladder" in shell.run("train", "--task", "sorting", "--pool", "beef", code=1)
    shell.run("history", "add", "people.jsonl", "--task", "sorting.toml")
    assert "no pool beef" in shell.run(*LADDER, "--pool", "beef", code=1)
    assert "there is no pool for task 'sorting'" in shell.run(*LADDER)
