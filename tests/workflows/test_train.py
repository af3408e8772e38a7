"""Training as a stream: what is in memory does not grow with the number of people."""

import sys
import time
import weakref
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from ownlm.errors import NotFoundError, StoreError
from ownlm.history.record import History, Record
from ownlm.home import Home
from ownlm.oppu.fleet import Job, Run
from ownlm.oppu.minibatches import minibatches
from ownlm.store.rows import AdapterInfo
from ownlm.workflows.report import Trained, Training
from ownlm.workflows.train import Meter
from tests.community import rows, small_home

FAST = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2}
MANY, AT_A_TIME = 300, 32


@pytest.fixture
def home(tmp_path: Path, tiny_base: Path) -> Home:
    return small_home(tmp_path, tiny_base, rows("ada", 5), rows("bela", 3))


def add_many(home: Home) -> None:
    people = (f"user{n:04}" for n in range(MANY))
    one = {"text": "a thing", "folder": "bin"}
    home.store.add_records("sorting", [History(user, (Record(user, "1", one),)) for user in people])


class CountedJob(Job):  # no slots, so it can be referred to weakly
    alive = most = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        CountedJob.alive += 1
        CountedJob.most = max(CountedJob.most, CountedJob.alive)
        weakref.finalize(self, CountedJob.gone)

    @classmethod
    def gone(cls) -> None:
        cls.alive -= 1


def quick_fleet(base: Any, jobs: Iterator[Job], config: Any, *, slots: int, **_: Any) -> Iterator[Run]:
    """As many people in flight as the fleet has, and fresh weights for everybody."""
    import torch

    from ownlm.model.bank import LoraBank

    bank, flying = LoraBank(base.model, config.lora, 1), list[Job]()
    while flying := [*flying, *islice(jobs, slots - len(flying))]:
        job = flying.pop(0)
        generator = torch.Generator().manual_seed(1)
        bank.initialise(0, generator)
        run = Run(job, minibatches(len(job.examples), config, generator), 2, [2.0, 1.0], 7)
        run.adapter = bank.read(0)
        del job
        yield run


def test_of_a_long_stream_few_are_in_memory(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    add_many(home)
    monkeypatch.setattr("ownlm.workflows.selection.PAGE", AT_A_TIME)
    monkeypatch.setattr("ownlm.workflows.selection.Job", CountedJob)
    monkeypatch.setattr("ownlm.workflows.train.train_fleet", quick_fleet)
    genuine, batches = home.store.add_adapters, list[int]()

    def slow_at_first(made: list[tuple[AdapterInfo, bytes]]) -> list[NotFoundError | None]:
        batches.append(len(made))
        time.sleep(0.3 if len(batches) < 6 else 0)  # meanwhile many more could be trained
        return genuine(made)

    monkeypatch.setattr(home.store, "add_adapters", slow_at_first)
    report = home.train("sorting", slots=8, **FAST)
    assert len(report.trained) == MANY + 2 and not report.failed and not report.skipped
    assert 8 <= CountedJob.most <= 8 + 3  # in flight and in between; adapters that wait to be stored hold no examples
    again = home.train("sorting", **FAST)
    assert len(again.skipped) == MANY + 2 and not again.trained
    everybody = [user for user, _ in again.skipped]
    assert everybody == sorted(everybody) and len(set(everybody)) == MANY + 2 > 7 * AT_A_TIME


def test_the_meter_counts_steps_and_tokens_and_never_passes_its_total() -> None:
    told = list[tuple[float, float]]()
    meter = Meter(lambda stage, done, total, note="": told.append((done, total)), "steps", 3)
    run = Run(Job("ada", [], 0), [[0]])
    for runs in ([run], [run, run], [run]):  # the total is only about right
        meter.on_step(runs, 10)
    assert told == [(1, 3), (3, 3), (3, 3)] and meter.tokens == 30


def test_a_report_is_light(home: Home) -> None:
    report = home.train("sorting", **FAST)
    for one in report.trained:
        (kept,) = home.adapters(one.user)
        assert Trained.of(kept) == one
        values = [getattr(one, name) for name in Trained.__slots__]
        assert sys.getsizeof(one) + sum(sys.getsizeof(value) for value in values) < 700
    failed = home.train("sorting", since="2020", **FAST).failed
    assert len(failed) == 2
    assert all(error.__traceback__ is None and error.__context__ is None for _, error in failed)


def test_the_base_is_loaded_only_if_somebody_is_trained(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.train("sorting", **FAST)
    monkeypatch.setattr(Home, "load", lambda *_: pytest.fail("the base was loaded"))
    assert [why for _, why in home.train("sorting", **FAST).skipped] == ["up to date"] * 2


def test_who_was_stored_is_in_the_report_when_ctrl_c_comes(home: Home) -> None:
    report = Training()

    def on_progress(stage: str, done: float, total: float, note: str = "") -> None:
        if stage == "training steps" and done >= 3:  # one of two is done, the other in flight
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        home.train("sorting", slots=1, progress=on_progress, report=report, **FAST | {"batch_size": 8})
    assert [one.user for one in report.trained] == ["ada"] == [one.user for one in home.adapters()]
    assert [one.user for one in home.train("sorting", **FAST | {"batch_size": 8}).trained] == ["bela"]


def test_a_full_disk_ends_training_and_what_is_done_is_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    report, genuine = Training(), home.store.blobs.put

    def full(contents: Iterator[bytes]) -> list[str]:
        if home.adapters():
            raise StoreError("An adapter cannot be written", hint="make room on the disk")
        return genuine(contents)

    monkeypatch.setattr(home.store.blobs, "put", full)
    with pytest.raises(StoreError, match="make room"):
        home.train("sorting", slots=1, report=report, **FAST)
    assert [one.user for one in report.trained] == ["ada"] == [one.user for one in home.adapters()]
    assert not home.doctor().wrong
