"""What `ownlm import` says to do next: a first run within minutes."""

import json
from pathlib import Path

import pytest

from ownlm.cli.imports import FEW, LEAST, SECONDS, next_step
from ownlm.importers.imported import Imported
from tests.importers.repository import Repository
from tests.shell import Shell


def imported(folder: Path, counts: list[int], length: int = 600) -> Imported:
    """An import of users with so many records, in a file of so many bytes a record."""
    file = folder / "commits.jsonl"
    with file.open("wb") as sparse:
        sparse.truncate(length * sum(counts))
    return Imported("git-commit", {f"user{n}": count for n, count in enumerate(counts)}, files=[file])


@pytest.mark.parametrize(
    ("counts", "top", "recent"),
    [
        ([40], None, None),
        ([100, 50, 3], None, None),
        ([100, 90, 80, 70, 60, *[10] * 300], 4, None),
        ([50, 40, 30, 20, 10, *[5] * 300], FEW, None),
        ([5000, 900, 800, 700, 600, *[10] * 300], FEW, 70),
        ([5000], None, 360),
        ([5000, 4000], None, 180),
    ],
)
def test_a_first_run_takes_minutes(tmp_path: Path, counts: list[int], top: int | None, recent: int | None) -> None:
    found = imported(tmp_path, counts)
    step = next_step(found, cores=2)
    assert (step.top, step.recent) == (top, recent)
    assert step.seconds <= SECONDS and step.seconds <= step.all_seconds
    assert (step.seconds == step.all_seconds) == (top is None and recent is None)
    assert next_step(found, cores=1).seconds <= SECONDS


def test_long_records_leave_fewer_users(tmp_path: Path) -> None:
    step = next_step(imported(tmp_path, [900] * 9, 6000), cores=1)
    assert step.top == 1 and step.recent == LEAST


def test_the_command_is_printed_with_its_minutes(shell: Shell) -> None:
    repository = Repository(shell.folder / "repository")
    for number in range(3):
        repository.change(f"Let it rain {'again ' * number}")
    told = shell.run("import", "git", "repository", "commits.jsonl")
    assert "Next: ownlm train --task git-commit commits.jsonl\n" in told and "--dry-run measures it" in told
    document = shell.json("import", "git", "repository", "commits.jsonl", "--keep-machine")
    assert document["next"]["command"] == "ownlm train --task git-commit commits.jsonl" and document["templates"] == {}
    busy = [json.loads((shell.folder / "commits.jsonl").read_text().splitlines()[0])["user_id"]]
    assert [row["user"] for row in shell.json("train", "commits.jsonl", "--task", "git-commit", "--top", "1",
                                              "--epochs", "1")["trained"]] == busy  # fmt: skip


def test_the_users_with_most_records_are_named_first(tmp_path: Path) -> None:
    found = imported(tmp_path, [5000, 900, 800, 700, 600, *[10] * 300])
    step = next_step(found, cores=2)
    assert step.command(found).endswith("commits.jsonl --top 5 --recent 70")
    assert step.explained(305).startswith(
        "about 14 min for the 5 users with most records and the latest 70 records of each user; "
        "for all records of 305 users, about 7.5 h (estimated from"
    )
    assert "smollm2-135m on 2 cores" in step.explained(305)
