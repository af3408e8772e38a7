"""A dry run counts what training then does, and changes nothing."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from ownlm.errors import ConfigError, DataError, NotFoundError
from ownlm.home import Home
from ownlm.progress import silent
from ownlm.store.database import working
from tests.community import rows, small_home, write_rows
from tests.shell import Shell

FAST = {"epochs": 3, "batch_size": 4, "learning_rate": 1e-2}


@pytest.fixture
def home(tmp_path: Path, tiny_base: Path) -> Home:
    return small_home(tmp_path, tiny_base, *(rows(f"user{n}", 2 + n) for n in range(9)))


def content(home: Home) -> dict[str, bytes]:
    home.store.database.close()  # the log moves into the file
    return {str(path): path.read_bytes() for path in sorted(home.store.folder.rglob("*")) if path.is_file()}


def files(shell: Shell) -> tuple[list[str], dict[str, bytes]]:
    """The database's content, and the home's other files. SQLite moves its log into the database at any time."""
    home = shell.folder / ".ownlm"
    with closing(sqlite3.connect(home / "ownlm.db")) as db:
        lines = list(db.iterdump())
    others = (path for path in home.rglob("*") if path.is_file() and not path.name.startswith("ownlm.db"))
    return lines, {str(path): path.read_bytes() for path in others}


@pytest.mark.parametrize("tokens", [64, 2048])
@pytest.mark.parametrize("changes", [{}, {"rag": 1}, {"lora_dropout": 0.1}, {"recent": 3, "seed": 5}])
def test_what_is_counted_is_what_training_does(home: Home, changes: dict[str, object], tokens: int) -> None:
    how = {"tokens_per_step": tokens, "slots": 3, **FAST, **changes}
    home.train("sorting", users=["user1", "user2"], **how)  # type: ignore[arg-type]
    more = [*rows("user2", 9), {"user_id": "long", "id": "r", "text": "x" * 5000, "folder": "bin"}]
    home.add_history(write_rows(home.store.folder.parent / "more.jsonl", more), "sorting")
    found = home.estimate("sorting", **how)
    report = home.train("sorting", **how)  # type: ignore[arg-type]
    assert found.people == len(report.trained) == 8 and found.sampled is None
    assert found.tokens == sum(one.tokens for one in report.trained)
    assert found.steps == sum(one.steps for one in report.trained)
    assert found.bytes == sum(one.bytes for one in report.trained)
    assert found.skipped == report.skipped == [("user1", "up to date")]
    assert [(user, str(error)) for user, error in found.failed] == [(user, str(error)) for user, error in report.failed]
    assert len(found.failed) == 1 and (found.slots, found.tokens_per_step) == (3, tokens)
    assert found.seconds > 0 and found.memory_bytes > 0
    if not changes:
        assert found.examples == sum(2 + n for n in range(9) if n not in (1, 2)) + 5  # user2's new ones


def test_a_sample_stands_for_the_rest(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = home.estimate("sorting", **FAST)
    monkeypatch.setattr("ownlm.workflows.train.SAMPLE", 4)
    some = home.estimate("sorting", **FAST)
    assert some.sampled == 4 and some.people == 9 and some.bytes == whole.bytes
    assert 0.4 * whole.tokens < some.tokens < 2 * whole.tokens and some.tokens != whole.tokens
    assert home.estimate("sorting", **FAST).tokens == some.tokens  # the same sample for the same seed
    assert len({home.estimate("sorting", seed=seed, **FAST).examples for seed in range(5)}) > 1


def test_nothing_is_written_and_nobody_waited_for(home: Home) -> None:
    with working(home.store.folder, "a test", silent):
        before = content(home)
        assert home.estimate("sorting", **FAST).people == 9
        assert content(home) == before
    base = home.load(home.bases()[0])
    before = [len(module._forward_hooks) for module in base.model.modules()]
    home.estimate("sorting", **FAST)
    assert [len(module._forward_hooks) for module in base.model.modules()] == before


def test_what_cannot_be_estimated(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="LoRA"):
        home.estimate("sorting", method="ia3")
    with pytest.raises(NotFoundError, match="nobody"):
        home.estimate("sorting", users=["nobody"])
    home.train("sorting", **FAST)
    monkeypatch.setattr(Home, "load", lambda *_: pytest.fail("the base was loaded"))
    done = home.estimate("sorting", **FAST)
    assert (done.people, done.tokens, done.seconds, done.bytes) == (0, 0, 0, 0) and len(done.skipped) == 9


@pytest.mark.parametrize("more", ["nothing", "new user", "more records", "both, and known ones"])
def test_a_file_is_counted_as_if_it_had_been_added(home: Home, more: str) -> None:
    """The dry run with a file says what training with it does; the home is not written."""
    home.train("sorting", users=["user3"], **FAST)  # type: ignore[arg-type]
    one = {"id": "late", "time": "2020-01-01", "text": "a late thing", "folder": "bin"}
    lines = {
        "nothing": rows("user2", 4),  # all there already
        "new user": rows("zoe", 5),
        "more records": [one | {"user_id": "user3"}, one | {"user_id": "user4"}],
        "both, and known ones": [*rows("user2", 7), *rows("anna", 3)],
    }[more]
    file = write_rows(home.store.folder.parent / "more.jsonl", lines)
    before = content(home)
    found = home.estimate("sorting", data=file, tokens_per_step=256, **FAST)
    assert content(home) == before
    report = home.train("sorting", data=file, tokens_per_step=256, **FAST)  # type: ignore[arg-type]
    assert found.added is not None and report.added is not None
    counts = [(one.new, one.known, one.forgotten, one.task) for one in (found.added, report.added)]
    assert counts[0] == counts[1]
    assert (found.people, found.skipped) == (len(report.trained), report.skipped)
    assert found.tokens == sum(one.tokens for one in report.trained)
    assert found.steps == sum(one.steps for one in report.trained)


def test_a_dry_run_keeps_what_was_forgotten_out_and_finds_conflicts(home: Home) -> None:
    home.forget("user8")
    file = write_rows(home.store.folder.parent / "again.jsonl", rows("user8", 10))
    before = content(home)
    found = home.estimate("sorting", data=file, **FAST)
    assert found.added and found.added.forgotten == 10 and found.people == 8
    assert home.add_history(file, "sorting", dry_run=True).forgotten == 10
    assert home.add_history(file, "sorting", dry_run=True, again=True).new == 10
    changed = write_rows(home.store.folder.parent / "changed.jsonl", [rows("user1", 1)[0] | {"text": "other"}])
    for call in (
        lambda: home.estimate("sorting", data=changed),
        lambda: home.add_history(changed, "sorting", dry_run=True),
    ):
        with pytest.raises(DataError, match="another text"):
            call()
    assert content(home) == before


def test_the_silent_stretches_are_reported(home: Home) -> None:
    """Loading the base and measuring the speed are named before they begin."""
    told: list[str] = []
    home.estimate("sorting", progress=lambda stage, *_: told.append(stage), **FAST)
    assert [stage for stage in dict.fromkeys(told)] == ["loading the base", "users counted", "measuring the speed"]


def test_the_commands_with_a_file(shell: Shell) -> None:
    shell.run("history", "add", "people.jsonl", "--task", "sorting.toml")
    write_rows(shell.folder / "new.jsonl", rows("dora", 6), rows("ada", 8))
    before = files(shell)
    document = shell.json("train", "new.jsonl", "--task", "sorting", "--dry-run")
    assert document["people"] == 4 and document["added"] == {"new": 7, "known": 7, "forgotten": 0}
    assert "14 records of 2 users, 7 of them new, not added" in shell.run(
        "train", "new.jsonl", "--task", "sorting", "--dry-run"
    )
    assert "not added" in shell.run("history", "add", "new.jsonl", "--task", "sorting", "--dry-run")
    assert files(shell) == before
    assert "no task 'sorting'" in shell.run(
        "history", "add", "new.jsonl", "--task", "sorting", "--dry-run", "--home", "x", code=1
    )
    shell.run("history", "add", "new.jsonl", "--task", "sorting.toml", "--dry-run", "--home", "x")
    assert not (shell.folder / "x").exists()


def test_the_command(shell: Shell) -> None:
    shell.run("history", "add", "people.jsonl", "--task", "sorting.toml")
    ask = ("train", "--task", "sorting", "--dry-run", "--epochs", "2")
    document = shell.json(*ask)
    assert set(document) == {"people", "skipped", "failed", "examples", "tokens", "steps", "seconds", "bytes",
                             "memory_bytes", "slots", "tokens_per_step", "sampled", "added", "not_chosen"}  # fmt: skip
    assert document["people"] == 3 and document["examples"] == 14 and document["sampled"] is None
    text = shell.run(*ask)
    assert "3 adapters" in text and "nothing was trained" in text
    assert "no home" in shell.run(*ask, "--home", "elsewhere", code=1) and not (shell.folder / "elsewhere").exists()
    report = shell.json("train", "--task", "sorting", "--epochs", "2", "--slots", "2", "--tokens-per-step", "300")
    assert sum(one["tokens"] for one in report["trained"]) == document["tokens"]
    assert "skipped 3: up to date" in shell.run(*ask)
