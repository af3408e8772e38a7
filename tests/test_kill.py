"""kill -9 at random moments of adding, training and forgetting, each followed by the same call again."""

import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch

from ownlm.config import LoraConfig
from ownlm.errors import NotFoundError
from ownlm.home import Home
from ownlm.model.adapter import Adapter
from ownlm.store.rows import AdapterInfo
from ownlm.store.store import Store
from ownlm.workflows import writer
from tests.community import rows, small_home, write_rows
from tests.forks import context

TIMES = 20
USERS = [f"zoe{n}" for n in range(6)]


def add(folder: Path, data: Path, task: Path) -> None:
    Home(folder).add_history(data, str(task))


def train(folder: Path) -> None:
    torch.set_num_threads(1)
    Home(folder).train("sorting", epochs=2, batch_size=2, learning_rate=1e-2, slots=2)


def train_with_checkpoints(folder: Path) -> None:
    """One user's training, checkpointed after each step: it continues in the midst."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "INTERVAL_S", 0)
        patch.setattr(writer, "MOST_OF_TIME", 1)
        Home(folder).train("sorting", users=USERS[:1], epochs=8, batch_size=2, learning_rate=1e-2)


def train_together(folder: Path) -> None:
    """All are done at the same moment, so that several adapters come into one transaction."""
    torch.set_num_threads(1)
    Home(folder).train("sorting", epochs=1, batch_size=2, learning_rate=1e-2, slots=len(USERS))


def forget(folder: Path) -> None:
    Home(folder).forget(USERS[0])


def kill_at_random(work: Callable[[Path], None], before: Path, seed: int, times: int = TIMES) -> Home:
    """Copies of a home on which `work` is killed at random moments and then done, against one that is left in peace."""
    undisturbed, moments, hits = before.with_name("undisturbed"), random.Random(seed), 0
    shutil.copytree(before, undisturbed)
    process = begun(work, undisturbed)
    started = time.perf_counter()
    process.join()
    duration = time.perf_counter() - started
    assert process.exitcode == 0
    for number in range(4 * times):
        if hits == times:
            return Home(undisturbed)
        folder = before.with_name(f"killed{number}")
        shutil.copytree(before, folder)
        process = begun(work, folder)
        process.join(moments.uniform(0, duration))
        process.kill()
        process.join()
        hits += process.exitcode == -signal.SIGKILL
        try:
            work(folder)
        except NotFoundError:
            assert work is forget  # what was to be forgotten is forgotten already
        compare(Home(undisturbed), Home(folder))
        shutil.rmtree(folder)
    raise AssertionError(f"of {4 * times} shots only {hits} hit")


def begun(work: Callable[[Path], None], folder: Path) -> BaseProcess:
    """A process in which the work has begun: none of its start-up is left to kill."""
    begins = context.Event()
    process = context.Process(target=begin, args=(begins, work, folder))
    process.start()
    begins.wait()
    return process


def begin(begins: Event, work: Callable[[Path], None], folder: Path) -> None:
    begins.set()
    work(folder)


def compare(undisturbed: Home, killed: Home) -> None:
    """The same end state, and a clean bill of health."""
    assert killed.doctor().wrong == []
    assert killed.histories() == undisturbed.histories()
    one, other = undisturbed.latest_adapters(), killed.latest_adapters()
    assert one.keys() == other.keys() and len(killed.adapters()) == len(undisturbed.adapters())
    for place, adapter in one.items():
        again = other[place]
        assert (adapter.key, adapter.history, adapter.steps) == (again.key, again.history, again.steps)
        ours, theirs = (
            Adapter.from_bytes(home.store.blobs.get(info.blob), LoraConfig.model_validate(info.shape))
            for home, info in ((undisturbed, adapter), (killed, again))
        )
        for name, pair in ours.pairs.items():
            torch.testing.assert_close(pair.B_OR, theirs.pairs[name].B_OR, atol=1e-5, rtol=1e-3)
    assert len(killed.store.blobs.files()) == len(undisturbed.store.blobs.files())
    assert not [path for path in killed.store.folder.iterdir() if path.name.startswith(".ownlm")]


@pytest.fixture
def home(tmp_path: Path, tiny_base: Path) -> Path:
    home = small_home(tmp_path, tiny_base, *(rows(user, 5) for user in USERS))
    home.store.database.close()
    return tmp_path / "home"


def test_adding(home: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "many.jsonl", *(rows(f"new{n}", 100) for n in range(20)))
    done = kill_at_random(partial(add, data=data, task=tmp_path / "sorting.toml"), home, seed=1)
    assert len(done.histories()) == 26


def test_training(home: Path) -> None:
    done = kill_at_random(train, home, seed=2)
    assert len(done.adapters()) == 6


def test_training_with_checkpoints(home: Path) -> None:
    done = kill_at_random(train_with_checkpoints, home, seed=5, times=3)
    assert len(done.adapters()) == 1 and done.adapters()[0].steps == 24


def test_training_together(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = home.with_name("together")
    shutil.copytree(home, together)
    genuine, batches = Store.add_adapters, list[int]()

    def add_slowly(store: Store, adapters: list[tuple[AdapterInfo, bytes]]) -> list[NotFoundError | None]:
        batches.append(len(adapters))
        time.sleep(0.2)
        return genuine(store, adapters)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "add_adapters", add_slowly)
        train_together(together)
    assert max(batches) > 1 and sum(batches) == len(USERS)
    done = kill_at_random(train_together, home, seed=4)
    assert len(done.adapters()) == len(USERS)


def test_forgetting(home: Path) -> None:
    train(home)
    done = kill_at_random(forget, home, seed=3)
    assert sorted(p.user for p in done.histories()) == USERS[1:]
    content = b"".join(path.read_bytes() for path in done.store.folder.rglob("*") if path.is_file())
    assert USERS[0].encode() not in content and USERS[1].encode() in content
