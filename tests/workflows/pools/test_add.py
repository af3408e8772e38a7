"""Pools taken in, looked at and removed: what is not fit stays outside, what is damaged is seen."""

import shutil
from pathlib import Path

import pytest
import torch
from sqlalchemy import update

from ownlm.errors import NotFoundError, PoolError, StoreError
from ownlm.home import Home
from ownlm.model.bases.random_base import make_random_base
from ownlm.perpcs.piece import Piece
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.version import copy_pool, without
from ownlm.store import tables
from ownlm.store.pools import users_of
from ownlm.workflows.pools.lineage import signing_key
from tests.community import rows, small_home
from tests.perpcs.pools import write
from tests.sharing import GIVERS, OTHERS, TASK, ask, everything, ids_of, share


@pytest.fixture
def published(shared: Home, tmp_path: Path) -> Pool:
    """A copy of the pool, as others get it."""
    return copy_pool(shared.pools.open()[1], tmp_path / "published")


@pytest.fixture
def stranger(tmp_path: Path, tiny_base: Path) -> Home:
    """Another home, with the same base and two people."""
    (tmp_path / "stranger").mkdir()
    return small_home(tmp_path / "stranger", tiny_base, rows("xena", 6), rows("yuri", 5))


def rewritten(pool: Pool, folder: Path, change: dict[str, torch.Tensor], **settings: object) -> Pool:
    """The pool with parts of the first sharer's first piece changed, or with other settings."""

    def pieces():  # type: ignore[no-untyped-def]
        for number, name in enumerate(pool.modules):
            own = []
            for place, gate_D in enumerate(pool.gates(name)):
                piece = Piece(*pool.piece(name, place), gate_D)
                if change and number == place == 0:
                    piece = Piece(**{"A_RD": piece.A_RD, "B_OR": piece.B_OR, "gate_D": piece.gate_D} | change)
                own.append((pool.sharer(name, place), piece))
            yield name, own

    manifest = pool.manifest
    same = {
        "version": 1, "parent": None, "base_fingerprint": manifest.base_fingerprint, "lora": pool.lora,
        "licence": manifest.licence, "provenance": manifest.provenance, "sharers": manifest.sharers,
        "pieces": pieces(),
    }  # fmt: skip
    return write(folder, same | settings)


# From outside


def test_a_pool_of_others_is_taken_in_once_and_assembled_from(stranger: Home, published: Pool) -> None:
    info = stranger.pools.add(published.folder, TASK)
    assert (info.digest, info.own, info.base, info.sharers) == (published.digest, False, "tiny", 4)
    assert Path(info.folder).parent == stranger.store.folder / "pools" and users_of(stranger.store) == {}
    for again in (published.folder, Path(info.folder)):
        with pytest.raises(StoreError, match="already"):
            stranger.pools.add(again, TASK)
    assert len(list((stranger.store.folder / "pools").iterdir())) == len(stranger.pools.ls()) == 1
    shutil.rmtree(published.folder)  # the home has a copy
    report = stranger.assemble(TASK)
    assert [one.user for one in report.assembled] == ["xena", "yuri"]
    assert all(one.answer and one.adapter for one in ask(stranger, "xena", "yuri")) and not stranger.doctor().wrong


def test_a_foreign_sharer_is_withdrawn_by_their_id_for_good(
    stranger: Home, shared: Home, published: Pool, tmp_path: Path
) -> None:
    stranger.pools.add(published.folder, TASK)
    report = stranger.assemble(TASK)
    gone = report.assembled[0].top_sharers[0][0]
    done = stranger.pools.withdraw(gone)
    assert done.sharers == [gone] and "xena" in done.affected and done.again.failed == done.again.stale == []
    (info,) = stranger.pools.ls()
    assert (info.version, info.parent, info.sharers, info.own) == (2, published.digest, 3, False)
    assert all(gone not in dict(one.top_sharers) for one in done.again.assembled)
    assert not any(gone.encode() in data for data in everything(stranger.store.folder).values())
    with pytest.raises(NotFoundError, match="No pool of the home has pieces"):
        stranger.pools.withdraw(gone)
    with pytest.raises(PoolError, match=r"withdrawn here.*a version of it without them"):
        stranger.pools.add(published.folder, TASK)  # an old copy does not bring them back
    key = signing_key(shared.store)
    other = without(published, [gone, info_sharers(stranger)[0]], tmp_path / "newer", key, published.manifest.line)
    assert stranger.pools.add(other.folder, TASK).sharers == 2


def info_sharers(home: Home) -> tuple[str, ...]:
    return home.pools.open()[1].manifest.sharers


def test_an_own_pool_that_was_published_brings_nobody_back(shared: Home, published: Pool) -> None:
    shared.pools.withdraw("hugo")
    with pytest.raises(PoolError, match="withdrawn here"):
        shared.pools.add(published.folder, TASK)


def test_a_copy_of_an_own_pool_is_used_as_long_as_all_agree(shared: Home, tmp_path: Path) -> None:
    shared.pools.withdraw("gina")
    next_version = shared.pools.open()[1]
    left = without(next_version, ids_of(shared, ["ines"]), tmp_path / "left", signing_key(shared.store))
    shared.pools.add(left.folder, TASK)
    assert shared.assemble(TASK, pool=left.digest, users=["kara"], top_k=2).assembled
    shared.consent("hugo", False)
    assert any("`ownlm pool withdraw hugo`" in step for step in shared.doctor().next)
    with pytest.raises(PoolError, match="consent"):  # of a sharer known here, in a pool from outside
        shared.assemble(TASK, pool=left.digest, users=["luca"], top_k=2)
    assert len(shared.pools.withdraw("hugo").pools) == 2 and not shared.doctor().wrong


def test_what_is_no_pool_is_refused(stranger: Home, published: Pool, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(PoolError, match="no pool in"):
            stranger.pools.add(folder, TASK)
        with pytest.raises((PoolError, NotFoundError)):
            stranger.pools.verify(str(folder))
    module = next(path for path in published.folder.iterdir() if path.suffix == ".safetensors")
    data = bytearray(module.read_bytes())
    data[-3] ^= 1
    module.write_bytes(data)
    with pytest.raises(PoolError, match="damaged"):
        stranger.pools.add(published.folder, TASK)
    module.unlink()
    with pytest.raises(PoolError, match="not whole"):
        stranger.pools.add(published.folder, TASK)
    assert stranger.pools.ls() == [] and not list((stranger.store.folder / "pools").glob("*"))


@pytest.mark.parametrize(
    ("part", "value", "told"),
    [
        ("A_RD", float("nan"), "not finite"),
        ("gate_D", float("inf"), "not finite"),
        ("B_OR", 1e6, "too large a B"),
        ("A_RD", 1e3, "too large an A"),
    ],
)
def test_pieces_that_are_not_fit_are_refused(
    stranger: Home, published: Pool, tmp_path: Path, part: str, value: float, told: str
) -> None:
    name = published.modules[0]
    whole = dict(zip(("A_RD", "B_OR", "gate_D"), (*published.piece(name, 0), published.gates(name)[0]), strict=True))
    bad = rewritten(published, tmp_path / "bad", {part: torch.full_like(whole[part], value)})
    with pytest.raises(PoolError, match=told) as caught:
        stranger.pools.add(bad.folder, TASK)
    assert published.sharer(name, 0) in str(caught.value) and stranger.pools.ls() == []
    with pytest.raises(PoolError, match=told):
        stranger.pools.verify(str(bad.folder))


def test_a_pool_for_something_else_is_refused(stranger: Home, published: Pool, tmp_path: Path) -> None:
    foreign = rewritten(published, tmp_path / "foreign", {}, base_fingerprint="0" * 64)
    with pytest.raises(NotFoundError, match="no base that the pool was made for"):
        stranger.pools.add(foreign.folder, TASK)
    with pytest.raises(PoolError, match="for another base"):
        stranger.pools.add(foreign.folder, TASK, base="tiny")
    assert stranger.pools.verify(str(foreign.folder))[1] is None
    first, *rest = published.modules
    fewer = [(name, [(published.sharer(name, 0), Piece(*published.piece(name, 0), published.gates(name)[0]))])
             for name in rest]  # fmt: skip
    part = rewritten(published, tmp_path / "part", {}, pieces=fewer, sharers=[published.sharer(rest[0], 0)])
    with pytest.raises(PoolError, match="other modules than the base has"):
        stranger.pools.add(part.folder, TASK)
    with pytest.raises(PoolError, match="shape"):  # it says another rank than its pieces have
        rewritten(published, tmp_path / "rank", {}, lora=published.lora.model_copy(update={"r": 3}))
    assert stranger.pools.ls() == [] and first in published.modules


def test_a_pool_for_another_base_of_the_home_is_not_taken_for_this(
    shared: Home, tmp_path: Path, tiny_base: Path
) -> None:
    other = make_random_base(tmp_path / "other", seed=5)
    shared.add_base(str(other), "other")
    with pytest.raises(NotFoundError, match="no pool of task 'sorting' for the base 'other'"):
        shared.assemble(TASK, base="other")
    assert shared.assemble(TASK, base="tiny", users=["kara"]).assembled


# Damage


def test_a_damaged_pool_is_seen_and_put_back_from_a_copy(shared: Home, published: Pool) -> None:
    shared.assemble(TASK)
    before, (info,) = ask(shared, *OTHERS), shared.pools.ls()
    told = list[str]()
    assert not shared.doctor(lambda stage, *_: told.append(stage)).wrong and "pools" in told
    module = next(path for path in Path(info.folder).iterdir() if path.suffix == ".safetensors")
    data = bytearray(module.read_bytes())
    data[-3] ^= 1
    module.write_bytes(data)
    (finding,) = shared.doctor().wrong
    assert f"The pool {info.digest[:12]}" in finding.what and "is damaged" in finding.what
    assert "`ownlm pool add FOLDER --task sorting` puts it back" in finding.hint and "ownlm share" in finding.hint
    assert all(isinstance(one.error, PoolError) for one in ask(shared, *OTHERS))
    with pytest.raises(PoolError, match="damaged"):
        shared.assemble(TASK, top_k=2)
    again = shared.pools.add(published.folder, TASK)
    assert again.own and again.folder != info.folder and again.digest == info.digest
    assert not shared.doctor().wrong and ask(shared, *OTHERS) == before
    assert len(users_of(shared.store)) == 4 and len(list((shared.store.folder / "pools").iterdir())) == 1


def test_a_folder_without_a_name_is_seen_and_goes_with_the_next_run(shared: Home) -> None:
    for name in ("0" * 32, ".pool-half"):
        (shared.store.folder / "pools" / name).mkdir()
    (finding,) = shared.doctor().wrong
    assert "killed run: 2 folders" in finding.what and "`ownlm share` or `assemble`" in finding.hint
    shared.assemble(TASK, users=["kara"])
    assert not shared.doctor().wrong and len(shared.pools.ls()) == 1


def test_a_beginning_that_several_ids_have_is_refused(stranger: Home, published: Pool, tmp_path: Path) -> None:
    alike = [f"abcdef{n:010x}" for n in range(len(published.manifest.sharers))]
    names = dict(zip(published.manifest.sharers, alike, strict=True))
    pieces = [
        (name, [(names[published.sharer(name, n)], Piece(*published.piece(name, n), gate_D))
                for n, gate_D in enumerate(published.gates(name))])
        for name in published.modules
    ]  # fmt: skip
    stranger.pools.add(rewritten(published, tmp_path / "alike", {}, sharers=alike, pieces=pieces).folder, TASK)
    with pytest.raises(NotFoundError, match=rf"ids of 4 sharers begin with 'abcdef'.*{alike[0]}.*give more"):
        stranger.pools.withdraw("abcdef")
    assert stranger.pools.withdraw(alike[2]).sharers == [alike[2]]


def test_the_newest_pool_is_verified_and_what_is_neither_is_told(shared: Home, stranger: Home, tmp_path: Path) -> None:
    newest = share(shared, users=["ines", "jens"], sharers=2).pool
    pool, base = shared.pools.verify()
    assert pool.digest == newest.digest and base is not None and base.name == "tiny"
    assert shared.pools.verify(shared.pools.ls()[0].digest[:12])[0].digest != newest.digest
    with pytest.raises(NotFoundError, match=r"The home has no pool\..*make one"):
        stranger.pools.verify()
    with pytest.raises(NotFoundError, match=r"neither a pool \./nowhere in the home nor such a folder.*pool ls"):
        shared.pools.verify("./nowhere")


# Removing


def test_a_pool_that_nobody_uses_is_removed_with_its_bytes(shared: Home, published: Pool) -> None:
    shared.assemble(TASK, users=["kara", "luca"])
    (old,) = shared.pools.ls()
    ids = ids_of(shared, GIVERS)
    newer = share(shared, seed=1).pool
    before = everything(shared.store.folder / "pools")
    with pytest.raises(PoolError, match=r"recipes of 2 users.*kara, luca.*assemble them from another pool"):
        shared.pools.remove(old.digest[:12])
    for digest in ("", "beef"):
        with pytest.raises(NotFoundError):
            shared.pools.remove(digest)
    assert everything(shared.store.folder / "pools") == before and len(shared.pools.ls()) == 2

    shared.assemble(TASK, users=["kara"], pool=newer.digest)
    shared.train(TASK, users=["luca"], epochs=1, batch_size=4)  # her recipe is an older version now
    info, size = shared.pools.remove(old.digest[:12])
    assert info.digest == old.digest and size > 10_000 and not Path(old.folder).exists()
    assert [one.digest for one in shared.pools.ls()] == [newer.digest] and not shared.doctor().wrong
    assert [one.stale for one in shared.adapters("luca")] == ["its pool was removed", None]
    assert all(one.answer and one.adapter and not one.warning for one in ask(shared, "kara", "luca"))
    assert not any(one.encode() in data for one in ids for data in everything(shared.store.folder).values())
    assert sorted(users_of(shared.store).values()) == list(GIVERS) and shared.consent("gina").shares
    with pytest.raises(PoolError, match="whose pool was removed here"):  # whose pieces they are is not known any more
        shared.pools.add(published.folder, TASK)
    assert shared.forget("gina").withdrawn == (newer.digest,)


@pytest.mark.parametrize("where", ["elsewhere", "home", "pools", "link"])
def test_a_folder_that_is_no_pool_of_the_home_is_never_removed(shared: Home, tmp_path: Path, where: str) -> None:
    (info,) = shared.pools.ls()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "letter.txt").write_text("of no pool", "utf8")
    link = shared.store.folder / "pools" / "link"
    link.symlink_to(elsewhere)
    folders = {"elsewhere": elsewhere, "home": shared.store.folder, "pools": link.parent, "link": link}
    with shared.store.database.writing() as db:
        db.execute(update(tables.pools).values(folder=str(folders[where])))
    for refused in (lambda: shared.pools.remove(info.digest), lambda: shared.pools.withdraw(GIVERS[0], again=False)):
        with pytest.raises(StoreError, match="outside the home's pools"):
            refused()
    assert (elsewhere / "letter.txt").exists() and shared.histories()
    assert len(shared.pools.ls()) == 1 and len(users_of(shared.store)) == len(GIVERS)


def test_a_pool_from_outside_is_removed_and_can_come_back(stranger: Home, published: Pool) -> None:
    (published.folder / "README.md").write_text("for people")
    for _ in range(2):
        stranger.pools.add(published.folder, TASK)
        assert not (Path(stranger.pools.ls()[0].folder) / "README.md").exists()
        assert stranger.pools.remove(published.digest)[0].own is False
    assert stranger.pools.ls() == [] and not list((stranger.store.folder / "pools").iterdir())


def test_who_withdraws_later_is_found_in_a_copy_when_their_own_pool_was_removed(
    shared: Home, published: Pool, tmp_path: Path
) -> None:
    (old,) = shared.pools.ls()
    left = without(published, ids_of(shared, ["gina"]), tmp_path / "left", signing_key(shared.store))
    shared.pools.add(left.folder, TASK)
    shared.pools.remove(old.digest)
    assert sorted(users_of(shared.store, pool=left.digest).values()) == list(GIVERS[1:])
    shared.consent("hugo", False)
    with pytest.raises(PoolError, match="consent"):
        shared.assemble(TASK, users=["kara"])
    assert shared.pools.withdraw("hugo").pools and "hugo" not in users_of(shared.store).values()
    with pytest.raises(PoolError, match="whose pool was removed"):
        shared.pools.add(published.folder, TASK)  # with gina's


def test_a_removal_that_fails_midway_changes_nothing(shared: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    (info,) = shared.pools.ls()
    before, people = everything(shared.store.folder / "pools"), users_of(shared.store)

    def fail(*args: object) -> None:
        raise StoreError("The disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("ownlm.store.pools.add_tombstone", fail)
        with pytest.raises(StoreError, match="full"):
            shared.pools.remove(info.digest)
    assert everything(shared.store.folder / "pools") == before and users_of(shared.store) == people
    assert shared.pools.ls() == [info] and not shared.doctor().wrong


# Waiting


def test_who_waits_for_a_withdrawal_is_told_so_until_it_is_done(shared: Home, published: Pool, tmp_path: Path) -> None:
    (info,) = shared.pools.ls()
    shared.assemble(TASK, users=["kara"])
    assert shared.pools.waiting() == frozenset()
    left = without(published, ids_of(shared, ["ines"]), tmp_path / "left", signing_key(shared.store))
    shared.pools.add(left.folder, TASK)
    assert shared.consent("gina", False).pools == (info.digest, left.digest)  # a copy too
    assert shared.pools.waiting() == {info.digest, left.digest}
    ((user, why),) = shared.assemble(TASK, users=["kara"], pool=info.digest).skipped
    assert (
        user == "kara" and why == "waits for a withdrawal: a sharer took their consent back; `ownlm doctor` says whose"
    )
    shared.consent("gina", True)
    assert shared.assemble(TASK, users=["kara"], pool=info.digest).skipped == [("kara", "up to date")]
    shared.consent("gina", False)
    shared.pools.withdraw("gina")
    assert shared.pools.waiting() == frozenset() and shared.consent("gina").pools == ()
