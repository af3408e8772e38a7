"""A few people on a tiny base, asked by methods."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ownlm.bench.case import Case
from ownlm.bench.data import SetData
from ownlm.bench.methods import METHODS
from ownlm.history.record import History, Query, Record
from ownlm.history.task import Task, load_task
from tests.community import FOLDERS, rows, write_task
from tests.inference.test_peft_adapters import make_attentive

TARGETS = {"kara": 7, "luca": 6, "mona": 8}
SHARERS = {"gina": 14, "hugo": 13, "ines": 12, "jens": 11}
OUTSIDERS = {"olga": 5, "piet": 4}
WORDS = ["kara", "luca", "mona", "rain", "secret3", "secret5", "said", "of", "the", "bus"]

TRAIN = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2}
SHARE = {
    "select": "active", "sharers": 4, "steps": 6, "gate_steps": 4, "batch_size": 4, "learning_rate": 3e-2,
    "gate_learning_rate": 1e-2,
}  # fmt: skip


def make_case(tiny_base: Path, folder: Path) -> Case:
    """A case on the tiny base, with larger weights."""
    task = load_task(write_task(folder))
    data = SetData(
        "sorting", task, histories(TARGETS, 0), queries(6), histories(SHARERS, 1), histories(OUTSIDERS, 2)
    )  # fmt: skip
    source = make_attentive(tiny_base, folder / "attentive")
    return Case(folder / "out", data, str(source), adapt={"epochs": 1, "batch_size": 4, "learning_rate": 1e-3})


def histories(counts: dict[str, int], shift: int) -> dict[str, History]:
    """Records in which everybody has a favourite folder of their own."""
    return {user: history(user, count, (place + shift) % 3) for place, (user, count) in enumerate(counts.items())}


def history(user: str, count: int, favourite: int) -> History:
    """Every second record has one answer; what they say is their own."""
    records = []
    for place, row in enumerate(rows(user, count)):
        answer = FOLDERS[favourite] if place % 2 else row["folder"]
        records.append(Record(user, row["id"], {"text": row["text"], "folder": answer}, row["time"]))
    return History(user, tuple(records))


def queries(each: int) -> tuple[Query, ...]:
    """Everybody's, in turn."""
    return tuple(
        Query(user, f"q{n}", {"text": f"{user} {WORDS[n % len(WORDS)]} secret{n + 4} {WORDS[-1 - n]}"}, gold="home")
        for n in range(each)
        for user in TARGETS
    )


def ask(case: Case, name: str, some: Sequence[Query] | None = None, /, **settings: Any) -> list[str]:
    """What a method answers."""
    return list(METHODS[name].make(case, **settings).answer(case.data.queries if some is None else some))


def with_task(case: Case, **changes: Any) -> Case:
    """The same people on another task."""
    task = Task.model_validate(case.task.model_dump() | changes)
    return replace(case, data=replace(case.data, task=task))
