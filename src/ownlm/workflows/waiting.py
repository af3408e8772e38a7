"""Which pools wait for a withdrawal: pieces lie in them of somebody who took their consent back."""

from collections.abc import Collection
from pathlib import Path

from ownlm.errors import PoolError
from ownlm.filesystem import read_regular
from ownlm.perpcs.manifest import FILE, Manifest
from ownlm.store import pools
from ownlm.store.rows import PoolInfo
from ownlm.store.store import Store

WAITS = "waits for a withdrawal: somebody took their consent back"  # who did is nobody else's business


def waiting_pools(store: Store) -> frozenset[str]:
    """Digests of the pools that nobody is assembled or answered from until somebody's pieces are withdrawn."""
    people = pools.people_of(store)
    agree = pools.consenting(store, people.values())
    return frozenset(pools_naming(store, {sharer for sharer, user in people.items() if user not in agree}))


def pools_naming(store: Store, sharers: Collection[str]) -> tuple[str, ...]:
    """Digests of the pools in which pieces of one of these random ids lie, oldest first."""
    if not sharers:
        return ()
    return tuple(info.digest for info in pools.pools(store) if not named_in(store, info).isdisjoint(sharers))


def named_in(store: Store, info: PoolInfo) -> set[str]:
    """The random ids that a pool names; where it cannot be read, those that the home knows of it."""
    try:
        return set(Manifest.from_bytes(read_regular(Path(info.folder) / FILE)).sharers)
    except (OSError, PoolError):
        return set(pools.people_of(store, pool=info.digest))
