"""Pools that others publish: no older version, no other signature, and a key of one's own."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ownlm.errors import ConfigError, NotFoundError, PoolError, StoreError
from ownlm.home import Home
from ownlm.perpcs.manifest import FILE
from ownlm.perpcs.pool import Pool, open_pool
from ownlm.perpcs.signing import fingerprint, public_key
from ownlm.perpcs.version import copy_pool, without
from ownlm.store import pools as stored
from ownlm.store.pools import pool_versions
from ownlm.workflows.pools import lineage
from ownlm.workflows.pools.lineage import KEY, signing_key
from tests.community import home_on, rows, write_rows, write_task
from tests.forks import context
from tests.perpcs.pools import write
from tests.sharing import TASK, everything, share

OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)


@pytest.fixture
def published(shared: Home, tmp_path: Path) -> list[Pool]:
    """Three versions of a pool, as its home publishes them: each without one sharer more."""
    key, versions = signing_key(shared.store), [copy_pool(shared.pools.open()[1], tmp_path / "v1")]
    for number in (2, 3):
        last = versions[-1]
        gone = last.manifest.sharers[:1]
        versions.append(without(last, gone, tmp_path / f"v{number}", key, last.manifest.line))
    return versions


@pytest.fixture
def receiver(tmp_path: Path, tiny_base: Path) -> Home:
    """Another home on the same base."""
    home = home_on(tiny_base, tmp_path / "receiver")
    home.keep_task(str(write_task(tmp_path)))
    return home


def signed_anew(pool: Pool, folder: Path, key: Ed25519PrivateKey | None, **changes: object) -> Pool:
    """The same pieces, published by somebody else."""
    manifest = pool.manifest

    def pieces():  # type: ignore[no-untyped-def]
        for name in pool.modules:
            yield name, [(pool.sharer(name, n), piece) for n, piece in enumerate(map(make, *pool.whole(name)))]

    from ownlm.perpcs.piece import Piece as make

    settings = {
        "version": manifest.version, "parent": manifest.parent, "base_fingerprint": manifest.base_fingerprint,
        "lora": pool.lora, "licence": manifest.licence, "provenance": manifest.provenance,
        "sharers": manifest.sharers, "pieces": pieces(), "key": key,
        "line": manifest.line if key else None, "ancestors": manifest.ancestors if key else (),
    }  # fmt: skip
    return write(folder, settings | changes)


def test_a_home_signs_what_it_shares_with_a_key_of_its_own(shared: Home) -> None:
    (info,) = shared.pools.ls()
    path = shared.store.folder / KEY
    assert info.publisher == public_key(signing_key(shared.store)) and path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    assert share(shared).pool.publisher == info.publisher and path.read_bytes() == before
    secret = signing_key(shared.store).private_bytes_raw()
    for pool in shared.pools.ls():
        assert not any(secret in data or before in data for data in everything(Path(pool.folder)).values())


def test_a_damaged_key_is_said(shared: Home) -> None:
    for damage in (lambda path: path.write_bytes(b"no key"), lambda path: (path.unlink(), path.mkdir())):
        damage(shared.store.folder / KEY)
        with pytest.raises(StoreError, match="signing key"):
            signing_key(shared.store)


def test_newer_versions_are_taken_and_no_older_one(receiver: Home, published: list[Pool]) -> None:
    first, second, third = published
    assert receiver.pools.add(first.folder, TASK).version == 1
    assert receiver.pools.add(third.folder, TASK).version == 3  # one may be left out
    for old in (first, second):
        with pytest.raises(PoolError, match="older version") as caught:
            receiver.pools.add(old.folder, TASK)
        assert third.digest[:12] in str(caught.value.expected)
    with pytest.raises(StoreError, match="already"):
        receiver.pools.add(third.folder, TASK)
    receiver.pools.remove(third.digest)  # nor after it is gone
    with pytest.raises(PoolError, match="older version"):
        receiver.pools.add(second.folder, TASK)
    assert receiver.pools.add(third.folder, TASK).version == 3


def test_adapters_of_an_older_version_are_counted_until_they_are_assembled_again(
    receiver: Home, published: list[Pool], tmp_path: Path
) -> None:
    receiver.add_history(write_rows(tmp_path / "kara.jsonl", rows("kara", 4)), TASK)
    first = receiver.pools.add(published[0].folder, TASK)
    receiver.assemble(TASK, users=["kara"], top_k=2)
    second = receiver.pools.add(published[1].folder, TASK)
    assert receiver.pools.older_in_use(second) == [(first, 1)] and receiver.pools.older_in_use(first) == []
    receiver.assemble(TASK, users=["kara"], top_k=2)
    assert receiver.pools.older_in_use(second) == []
    receiver.pools.remove(first.digest)


def test_an_older_version_without_signatures_is_not_taken_either(
    receiver: Home, published: list[Pool], tmp_path: Path
) -> None:
    """Format 1 names its parent alone; what it has in common with a known one are the sharers."""
    third, second = (
        signed_anew(pool, tmp_path / f"old {number}", None) for number, pool in ((3, published[2]), (2, published[1]))
    )
    receiver.pools.add(third.folder, TASK)
    with pytest.raises(PoolError, match="latest version"):
        receiver.pools.add(second.folder, TASK)


def test_two_next_versions_are_not_both_taken(
    receiver: Home, published: list[Pool], shared: Home, tmp_path: Path
) -> None:
    (first, second, _), key = published, signing_key(shared.store)
    fork = without(first, first.manifest.sharers[2:3], tmp_path / "fork", key, first.manifest.line)
    after = without(fork, fork.manifest.sharers[2:], tmp_path / "after", key, first.manifest.line)
    receiver.pools.add(second.folder, TASK)
    for other in (fork, after):
        with pytest.raises(PoolError, match="latest version"):
            receiver.pools.add(other.folder, TASK)


@pytest.mark.parametrize("key", [OTHER, None], ids=["another key", "no signature"])
@pytest.mark.parametrize("known_by", ["line", "ancestor", "sharers", "folder"])
def test_another_signature_is_refused_until_it_is_trusted(
    receiver: Home, published: list[Pool], tmp_path: Path, key: Ed25519PrivateKey | None, known_by: str
) -> None:
    first, second, _ = published
    receiver.pools.add(first.folder, TASK)
    if known_by in ("line", "ancestor", "sharers"):
        changes = {
            "line": {}, "ancestor": {"line": None},
            "sharers": {"line": None, "ancestors": (), "version": 9, "parent": None},
        }[known_by]  # fmt: skip
        forged = signed_anew(second, tmp_path / "forged", key, **(changes if key else {}))
    else:  # a pool that has nothing in common with it, where its publisher's was
        shutil.rmtree(first.folder)
        ids = [f"{number:016x}" for number in range(len(second.manifest.sharers))]
        renamed = dict(zip(second.manifest.sharers, ids, strict=True))
        forged = signed_anew(second, first.folder, key, sharers=ids, pieces=_renamed(second, renamed),
                             version=1, parent=None, line=None, ancestors=())  # fmt: skip
    with pytest.raises(PoolError, match="key of its publisher") as caught:
        receiver.pools.add(forged.folder, TASK)
    name = fingerprint(public_key(key)) if key else "unsigned"
    assert f"--key {name}" in str(caught.value.hint) and fingerprint(first.manifest.publisher) in str(caught.value)
    assert [one.digest for one in receiver.pools.ls()] == [first.digest]
    with pytest.raises(PoolError, match="not signed with the given key"):
        receiver.pools.trust(forged.folder, "0" * 16)
    assert receiver.pools.trust(forged.folder, str(name)) == [fingerprint(first.manifest.publisher)]
    with pytest.raises(NotFoundError):
        receiver.pools.trust(forged.folder, str(name))
    if known_by == "folder":  # the other pool has its key still
        receiver.pools.add(forged.folder, TASK)
        assert receiver.pools.add(second.folder, TASK).version == 2
    elif key is None or known_by in ("line", "ancestor"):
        assert receiver.pools.add(forged.folder, TASK).publisher == (public_key(key) if key else None)


def _renamed(pool: Pool, names: dict[str, str]):  # type: ignore[no-untyped-def]
    from ownlm.perpcs.piece import Piece

    for name in pool.modules:
        parts = zip(*pool.whole(name), strict=True)
        yield name, [(names[pool.sharer(name, n)], Piece(*part)) for n, part in enumerate(parts)]


def test_a_pool_that_was_not_signed_may_be_from_now_on(receiver: Home, published: list[Pool], tmp_path: Path) -> None:
    old = signed_anew(published[0], tmp_path / "old", None)
    receiver.pools.add(old.folder, TASK)
    signed = without(old, old.manifest.sharers[:1], tmp_path / "signed", OTHER)
    assert receiver.pools.add(signed.folder, TASK).publisher == public_key(OTHER)
    stripped = signed_anew(signed, tmp_path / "stripped", None, version=3, parent=signed.digest)
    with pytest.raises(PoolError, match="no signature"):
        receiver.pools.add(stripped.folder, TASK)


def test_who_withdrew_here_stays_out_and_later_versions_come_in(receiver: Home, published: list[Pool]) -> None:
    first, second, third = published
    receiver.pools.add(first.folder, TASK)
    receiver.pools.withdraw(first.manifest.sharers[0])
    (here,) = receiver.pools.ls()
    made = open_pool(Path(here.folder)).manifest
    assert made.publisher == public_key(signing_key(receiver.store)) and made.line != first.manifest.line
    with pytest.raises(PoolError, match="withdrawn"):
        receiver.pools.add(first.folder, TASK)
    assert receiver.pools.add(second.folder, TASK).publisher == first.manifest.publisher
    assert receiver.pools.add(third.folder, TASK).version == 3


def test_a_home_from_before_knows_its_pools(receiver: Home, published: list[Pool]) -> None:
    receiver.pools.add(published[1].folder, TASK)
    with receiver.store.database.writing() as db:
        db.exec_driver_sql("DELETE FROM pool_versions")
    with pytest.raises(PoolError, match="older version"):
        receiver.pools.add(published[0].folder, TASK)
    assert [one.digest for one in pool_versions(receiver.store)] == [published[1].digest]


def test_a_withdrawal_is_signed_and_not_undone_by_an_old_copy(shared: Home, tmp_path: Path) -> None:
    (info,), before = shared.pools.ls(), shared.pools.open()[1]
    copy = copy_pool(before, tmp_path / "copy")
    shared.pools.withdraw("gina")
    (new,) = shared.pools.ls()
    made = open_pool(Path(new.folder)).manifest
    assert made.publisher == info.publisher and made.line == before.manifest.line and made.ancestors == (info.digest,)
    with pytest.raises(PoolError):
        shared.pools.add(copy.folder, TASK)


def test_the_digest_says_which_pool_it_must_be(receiver: Home, published: list[Pool]) -> None:
    first, second, _ = published
    for refuse in (lambda: receiver.pools.add(first.folder, TASK, digest=second.digest),
                   lambda: receiver.pools.verify(str(first.folder), second.digest)):  # fmt: skip
        with pytest.raises(PoolError, match="has another digest"):
            refuse()
    with pytest.raises(ConfigError, match="Invalid digest"):
        receiver.pools.add(first.folder, TASK, digest=first.digest[:12])
    assert (
        receiver.pools.ls() == [] and receiver.pools.verify(str(first.folder), first.digest)[0].digest == first.digest
    )
    receiver.pools.add(first.folder, TASK, digest=first.digest.upper())
    assert receiver.pools.verify(None, first.digest)[0].digest == first.digest
    with pytest.raises(PoolError, match="has another digest"):
        receiver.pools.verify(None, second.digest)


def test_what_is_damaged_here_is_put_back(receiver: Home, published: list[Pool]) -> None:
    info = receiver.pools.add(published[1].folder, TASK)
    file = Path(info.folder) / FILE
    file.write_bytes(file.read_bytes()[:-1])
    assert receiver.pools.add(published[1].folder, TASK).digest == info.digest
    receiver.pools.verify(info.digest)


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def add_and_die(home: Path, folder: str, place: str) -> None:
    """Takes a pool in, in a process that is killed."""
    receiver, named = Home(home), stored.add_pool
    if place == "before it is named":
        stored.add_pool = die  # type: ignore[assignment]
    elif place == "right after":
        stored.add_pool = lambda *args, **how: (named(*args, **how), die())  # type: ignore[assignment]
    else:
        lineage.sync = die
        lineage.signing_key(receiver.store)
    receiver.pools.add(folder, TASK)


@pytest.mark.parametrize("place", ["before it is named", "right after", "while the key is written"])
def test_a_kill_leaves_a_pool_or_none_and_a_key_or_none(receiver: Home, published: list[Pool], place: str) -> None:
    receiver.store.database.close()
    folder = receiver.store.folder
    killed = context.Process(target=add_and_die, args=(folder, published[1].folder, place))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    again = Home(folder)
    if place == "right after":
        with pytest.raises(StoreError, match="already"):
            again.pools.add(published[1].folder, TASK)
    else:
        assert again.pools.ls() == [] and again.pools.add(published[1].folder, TASK).version == 2
    with pytest.raises(PoolError, match="older version"):
        again.pools.add(published[0].folder, TASK)
    public_key(signing_key(again.store))
    assert len(list((folder / "pools").iterdir())) == 1 and not list(folder.glob(f".{KEY}*"))
