"""Versions of pools as the home records them, and the signing key that the next version must have.

A signing key is pinned when a pool is taken in for the first time (trust on first use). What is recognised as a version
of a known pool must be newer than all that the home has had of it, and be signed with the same key. Two pools belong
together where they name the same line, one is the other's ancestor, they share a sharer's random id, or they come from
the same folder.
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from ownlm.durable import sync, unfinished
from ownlm.errors import NotFoundError, PoolError, StoreError, argument
from ownlm.filesystem import read_regular
from ownlm.perpcs.pool import Pool, open_pool
from ownlm.perpcs.signing import fingerprint, key_from_pem, key_to_pem, new_key
from ownlm.store import pools
from ownlm.store.rows import BaseInfo, PoolInfo, PoolVersion, sharer_digest
from ownlm.store.store import Store

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY = "signing.key"  # in the home; it never leaves it, and lies in no pool
UNSIGNED = "unsigned"


def signing_key(store: Store) -> "Ed25519PrivateKey":
    """The home's own key, made when it is first needed.

    Raises:
        StoreError: it is damaged, or cannot be written.
    """
    path = store.folder / KEY
    try:
        if not os.path.lexists(path):
            with unfinished(path) as temporary:
                temporary.write_bytes(key_to_pem(new_key()))
                sync(temporary)
                temporary.rename(path)
                sync(store.folder)
        return key_from_pem(read_regular(path))
    except (OSError, ValueError) as error:
        hint = "put it back from a copy of the home; without it the next pool has another key, which others must accept"
        raise StoreError(f"The home's signing key {path} cannot be used", got=type(error).__name__, hint=hint) from None


def new_pool_folder(store: Store) -> Path:
    """A new folder for a pool of this home."""
    return store.folder / pools.FOLDER / uuid4().hex


def pool_info(task: str, base: BaseInfo, pool: Pool, own: bool) -> PoolInfo:
    """A pool as it is registered in the home."""
    manifest = pool.manifest
    return PoolInfo(
        digest=pool.digest,
        task=task,
        base=base.name,
        base_fingerprint=base.fingerprint,
        version=manifest.version,
        folder=str(pool.folder),
        sharers=len(manifest.sharers),
        own=own,
        provenance=dict(manifest.provenance),
        parent=manifest.parent,
        created=manifest.created,
        publisher=manifest.publisher,
    )


def version_of(pool: Pool, *, key: str | None, source: Path | None = None, local: bool = False) -> PoolVersion:
    """By what the home recognises a pool later.

    Args:
        key: public key that the pool's next version must be signed with.
        source: the folder it comes from.
        local: whether it was made here of a pool from outside.
    """
    manifest = pool.manifest
    before = manifest.ancestors or ((manifest.parent,) if manifest.parent else ())
    place = None if source is None else os.path.realpath(source)
    return PoolVersion(
        pool.digest, manifest.line, manifest.version, before, _hashed(manifest.sharers), key, place, local
    )


def note_all(store: Store) -> None:
    """Remembers the pools that came into the home before it kept such notes."""
    known = {one.digest for one in pools.pool_versions(store)}
    for info in pools.pools(store):
        if info.digest not in known:
            try:
                pool = open_pool(Path(info.folder), info.digest)
            except PoolError:  # damaged: it is remembered when it is put back
                continue
            with store.database.writing() as db:
                pools.note_version(db, version_of(pool, key=pool.manifest.publisher))


def check_newer(store: Store, pool: Pool, source: Path) -> None:
    """Refuses what is older than, or beside, what the home knows of the same pool, or signed with another key.

    Args:
        source: the folder it comes from.

    Raises:
        PoolError: it is one of these.
    """
    note_all(store)
    known, version = pools.pool_versions(store), pool.manifest.version
    if any(one.digest == pool.digest for one in known) and not _superseded(known, pool):
        return  # put back where it is damaged; whether the home has it, the store says
    if newer := _superseded(known, pool):
        raise PoolError(
            f"The pool is an older version, {version}, of one that the home knows",
            got=pool.digest[:12],
            expected=f"version {newer.version}, {newer.digest[:12]}, or a later one",
            hint="get the latest version from its publisher",
        )
    _check_key(known, pool, source)
    own = [one for one in _of_same_pool(known, pool) if not one.local]
    if newest := max(own, key=lambda one: one.version, default=None):
        before = version_of(pool, key=None).ancestors
        if version <= newest.version or (pool.manifest.format == 2 and newest.digest not in before):
            raise PoolError(
                "The pool was not made from the latest version that the home knows",
                got=f"version {version}, {pool.digest[:12]}",
                expected=f"one made from version {newest.version}, {newest.digest[:12]}",
                hint="get the latest version from its publisher",
            )


def trust(store: Store, folder: Path, key: str) -> list[str]:
    """Accepts that the pool in a folder, which the home knows, is signed with another key from now on, or no more.

    Args:
        key: what the fingerprint of its key begins with, 16 letters; or "unsigned".

    Returns:
        Fingerprints of the keys that are no longer expected; "unsigned" for none.

    Raises:
        PoolError: there is no pool, or it is signed with another key. NotFoundError: the home expects no other key.
    """
    pool = open_pool(folder)
    new = pool.manifest.publisher
    if key != _named(new):
        raise PoolError(
            "The pool is not signed with the given key", got=_named(new), expected=key, hint="ask its publisher"
        )
    note_all(store)
    known = pools.pool_versions(store)
    changed, same = [one for one in _related(known, pool, folder) if one.key != new], _of_same_pool(known, pool)
    if not changed:
        raise NotFoundError("The home knows no other key for this pool", hint="add the pool: nothing has to be trusted")
    with store.database.writing() as db:
        for one in changed:
            # of another pool that came from the same folder, the key stays
            pools.note_version(db, replace(one, key=new) if one in same else replace(one, source=None))
    return sorted({_named(one.key) for one in changed})


def key_of(store: Store, info: PoolInfo, version: Pool) -> str | None:
    """With which key the next version must be signed of a pool out of which pieces were withdrawn here."""
    if info.own:
        return version.manifest.publisher
    noted = next((one for one in pools.pool_versions(store) if one.digest == info.digest), None)
    return noted.key if noted else info.publisher


def _check_key(known: list[PoolVersion], pool: Pool, source: Path) -> None:
    publisher = pool.manifest.publisher
    for one in _related(known, pool, source):
        if one.key is not None and one.key != publisher:
            raise PoolError(
                "The pool is not signed with the key of its publisher that the home knows",
                got="no signature" if publisher is None else f"the key {fingerprint(publisher)}",
                expected=f"the key {fingerprint(one.key)}",
                hint="ask its publisher whether the key was changed; only then "
                f"`ownlm pool trust --key {_named(publisher)} {argument(source)}`",
            )


def _related(known: Iterable[PoolVersion], pool: Pool, source: Path) -> list[PoolVersion]:
    """The versions with the publisher that this one must have."""
    place, known = os.path.realpath(source), list(known)
    same = {one.digest for one in _of_same_pool(known, pool)}
    return [one for one in known if one.digest in same or one.source == place]


def _of_same_pool(known: Iterable[PoolVersion], pool: Pool) -> list[PoolVersion]:
    manifest, hashes = pool.manifest, set(_hashed(pool.manifest.sharers))
    before = {*version_of(pool, key=None).ancestors, pool.digest}
    return [
        one
        for one in known
        if (one.line is not None and one.line == manifest.line)
        or one.digest in before
        or not before.isdisjoint(one.ancestors)
        or not hashes.isdisjoint(one.sharers)
    ]


def _superseded(known: Iterable[PoolVersion], pool: Pool) -> PoolVersion | None:
    """The latest version that was made, at last, from this one."""
    later = [one for one in known if pool.digest in one.ancestors]
    return max(later, key=lambda one: one.version, default=None)


def _named(key: str | None) -> str:
    return fingerprint(key) or UNSIGNED


def _hashed(sharers: Iterable[str]) -> tuple[str, ...]:
    return tuple(map(sharer_digest, sharers))
