"""Withdrawal of a sharer's pieces from pools, and removal of pools."""

import shutil
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from sqlalchemy import ColumnElement

from ownlm.config import TrainConfig
from ownlm.durable import sync
from ownlm.errors import NotFoundError, OwnlmError, PoolError, StoreError
from ownlm.filesystem import folder_bytes
from ownlm.history.task import Task
from ownlm.model.base import BaseLM
from ownlm.perpcs.pool import Pool, open_pool
from ownlm.perpcs.recipe import Recipe
from ownlm.perpcs.version import without
from ownlm.progress import Progress
from ownlm.store import pools, tables
from ownlm.store.consents import check_known
from ownlm.store.drafts import remove_drafts
from ownlm.store.erasing.leftovers import Leftover, due_key, erase, note_due
from ownlm.store.exports import sweep_served
from ownlm.store.forget import left
from ownlm.store.rows import AdapterInfo, BaseInfo, PoolInfo
from ownlm.store.store import Store
from ownlm.workflows.assemble import assemble_users
from ownlm.workflows.options import AssembleOptions
from ownlm.workflows.plan import AssemblyPlan
from ownlm.workflows.pools.lineage import key_of, new_pool_folder, pool_info, signing_key, version_of
from ownlm.workflows.pools.report import Withdrawal

WITHDRAWN = "a sharer withdrew pieces that it uses"
EMPTIED = "all sharers withdrew from its pool"
DAMAGED = "its pool was damaged, and removed when a sharer withdrew"
SHORTEST = 6  # of a random id's beginning, as tables show it: fewer letters may be anybody's


def withdraw(store: Store, who: str) -> Withdrawal:
    """Takes a sharer's pieces out of every pool of the home, and removes the drafts that they were made of.

    A version without them replaces each pool, and their bytes are removed. Recipes that do not use them continue with
    the new version; the others are marked stale. A damaged pool of this home is removed whole.

    Args:
        who: a user; or the random id of a sharer, or its beginning.

    Raises:
        NotFoundError: no pool has a piece of theirs and there is no draft, or several ids begin so.
        PoolError: the same, and there are damaged pools from outside.
        StoreError: the home cannot be written.
    """
    who = _sharer(store, who)
    user = pools.user_of(store, who) or who
    ids = {sharer for sharer, _ in pools.sharers_of(store, user)} or {who}
    leftover = _leftover(store, due_key("withdrawal", user), tables.sharers.c.user == user)
    done, damaged = Withdrawal(sharers=sorted(ids), drafts=remove_drafts(store, user)), list[PoolError]()
    for info in pools.pools(store):
        pool, sharers = None, set(pools.users_of(store, pool=info.digest))
        try:
            pool = open_pool(Path(info.folder), info.digest)
            sharers = set(pool.manifest.sharers)
        except PoolError as error:
            damaged.append(error)
            if not info.own:
                done.unread.append(info.digest)
        if mine := ids & sharers:
            _withdraw(store, info, pool, mine, done, leftover)
    if not done.pools and not done.drafts and damaged:
        raise damaged[0]
    if not done.pools and not done.drafts:
        hint = f"`ownlm pool ls`, `ownlm pool show`; of a random id give {SHORTEST} letters or more"
        raise NotFoundError(f"No pool of the home has pieces of {who!r}", hint=hint)
    done.unfinished = _erased(store, leftover)
    return done


def withdraw_leaving(store: Store, name: str) -> Withdrawal:
    """Withdraws the pieces that a deleted user has left under a made-up name; errors as for `withdraw`."""
    try:
        done = withdraw(store, name)
    except NotFoundError:  # a run that was killed has done it
        done = Withdrawal()
    left(store, name)
    return done


def _leftover(store: Store, due: str, links: ColumnElement[bool]) -> Leftover:
    """The links between users and random ids that are about to be deleted."""
    leftover = Leftover(due)
    with store.database.reading() as db:
        leftover.take(db, tables.sharers, links)
    return leftover


def _erased(store: Store, leftover: Leftover) -> str | None:
    """Why something may be left in files."""
    try:
        erase(store, leftover)
    except StoreError as error:
        return error.what
    return None


def _sharer(store: Store, who: str) -> str:
    """The random id that begins so; the name of a user, or an unknown name, is returned unchanged."""
    with suppress(NotFoundError):
        check_known(store, who)  # a name may look like the beginning of an id
        return who
    named = set(pools.users_of(store))
    for info in pools.pools(store):
        with suppress(PoolError):
            named |= set(open_pool(Path(info.folder), info.digest).manifest.sharers)
    found = sorted(sharer for sharer in named if sharer.startswith(who)) if len(who) >= SHORTEST else []
    if len({pools.user_of(store, sharer) or sharer for sharer in found}) > 1:
        what = f"The ids of {len(found)} sharers begin with {who!r}"
        raise NotFoundError(what, got=", ".join(found), hint="give more of the id")
    return found[0] if found else who


def remove_pool(store: Store, digest: str) -> tuple[PoolInfo, int]:
    """Removes a pool that no current recipe is made of, and its bytes.

    Its sharers still agree to share, and can be selected for another pool. A pool of this home cannot be added again:
    the home forgets which users its sharers are.

    Args:
        digest: what its digest begins with.

    Returns:
        The pool as it was, and the number of bytes removed.

    Raises:
        NotFoundError: there is no such pool.
        PoolError: users' recipes are made of it.
        StoreError: the home cannot be written.
    """
    if not digest:  # the newest is not meant
        raise NotFoundError("The pool's id is empty", hint="name a pool by the beginning of its id")
    info = pools.pool(store, digest)
    pools.check_own_folder(store, info)
    leftover = _leftover(store, due_key("pool", info.digest), tables.sharers.c.pool == info.digest)
    size = folder_bytes(info.folder)
    pools.remove_pool(store, info.digest, partial(note_due, due=leftover.due))
    _remove_folder(info)
    sweep_served(store)
    _erased(store, leftover)
    return info, size


def _withdraw(
    store: Store, info: PoolInfo, pool: Pool | None, gone: set[str], done: Withdrawal, leftover: Leftover
) -> None:
    """Withdraws from one pool; a pool that cannot be read (None) is removed whole."""
    pools.check_own_folder(store, info)
    base = store.base(info.base)
    left = set(pool.manifest.sharers) - gone if pool else ()
    version = _next(store, info, pool, gone) if pool and left else None
    why = WITHDRAWN if version else EMPTIED if pool else DAMAGED
    try:
        recipes, stale = dict[str, bytes](), dict[str, str]()
        for adapter in pools.recipes_of_pool(store, info.digest):
            moved = _moved(adapter, pool, version, gone)
            if moved is None:
                stale[adapter.id] = why
                if adapter.user not in done.affected:
                    done.affected.append(adapter.user)
            else:
                recipes[adapter.id] = moved
        new = pool_info(info.task, base, version, own=info.own) if version else None
        key = key_of(store, info, version) if version else None
        seen = version_of(version, key=key, local=not info.own) if version else None
        note = partial(note_due, due=leftover.due)
        pools.replace_pool(store, info.digest, new, recipes, stale, withdrawn=gone, seen=seen, note=note)
    except OwnlmError:  # what ends it otherwise may come after the commit; a folder without a name is swept later
        if version:
            shutil.rmtree(version.folder)
        raise
    done.untouched += len(recipes)
    done.pools.append((info.digest, version.digest if version else None))
    if version:
        done.versions[version.digest] = version.manifest.version
    _remove_folder(info)
    sweep_served(store)


def _next(store: Store, info: PoolInfo, pool: Pool, gone: set[str]) -> Pool:
    """A pool's next version, signed by this home; of a pool from outside it is a new line, which its publisher has not.

    The version that it replaces is remembered, so that it does not come back.
    """
    line = pool.manifest.line if info.own else None
    return without(pool, gone, new_pool_folder(store), signing_key(store), line)


def _remove_folder(info: PoolInfo) -> None:
    """Removes the folder of a pool that the home does not name any more."""
    try:
        with suppress(FileNotFoundError):
            shutil.rmtree(info.folder)
            sync(Path(info.folder).parent)
    except OSError as error:
        hint = "remove this folder by hand"
        raise StoreError(f"The pool's folder {info.folder} cannot be removed", got=error, hint=hint) from None


def _moved(adapter: AdapterInfo, pool: Pool | None, version: Pool | None, gone: set[str]) -> bytes | None:
    """A recipe as it is in the new version; None where it used a piece that is gone, or cannot be read."""
    if pool is None or version is None or adapter.recipe is None:
        return None
    try:
        recipe = Recipe.from_bytes(adapter.recipe)
    except OwnlmError:
        return None
    place_MK = np.zeros_like(recipe.place_MK)
    for number, name in enumerate(pool.modules):
        there = {version.sharer(name, place): place for place in range(len(version.gates(name)))}
        for k, weight in enumerate(recipe.weight_MK[number].tolist()):
            if weight:
                sharer = pool.sharer(name, int(recipe.place_MK[number, k]))
                if sharer in gone:
                    return None
                place_MK[number, k] = there[sharer]
    return Recipe(recipe.combine, place_MK, recipe.weight_MK).to_bytes()


def assemble_again(store: Store, load: Callable[[BaseInfo], BaseLM], done: Withdrawal, progress: Progress) -> None:
    """Assembles users with recipes made stale by a withdrawal again, with their old settings."""
    following = dict(done.pools)
    groups: dict[tuple[str, str], tuple[AssemblyPlan, list[str]]] = {}
    for user in done.affected:
        for adapter in store.latest_adapters(None, [user]).values():
            if adapter.stale is None or adapter.pool not in following:
                continue  # another version answers by now
            digest = following[adapter.pool]
            if digest is None or not store.knows(adapter.task, user):
                done.again.stale.append((user, adapter.stale))
                continue
            plan = _plan_again(store, adapter, pools.pool(store, digest))
            groups.setdefault((digest, plan.key(None)), (plan, []))[1].append(user)
    for plan, users in groups.values():
        try:
            assemble_users(plan.for_users(users), partial(load, plan.base), progress, done.again)
        except OwnlmError as error:  # too few sharers are left, or the base cannot be loaded
            for user in users:
                last = store.latest_adapters(plan.task.name, [user]).get((plan.task.name, user))
                if last and last.stale:
                    done.again.stale.append((user, f"{last.stale}; {error.what}"))


def _plan_again(store: Store, recipe: AdapterInfo, pool: PoolInfo) -> AssemblyPlan:
    """The plan that makes a recipe again from another pool, with the task and base it was made for."""
    made, task = recipe.provenance, Task.model_validate(recipe.provenance["task"])
    asked = AssembleOptions(task=task.name, seed=made["seed"], **made["assembly"])
    config = TrainConfig.model_validate(pool.provenance["config"])
    return AssemblyPlan(store, task, store.base(recipe.base), config, asked, pool)


def still_stale(store: Store, users: Collection[str]) -> list[tuple[str, str]]:
    """The users with a stale newest adapter, each with the reason."""
    latest = store.latest_adapters(None, users).items()
    return [(user, adapter.stale) for (_, user), adapter in latest if adapter.stale is not None]
