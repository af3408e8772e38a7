"""Training that is stopped continues from its checkpoints, and comes to the same adapters."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ownlm.errors import StoreError
from ownlm.home import Home
from ownlm.oppu.fleet import Job, Run
from ownlm.oppu.state import RunState
from ownlm.store.checkpoints import CheckpointInfo, checkpoint_blobs
from ownlm.workflows import writer as background
from ownlm.workflows.report import Training
from ownlm.workflows.writer import Checkpoints
from tests.community import rows, small_home, write_rows
from tests.shell import QuickShell

SLOW = {"epochs": 4, "batch_size": 2, "learning_rate": 1e-2, "slots": 1}  # 12 steps each
USERS = ("ada", "bela")


@pytest.fixture(autouse=True)
def after_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "INTERVAL_S", 0)
    monkeypatch.setattr(background, "MOST_OF_TIME", 1)


@pytest.fixture
def home(tmp_path: Path, tiny_base: Path) -> Home:
    return small_home(tmp_path, tiny_base, *(rows(user, 6) for user in USERS))


def weights(home: Home) -> dict[str, bytes]:
    """Everybody's adapter; nothing else is left."""
    own = home.latest_adapters()
    assert not checkpoint_blobs(home.store) and home.doctor().wrong == []
    assert {one.blob for one in own.values()} == {file.stem for file in home.store.blobs.files()}
    return {user: home.store.weights(one) for (_, user), one in own.items()}


def stopped(home: Home, at: int, **settings: object) -> Training:
    """Trains until so many steps are taken."""
    report = Training()

    def on_progress(stage: str, done: float, total: float, note: str = "") -> None:
        if stage == "training steps" and done >= at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        home.train("sorting", progress=on_progress, report=report, **SLOW | settings)
    return report


def resumed(home: Home, **settings: object) -> tuple[Training, list[float]]:
    """Trains to the end; the report, and how many steps were done after each."""
    seen = list[float]()

    def on_progress(stage: str, done: float, total: float, note: str = "") -> None:
        seen.append(done)

    return home.train("sorting", progress=on_progress, **SLOW | settings), seen


HOW: dict[str, dict[str, object]] = {"lora": {}, "ia3": {"method": "ia3"}}


@pytest.mark.parametrize("how", HOW)
def test_a_stopped_run_continues_and_comes_to_the_same(home: Home, how: str) -> None:
    settings = HOW[how]
    assert not resumed(home, **settings)[0].resumed
    whole = weights(home)
    for user in USERS:
        home.forget(user)
    home.add_history(home.store.folder.parent / "people.jsonl", "sorting", again=True)
    first = stopped(home, 7, **settings)
    assert (first.trained, first.checkpointed, len(checkpoint_blobs(home.store))) == ([], 1, 1)
    assert home.doctor().wrong == [] and home.doctor().home["checkpoints"] == 1
    second = stopped(home, 17, **settings)
    assert [one.user for one in second.trained] == ["ada"] and (second.resumed, second.checkpointed) == (1, 1)
    report, seen = resumed(home, **settings)
    assert [one.user for one in report.trained] == ["bela"] and report.resumed == 1 and not report.notes
    assert seen[0] >= 3  # of 12 steps at least two were taken before
    assert len(seen) < 12 and report.trained[0].steps == 12
    assert weights(home) == whole


def interrupted_adaptation(home: Home) -> None:
    def on_progress(stage: str, done: float, total: float, note: str = "") -> None:
        if "task adapter" in stage and done >= 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        home.adapt("adapted", "sorting", progress=on_progress, **ADAPT)
    assert len(checkpoint_blobs(home.store)) == 1 and home.doctor().wrong == []


ADAPT = {"epochs": 4, "batch_size": 4, "learning_rate": 1e-2}  # 12 steps


def test_an_interrupted_adaptation_continues_and_comes_to_the_same_base(home: Home, tmp_path: Path) -> None:
    undisturbed, seen = Home(shutil.copytree(home.store.folder, tmp_path / "undisturbed")), list[float]()
    whole = undisturbed.adapt("adapted", "sorting", **ADAPT)
    interrupted_adaptation(home)
    interrupted_adaptation(home)  # the last of its steps again
    adapted = home.adapt("adapted", "sorting", progress=lambda stage, done, *_: seen.append(done), **ADAPT)
    assert min(done for done in seen if done > 1) >= 9 and adapted.fingerprint == whole.fingerprint
    assert not checkpoint_blobs(home.store) and not home.store.blobs.files()


@pytest.mark.parametrize("user", [None, "ada"])
def test_a_task_adapter_s_checkpoint_goes_with_any_record_it_learnt_from(home: Home, user: str | None) -> None:
    interrupted_adaptation(home)
    if user is None:
        home.forget_record("bela", "bela-1", task="sorting")
    else:
        home.forget(user)
    assert not checkpoint_blobs(home.store) and not home.store.blobs.files()


def damage(home: Home) -> None:
    (file,) = home.store.blobs.files()
    file.write_bytes(file.read_bytes()[:-1] + b"?")


def lose(home: Home) -> None:
    (file,) = home.store.blobs.files()
    file.unlink()


def add_record(home: Home) -> None:
    data = write_rows(home.store.folder.parent / "new.jsonl", rows("ada", 1, first=6))
    home.add_history(data, "sorting")


OUTDATED: dict[str, tuple[Callable[[Home], object], dict[str, object], str]] = {
    "damaged": (damage, {}, "damaged"),
    "lost": (lose, {}, "damaged"),
    "another seed": (lambda home: None, {"seed": 1}, "other records, settings"),
    "a new record": (add_record, {}, "other records, settings"),
}


@pytest.mark.parametrize("change", OUTDATED)
def test_what_cannot_be_continued_is_removed_with_a_word(home: Home, tmp_path: Path, change: str) -> None:
    happens, settings, said = OUTDATED[change]
    stopped(home, 7)
    happens(home)
    report = home.train("sorting", **SLOW | settings)
    (note,) = report.notes
    assert said in note and report.resumed == 0 and not report.failed
    if change in ("damaged", "lost"):
        assert [one.steps for one in report.trained] == [12, 12] and len(weights(home)) == 2


def test_a_run_with_other_versions_begins_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(home, 7)
    monkeypatch.setattr(background, "versions", lambda: {"torch": "0"})
    report = home.train("sorting", **SLOW)
    assert "another kind of machine" in report.notes[0] and report.resumed == 0 and not report.failed


@pytest.mark.parametrize("how", HOW)
def test_a_stopped_run_continues_in_another_type(home: Home, how: str) -> None:
    stopped(home, 7, **HOW[how])
    other = Home(home.store.folder, dtype="bfloat16")
    report = other.train("sorting", **SLOW | HOW[how])
    assert report.resumed == 1 and not report.notes and not report.failed
    assert {one.provenance["dtype"] for one in other.latest_adapters().values()} == {"bfloat16"}
    again = home.train("sorting", **SLOW | HOW[how])
    assert not again.trained and len(again.skipped) == 2


def test_forgotten_records_leave_no_checkpoint_even_while_they_are_learnt(home: Home) -> None:
    def on_progress(stage: str, done: float, total: float, note: str = "") -> None:
        if done == 5:
            home.forget_record("ada", "ada-3", task="sorting")

    report = home.train("sorting", progress=on_progress, **SLOW)
    assert [one.user for one in report.trained] == ["bela"] and [user for user, _ in report.failed] == ["ada"]
    assert len(weights(home)) == 1


def test_a_full_disk_is_noted_once_and_training_goes_on(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StoreError("An adapter cannot be written", hint="make room on the disk")

    monkeypatch.setattr(background, "add_checkpoints", full)
    report = home.train("sorting", **SLOW)
    assert len(report.trained) == 2 and len(report.notes) == 1 and "cannot be written" in report.notes[0]


def test_a_run_that_fails_leaves_no_checkpoint(home: Home) -> None:
    report = home.train("sorting", users=["ada"], **SLOW | {"learning_rate": 1.0, "max_grad_norm": 1e30, "epochs": 40})
    assert report.trained or [user for user, _ in report.failed] == ["ada"]
    assert not checkpoint_blobs(home.store)


def test_each_run_is_checkpointed_once_a_minute_and_a_tenth_of_the_time_at_most(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "INTERVAL_S", 60)
    monkeypatch.setattr(background, "MOST_OF_TIME", 0.1)
    now, put, writer = 0.0, list[str](), SimpleNamespace(has_time=True)
    writer.put = lambda make: put.append(make()[0].user)
    own = Checkpoints(home.store, clock=lambda: now)
    state = RunState(*(torch.zeros(2) for _ in range(4)), tokens=1, seconds=1.0)
    runs = [Run(Job(user, (), 0), [[0]] * 9) for user in USERS]
    for run in runs:
        own.resume(run.job, CheckpointInfo("sorting", "key", (), run.job.user))

    def written_at(moment: float) -> list[str]:
        nonlocal now
        now = moment
        put.clear()
        for run in runs:
            own.offer(writer, run, lambda: state)
        return list(put)

    assert written_at(59.9) == [] and written_at(60.0) == list(USERS) and written_at(61.0) == []
    own.store([(CheckpointInfo("sorting", "key", (), "ada"), b"")])  # takes no time on this clock
    writer.has_time = False
    assert written_at(120.0) == []
    writer.has_time = True
    assert written_at(120.5) == list(USERS)

    def slow(*_: object) -> list[CheckpointInfo]:
        nonlocal now
        now += 20
        return []

    monkeypatch.setattr(background, "add_checkpoints", slow)
    own.store([(CheckpointInfo("sorting", "key", (), "ada"), b"")])  # until 140.5
    assert written_at(140.5 + 179) == [] and written_at(140.5 + 180) == list(USERS)


def test_ctrl_c_says_what_is_kept(shell: QuickShell, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine, offers = Checkpoints.offer, list[str]()

    def offer(self: Checkpoints, writer: object, run: Run, state: Callable[[], RunState]) -> None:
        genuine(self, writer, run, state)  # type: ignore[arg-type]
        offers.append(run.job.user)
        if len(offers) == 4:
            raise KeyboardInterrupt

    train = ["train", "people.jsonl", "--task", "sorting.toml", "--epochs", "4", "--batch-size", "2", "--slots", "1"]
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "offer", offer)
        said = shell.run(*train, code=1)
    assert "0 adapters done and kept, and the progress of 1 user in flight up to the last minute" in said
    out, _ = shell.both(*train, "--json")
    told = json.loads(out)
    assert (told["resumed"], told["checkpointed"], told["notes"]) == (1, 0, []) and len(told["trained"]) == 3
