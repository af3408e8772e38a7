"""kill -9 at random moments of sharing, withdrawing and assembling, and at each step of writing a version."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch

import ownlm.perpcs.version as version
from ownlm.errors import NotFoundError
from ownlm.home import Home
from ownlm.store.drafts import drafts
from ownlm.store.pools import users_of
from tests.forks import context
from tests.sharing import GIVERS, OTHERS, TASK, ask, everything, ids_of, pieces_of, share

TIMES = 6
LEFT = "left by a killed run"


def do_share(folder: Path) -> None:
    torch.set_num_threads(1)
    share(Home(folder), seed=2, slots=1)  # alone in a pass: what it comes to depends on nobody else by a rounding


def do_withdraw(folder: Path) -> None:
    torch.set_num_threads(1)
    with suppress(NotFoundError):  # done before it was killed
        Home(folder).pools.withdraw("gina")


def do_assemble(folder: Path) -> None:
    torch.set_num_threads(1)
    Home(folder).assemble(TASK, top_k=2, users=OTHERS)


def killed_in_version(work: Callable[[Path], None], step: int, folder: Path) -> None:
    """Kills itself in the midst of writing a version: before a file, a folder or its name is on the disk."""
    genuine, left = version.sync, [step]

    def sync(path: Path) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        genuine(path)

    version.sync = sync  # type: ignore[assignment]
    work(folder)


def run(work: Callable[[Path], None], folder: Path, after: float | None = None) -> int | None:
    """Runs it in a process of its own, killed after some seconds; returns the exit code."""
    process = context.Process(target=work, args=(folder,))
    process.start()
    process.join(after)
    process.kill()
    process.join()
    return process.exitcode


def check_whole(folder: Path) -> Home:
    """A home as a kill leaves it: it opens, and nothing is amiss that the next run does not mend."""
    home = Home(folder)
    assert all(LEFT in finding.what for finding in home.doctor().wrong)
    digests = {one.digest for one in home.pools.ls()}
    for one in home.adapters():
        assert one.stale or one.pool in digests
    people = users_of(home.store)
    assert all(set(users_of(home.store, pool=digest)) <= people.keys() for digest in digests)
    assert all(one.answer or one.adapter is None for one in ask(home, *OTHERS))
    return home


def kill_at_random(work: Callable[[Path], None], before: Path, seed: int, check: Callable[[Home], None]) -> None:
    """Copies of a home on which `work` is killed at random moments, looked at, and done again."""
    moments, hits, duration = random.Random(seed), 0, 0.0
    for _ in range(2):  # the first time also waits for the server of forks
        folder = shutil.copytree(before, before.with_name("undisturbed"))
        started = time.perf_counter()
        assert run(work, folder) == 0
        duration = time.perf_counter() - started
        check(Home(folder))
        shutil.rmtree(folder)
    for number in range(4 * TIMES):
        if hits == TIMES:
            return
        folder = shutil.copytree(before, before.with_name(f"killed{number}"))
        hits += run(work, folder, moments.uniform(0, duration)) == -signal.SIGKILL
        check_whole(folder).store.database.close()
        work(folder)
        check(Home(folder))
        shutil.rmtree(folder)
    raise AssertionError(f"of {4 * TIMES} shots only {hits} hit")


def check_shared(home: Home) -> None:
    assert not home.doctor().wrong
    assert {frozenset(users_of(home.store, pool=one.digest).values()) for one in home.pools.ls()} == {frozenset(GIVERS)}
    assert len(list((home.store.folder / "pools").iterdir())) == len(home.pools.ls())
    assert {one.version for one in home.pools.ls()} <= {1}


def check_withdrawn(home: Home) -> None:
    (info,) = home.pools.ls()
    assert info.version == 2 and sorted(users_of(home.store).values()) == sorted(GIVERS[1:])
    assert not ids_of(home, ["gina"]) and len(list((home.store.folder / "pools").iterdir())) == 1
    home.assemble(TASK, users=OTHERS)  # who was not assembled again
    assert not home.doctor().wrong and {one.pool for one in home.latest_adapters().values()} == {info.digest}


def check_assembled(home: Home) -> None:
    assert not home.doctor().wrong and [len(home.adapters(user)) for user in OTHERS] == [1, 1, 1]


def assert_same_pieces(home: Home, other: Home) -> None:
    """The newest pools of two homes are made of the same pieces, bit for bit."""
    ours, theirs = (pieces_of(one, one.pools.open()[1]) for one in (home, other))
    assert ours.keys() == theirs.keys() and set(ours) == set(GIVERS)
    for user, own in ours.items():
        assert own.keys() == theirs[user].keys()
        for name, piece in own.items():
            for part in ("A_RD", "B_OR", "gate_D"):
                assert torch.equal(getattr(piece, part), getattr(theirs[user][name], part)), (user, name, part)


@pytest.fixture
def before(shared: Home) -> Path:
    shared.store.database.close()
    return shared.store.folder


@pytest.fixture
def undisturbed(before: Path) -> Home:
    """The home after sharing again, not disturbed."""
    folder = shutil.copytree(before, before.with_name("in_peace"))
    assert run(do_share, folder) == 0
    return Home(folder)


def test_sharing(before: Path, undisturbed: Home) -> None:
    def check(home: Home) -> None:
        check_shared(home)
        assert len(drafts(home.store)) == 2 * len(GIVERS)
        assert_same_pieces(home, undisturbed)

    kill_at_random(do_share, before, 1, check)


@pytest.mark.parametrize("kept", [1, 4, 6])
def test_what_was_trained_before_the_kill_is_not_trained_again(before: Path, undisturbed: Home, kept: int) -> None:
    assert run(partial(killed_once_kept, kept), before) == -signal.SIGKILL
    home, seed_2 = check_whole(before), {one.key for one in drafts(undisturbed.store)}
    there = [one for one in drafts(home.store) if one.key in seed_2]
    adapters = sum(one.kind == "adapter" for one in there)
    assert len(there) >= kept and len(home.pools.ls()) == 1
    torch.set_num_threads(1)
    made = share(home, seed=2, slots=1)
    assert (made.adapters.there, made.gates.there) == (adapters, len(there) - adapters)
    assert made.adapters.trained + made.gates.trained == 2 * len(GIVERS) - len(there)
    check_shared(home)
    assert_same_pieces(home, undisturbed)


def killed_once_kept(count: int, folder: Path) -> None:
    """Kills itself while it shares, as soon as so many drafts are kept."""
    import ownlm.workflows.pools.share as verb

    genuine, left = verb.add_drafts, [count]

    def counted(*args: object) -> object:
        outcome = genuine(*args)  # type: ignore[arg-type]
        left[0] -= len(outcome)
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome

    verb.add_drafts = counted  # type: ignore[assignment]
    do_share(folder)


def test_withdrawing(before: Path) -> None:
    home = Home(before)
    home.assemble(TASK)
    home.store.database.close()
    kill_at_random(do_withdraw, before, 2, check_withdrawn)


def test_assembling(before: Path) -> None:
    kill_at_random(do_assemble, before, 3, check_assembled)


@pytest.mark.parametrize(("work", "check"), [(do_share, check_shared), (do_withdraw, check_withdrawn)])
def test_at_each_step_of_writing_a_version(
    before: Path, work: Callable[[Path], None], check: Callable[[Home], None]
) -> None:
    home = Home(before)
    home.assemble(TASK)
    pools, recipes = everything(before / "pools"), {one.id: one.recipe for one in home.adapters()}
    steps = len(home.pools.open()[1].modules) + 3  # its files with pool.json, the folder, its name
    home.store.database.close()
    for step in (1, 2, steps // 2, steps - 1, steps):
        folder = shutil.copytree(before, before.with_name(f"step{step}"))
        assert run(partial(killed_in_version, work, step), folder) == -signal.SIGKILL
        home = check_whole(folder)
        assert any(LEFT in finding.what for finding in home.doctor().wrong)  # the version that nothing names
        assert {one.id: one.recipe for one in home.adapters()} == recipes
        assert pools.items() <= everything(folder / "pools").items()
        home.store.database.close()
        work(folder)
        check(Home(folder))
        shutil.rmtree(folder)


def test_what_was_assembled_before_the_kill_is_kept(before: Path) -> None:
    assert run(killed_after_one, before) == -signal.SIGKILL
    home = check_whole(before)
    (kept,) = home.adapters()
    report = home.assemble(TASK, top_k=2, users=OTHERS)
    assert [one.user for one in report.assembled] == [user for user in OTHERS if user != kept.user]
    assert home.adapters(kept.user) == [kept] and not home.doctor().wrong


def killed_after_one(folder: Path) -> None:
    import ownlm.workflows.assemble as verb

    genuine = verb.assemble

    def one_by_one(*args: object, **more: object):  # type: ignore[no-untyped-def]
        for number, one in enumerate(genuine(*args, **more)):  # type: ignore[arg-type]
            if number == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            yield one

    verb.assemble = one_by_one  # type: ignore[assignment]
    do_assemble(folder)
