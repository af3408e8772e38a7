"""Writing pools: whatever the order, whole or not at all, and without those who leave."""

import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from ownlm.errors import PoolError, StoreError
from ownlm.perpcs.manifest import FILE
from ownlm.perpcs.piece import Piece
from ownlm.perpcs.pool import Pool, open_pool
from ownlm.perpcs.version import without
from tests.forks import context
from tests.perpcs.pools import SHAPES, SHARERS, Given, make_pool, random_pieces

TIMES = 12
Q, V = SHAPES
MANY = {f"layers.{n}.q_proj": (64, 64) for n in range(20)}


@pytest.fixture
def given() -> Given:
    return random_pieces()


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def all_bytes(pool: Pool) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(pool.folder.iterdir()))


def same(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_neither_order_of_sharers_matters(tmp_path: Path, given: Given) -> None:
    one = make_pool(tmp_path / "one", given)
    turned = {name: dict(reversed(own.items())) for name, own in given.items()}
    other = make_pool(tmp_path / "other", turned, SHARERS[1:] + SHARERS[:1])
    assert one.manifest.modules == other.manifest.modules  # hashes too
    for name in one.modules:
        for place in range(3):
            assert one.sharer(name, place) == other.sharer(name, place)
            assert same(one.piece(name, place), other.piece(name, place))


def test_a_module_can_have_pieces_of_some_or_none(tmp_path: Path, given: Given) -> None:
    some = {
        Q: {SHARERS[0]: given[Q][SHARERS[0]], SHARERS[2]: given[Q][SHARERS[2]]},
        V: {SHARERS[1]: given[V][SHARERS[1]]},
    }
    pool = make_pool(tmp_path / "some", some)
    assert [entry.sharers for entry in pool.manifest.modules] == [(0, 2), (1,)]
    assert pool.sharer(Q, 1) == SHARERS[2] and pool.gates(Q).shape == (2, 4)
    assert torch.equal(pool.piece(Q, 1)[0], given[Q][SHARERS[2]].A_RD)
    with pytest.raises(PoolError, match="no such piece"):
        pool.piece(V, 1)
    none = {Q: {}, V: given[V]}
    with pytest.raises(PoolError, match=f"No sharer gives a piece of '{Q}'"):
        make_pool(tmp_path / "none", none)
    pool = make_pool(tmp_path / "none", none, shapes=SHAPES)
    assert pool.shape(Q) == (3, 4) and pool.gates(Q).shape == (0, 4)
    assert [part.shape for part in pool.whole(Q)] == [(0, 2, 4), (0, 3, 2), (0, 4)]


def test_pieces_of_other_types_become_float32(tmp_path: Path, given: Given) -> None:
    own = given[Q][SHARERS[0]]
    given[Q][SHARERS[0]] = Piece(own.A_RD.double(), own.B_OR.double().requires_grad_(), own.gate_D.double())
    assert same(make_pool(tmp_path / "pool", given).piece(Q, 0), (own.A_RD, own.B_OR))


def test_what_does_not_go_together_leaves_nothing(tmp_path: Path, given: Given) -> None:
    own = given[Q][SHARERS[0]]
    square = torch.zeros(3, 3)
    for changes, complaint in [
        ({"pieces": [("../x", [])]}, "Invalid module name"),
        ({"pieces": [("a/b", list(given[Q].items()))]}, "Invalid module name"),
        ({"pieces": [(Q, list(given[Q].items()))] * 2}, "each module comes once"),
        ({"pieces": [(Q, [("00000000000000dd", own)])]}, "a sharer who is not listed"),
        ({"pieces": [(Q, [(SHARERS[0], own)] * 2)]}, "ascending places"),
        ({"pieces": [(Q, [(SHARERS[0], own)])]}, "at least one piece"),
        (
            {"pieces": [(Q, [(SHARERS[0], Piece(square, own.B_OR, own.gate_D))])]},
            f"{SHARERS[0]} gives has another shape",
        ),
        ({"pieces": [(Q, [(SHARERS[0], Piece(own.A_RD, square, own.gate_D))])]}, "another shape"),
        ({"pieces": [(Q, [(SHARERS[0], Piece(own.A_RD, own.B_OR, square[0]))])]}, "another shape"),
        ({"shapes": {Q: (3, 5)}}, "another shape"),
        ({"pieces": []}, "modules"),
        ({"sharers": []}, "a sharer who is not listed"),
        ({"sharers": [*SHARERS, SHARERS[0]]}, "each once"),
        ({"version": 0}, "version"),
        ({"licence": ""}, "licence"),
        ({"provenance": {"seed": float("nan")}}, "JSON"),
        ({"provenance": {"seed": object()}}, "JSON"),
        ({"provenance": {2: 0, 10: 0}}, "provenance"),
        ({"provenance": {"by": {2: 0, 10: 0}}}, "not what was written"),
    ]:
        with pytest.raises(PoolError, match=complaint):
            make_pool(tmp_path / "pool", given, **changes)
        assert left_in(tmp_path) == []
    with pytest.raises(PoolError, match="pattern"):
        make_pool(tmp_path / "pool", random_pieces(sharers=["ada"]), ["ada"])
    assert left_in(tmp_path) == []


def loose_folders(parent: Path) -> list[Path]:
    """What a killed writer leaves; the home sweeps it."""
    return list(parent.glob(".pool-*"))


def test_a_failure_leaves_nothing(tmp_path: Path, given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted():
        yield Q, list(given[Q].items())
        assert len(loose_folders(tmp_path)) == 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_pool(tmp_path / "pool", given, pieces=interrupted())
    assert left_in(tmp_path) == []

    def lost():
        yield Q, list(given[Q].items())
        raise StoreError("An adapter is damaged")

    with pytest.raises(StoreError, match="An adapter is damaged"):  # and not: the pool cannot be written
        make_pool(tmp_path / "pool", given, pieces=lost())
    assert left_in(tmp_path) == []

    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(StoreError, match="No space left"):
            make_pool(tmp_path / "pool", given)
    assert left_in(tmp_path) == []


def test_a_version_is_never_overwritten(tmp_path: Path, given: Given) -> None:
    pool = make_pool(tmp_path / "pool", given)
    before = all_bytes(pool)
    (tmp_path / "empty").mkdir()
    for folder in (pool.folder, tmp_path / "empty"):
        with pytest.raises(PoolError, match="exists"):
            make_pool(folder, random_pieces(scale=2))
    assert all_bytes(pool) == before and left_in(tmp_path) == ["empty", "pool"]


def test_without_a_sharer(tmp_path: Path, given: Given) -> None:
    gone, stays = SHARERS[1], (SHARERS[0], SHARERS[2])
    pool = make_pool(tmp_path / "pool", given)
    before = all_bytes(pool)
    left = without(pool, {gone}, tmp_path / "next")
    assert (left.manifest.version, left.manifest.parent, left.manifest.sharers) == (2, pool.digest, stays)
    assert left.manifest.model_dump(exclude={"version", "parent", "sharers", "modules", "created"}) == (
        pool.manifest.model_dump(exclude={"version", "parent", "sharers", "modules", "created"})
    )
    for name in pool.modules:
        A_NRD, B_NOR, gate_ND = left.whole(name)
        for place, sharer in enumerate(stays):
            own = given[name][sharer]
            assert left.sharer(name, place) == sharer
            assert same((A_NRD[place], B_NOR[place], gate_ND[place]), (own.A_RD, own.B_OR, own.gate_D))
        own = given[name][gone]
        for row in (*own.A_RD, *own.B_OR, own.gate_D):
            assert row.numpy().tobytes() not in all_bytes(left)
    assert gone.encode() not in all_bytes(left) and gone.encode() in before
    assert all_bytes(pool) == before and left_in(tmp_path) == ["next", "pool"]
    last = without(left, [stays[1]], tmp_path / "last")
    assert (last.manifest.version, last.manifest.parent, last.manifest.sharers) == (3, left.digest, stays[:1])


def test_the_only_sharer_of_a_module_can_leave(tmp_path: Path, given: Given) -> None:
    pool = make_pool(tmp_path / "pool", {Q: {SHARERS[1]: given[Q][SHARERS[1]]}, V: given[V]})
    left = without(pool, [SHARERS[1]], tmp_path / "next")
    assert left.modules == pool.modules and left.shape(Q) == (3, 4) and len(left.gates(Q)) == 0
    assert [entry.sharers for entry in left.manifest.modules] == [(), (0, 1)]
    assert torch.equal(left.piece(V, 1)[1], given[V][SHARERS[2]].B_OR)


def test_who_cannot_leave(tmp_path: Path, given: Given) -> None:
    pool = make_pool(tmp_path / "pool", given)
    with pytest.raises(PoolError, match="No sharer would be left"):
        without(pool, SHARERS, tmp_path / "next")
    with pytest.raises(PoolError, match="no such sharer"):
        without(pool, ["00000000000000dd"], tmp_path / "next")
    path = pool.folder / f"{V}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")  # damaged since it was opened
    with pytest.raises(PoolError, match=V):
        without(pool, SHARERS[:1], tmp_path / "next")
    assert left_in(tmp_path) == ["pool"]


def write_many(folder: Path) -> None:
    make_pool(folder, random_pieces(MANY))


def leave_many(folder: Path) -> None:
    without(open_pool(folder.with_name("before")), SHARERS[:1], folder)


@pytest.mark.parametrize("work", [write_many, leave_many])
def test_killed_writers(tmp_path: Path, work) -> None:
    moments, hits, loose, duration = random.Random(1), 0, 0, 0.0
    write_many(tmp_path / "before")
    for _ in range(2):  # the first time also waits for the server of forks
        shutil.rmtree(tmp_path / "pool", ignore_errors=True)
        started = time.perf_counter()
        process = context.Process(target=work, args=(tmp_path / "pool",))
        process.start()
        process.join()
        duration = time.perf_counter() - started
        assert process.exitcode == 0
    expected = open_pool(tmp_path / "pool").manifest.modules
    for _ in range(4 * TIMES):
        shutil.rmtree(tmp_path / "pool", ignore_errors=True)
        process = context.Process(target=work, args=(tmp_path / "pool",))
        process.start()
        process.join(moments.uniform(0, duration))
        process.kill()
        process.join()
        hits += process.exitcode == -signal.SIGKILL
        loose += len(loose_folders(tmp_path))
        if (tmp_path / "pool").exists():
            assert open_pool(tmp_path / "pool").manifest.modules == expected
        for folder in loose_folders(tmp_path):
            shutil.rmtree(folder)
        assert left_in(tmp_path) in (["before"], ["before", "pool"])
        if hits >= TIMES:
            break
    assert hits >= TIMES and loose <= hits  # as a rule some are hit while they write
    shutil.rmtree(tmp_path / "pool", ignore_errors=True)
    work(tmp_path / "pool")
    assert (tmp_path / "pool" / FILE).is_file()
