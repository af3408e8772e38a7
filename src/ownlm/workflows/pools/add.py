"""Pools from outside: checked, and added to the home."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from ownlm.config import TrainConfig
from ownlm.errors import ConfigError, NotFoundError, OwnlmError, PoolError
from ownlm.model.base import BaseLM
from ownlm.model.targets import target_modules
from ownlm.perpcs.admission import admit
from ownlm.perpcs.pool import Pool, open_pool
from ownlm.perpcs.version import copy_pool
from ownlm.store import pools
from ownlm.store.rows import BaseInfo, PoolInfo
from ownlm.store.store import Store
from ownlm.workflows.pools.lineage import check_newer, new_pool_folder, pool_info, version_of

LOOK = "`ownlm pool ls` lists the home's pools; of another give the folder that holds its pool.json"


def add_pool(
    store: Store, model: BaseLM, base: BaseInfo, task: str, folder: Path, digest: str | None = None
) -> PoolInfo:
    """Takes a copy of a pool from outside into the home, after every byte and every piece was checked.

    A pool that the home has, and that is damaged there, is put back so. The key that it is signed with is remembered:
    later versions must be signed with it.

    Args:
        digest: which pool it must be; any, by default.

    Raises:
        PoolError: it is damaged, another, for another base, or holds a piece that is not fit, or one that was withdrawn
            here; it is an older version of one that the home knows, or signed with another key. StoreError: it cannot
            be written, or the home has it.
    """
    pool = open_pool(folder, digest)
    pools.check_not_withdrawn(store, pool.manifest.sharers)
    check_newer(store, pool, folder)
    admit(pool, dict(target_modules(model.model, pool.lora)), base.fingerprint)
    _check_provenance(pool)
    damaged = next((one for one in pools.pools(store) if one.digest == pool.digest and not _is_whole(one)), None)
    if damaged:
        pools.check_own_folder(store, damaged)
    copy = copy_pool(pool, new_pool_folder(store))
    try:
        if damaged:
            pools.move_pool(store, pool.digest, str(copy.folder))
        else:
            seen = version_of(copy, key=pool.manifest.publisher, source=folder)
            pools.add_pool(store, pool_info(task, base, copy, own=False), {}, seen=seen)
    except OwnlmError:  # what ends it otherwise may come after the commit; a folder without a name is swept later
        shutil.rmtree(copy.folder)
        raise
    if damaged:
        shutil.rmtree(damaged.folder, ignore_errors=True)  # else the next run removes it
    return pools.pool(store, pool.digest)


def check_digest(digest: str | None) -> str | None:
    """A whole SHA-256 in small letters, or None; a ConfigError for anything else."""
    if digest is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise ConfigError("Invalid digest", got=f"{len(digest)} characters", expected="a SHA-256: 64 hex digits")
    return digest and digest.lower()


def _check_provenance(pool: Pool) -> None:
    """Raises a PoolError where a pool does not tell how its pieces' prompts were made."""
    try:
        lora = TrainConfig.model_validate(pool.manifest.provenance["config"]).lora
    except (KeyError, ValidationError):
        lora = None
    if lora != pool.lora:
        raise PoolError(
            "The pool does not tell how its pieces were trained",
            expected='settings under "config" of its provenance, for the shape that the pieces have',
        )


def _is_whole(info: PoolInfo) -> bool:
    try:
        open_pool(Path(info.folder), info.digest)
    except PoolError:
        return False
    return True


def base_of(store: Store, folder: Path) -> BaseInfo:
    """The base of the home that a pool was made for.

    Raises:
        PoolError: there is no pool, or it is damaged. NotFoundError: the home has no such base.
    """
    fingerprint = open_pool(folder).manifest.base_fingerprint
    found = [base for base in store.bases() if base.fingerprint == fingerprint]
    if not found:
        raise NotFoundError(
            "The home has no base that the pool was made for",
            expected=f"one with the fingerprint {fingerprint[:12]}",
            hint="add it first",
            command="ownlm base add SOURCE",
        )
    return found[0]


def verify_pool(
    store: Store, load: Callable[[BaseInfo], BaseLM], which: str | None, digest: str | None = None
) -> tuple[Pool, BaseInfo | None]:
    """Checks every byte of a pool, and its pieces, if the home has its base.

    Args:
        which: any folder, or what the digest of a pool of the home begins with; None for the newest.
        digest: which pool it must be; any, by default.

    Returns:
        The pool; and the base that its pieces were checked against, if there is one.

    Raises:
        NotFoundError, PoolError: there is none; it is not what it should be.
    """
    if which is not None and Path(which).is_dir():
        pool = open_pool(Path(which), digest)
    else:
        if which is not None and not any(info.digest.startswith(which) for info in pools.pools(store)):
            raise NotFoundError(f"There is neither a pool {which} in the home nor such a folder", hint=LOOK)
        info = pools.pool(store, which)
        pool = open_pool(Path(info.folder), digest or info.digest)
    base = next((one for one in store.bases() if one.fingerprint == pool.manifest.base_fingerprint), None)
    if base is not None:
        admit(pool, dict(target_modules(load(base).model, pool.lora)), base.fingerprint)
    return pool, base
