"""`ownlm train --ladder`, as it is typed."""

from ownlm.home import Home
from tests.community import rows, write_rows
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
        "added", "anew", "assembled", "failed", "ladder", "skipped", "stale", "tokens_per_s", "trained"]  # fmt: skip
    assert [row["user"] for row in report["assembled"]] == ["bela", "ciro", "ada"]
    assert sorted(report["assembled"][0]) == [
        "bytes", "kept", "recipe", "records", "seconds", "top_sharers", "user"]  # fmt: skip
    assert sorted(row["user"] for row in report["trained"]) == ["sami", "tove", "ugo"]
    assert report["added"] == {"new": 14, "known": 0, "forgotten": 0} and report["failed"] == []

    told = shell.run(*LADDER)
    assert "2 assembled, 1 adapted, 3 own" in told and "5 to 49 records" in told
    assert "is a sharer of the pool" in told and "skipped 3: up to date" in told


def test_what_does_not_go_together_is_refused(shell: Shell) -> None:
    assert "leave one of them out" in shell.run(*LADDER, "--dry-run", code=1)
    assert "--ladder" in shell.run("train", "--task", "sorting", "--pool", "beef", code=1)
    shell.run("history", "add", "people.jsonl", "--task", "sorting.toml")
    assert "no pool beef" in shell.run(*LADDER, "--pool", "beef", code=1)
    assert "there is no pool for task 'sorting'" in shell.run(*LADDER)
