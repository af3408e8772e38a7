"""`home.pools`: pools of pieces of adapters that users agreed to share, and the operations on them."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ownlm.progress import Progress, silent
from ownlm.store import pools as stored
from ownlm.store.drafts import drafts as stored_drafts
from ownlm.store.rows import AdapterInfo, BaseInfo, DraftInfo, PoolInfo
from ownlm.workflows.options import ShareOptions
from ownlm.workflows.plan import pick_base, share_plan
from ownlm.workflows.pools.report import Shared, Withdrawal
from ownlm.workflows.users import newest_adapter

if TYPE_CHECKING:  # the home has its pools, and what needs torch is imported where it is used
    from ownlm.home import Home
    from ownlm.perpcs.pool import Pool
    from ownlm.workflows.pools.usage import Use


class Pools:
    """What a home shares, and what was shared with it: `home.pools`."""

    def __init__(self, home: "Home") -> None:
        self._home = home

    def share(self, task: str | ShareOptions, *, progress: Progress = silent, **options: object) -> Shared:
        """Selects sharers among users who agreed, trains their adapters and gates, and makes a pool of the pieces.

        What is trained is stored soon after it is done, as long as its user agrees: after an interruption the same call
        continues from there. No user is trained twice with the same settings on the same history.

        Raises:
            NotFoundError: no user agrees, or one no longer does when the pool is done.
            DataError: no user has enough records.
            ConfigError, BaseModelError, TrainingError, PoolError, StoreError: as for `Home.train`; no pool is made.
        """
        from ownlm.workflows.pools.share import share

        asked = ShareOptions.of(task, options)
        with self._home.working("ownlm share", progress):
            plan = share_plan(self._home.store, self._home.keep_task(asked.task), asked)
            return share(plan, partial(self._home.load, plan.base, progress), progress)

    def ls(self, task: str | None = None) -> list[PoolInfo]:
        """All pools, or those of a task, oldest first."""
        return stored.pools(self._home.store, None if task is None else self._home.task(task).name)

    def open(self, digest: str | None = None, task: str | None = None) -> tuple[PoolInfo, "Pool"]:
        """The pool whose digest begins so, or the newest, every byte checked; a NotFoundError or PoolError else."""
        from ownlm.perpcs.pool import open_pool

        info = stored.pool(self._home.store, digest, None if task is None else self._home.task(task).name)
        return info, open_pool(Path(info.folder), info.digest)

    def drafts(self, task: str | None = None, user: str | None = None) -> list[DraftInfo]:
        """Drafts, of all users or one, in all tasks or one."""
        return stored_drafts(self._home.store, None if task is None else self._home.task(task).name, user)

    def use(self, info: PoolInfo, pool: "Pool") -> "Use":
        """How often each piece of a pool, as `open` gives it, is used by the home's current recipes."""
        from ownlm.workflows.pools.usage import use_of_pool

        return use_of_pool(self._home.store, info, pool)

    def pieces(self, user: str, task: str | None = None) -> tuple[AdapterInfo, "Use"]:
        """A user's newest recipe, and its sharers with their weights.

        Raises:
            NotFoundError, AdapterError, PoolError: they have none, or several tasks and none is named; it is stale, or
                without a piece; its pool is damaged, or may not be used.
        """
        from ownlm.workflows.pools.usage import use_of_user

        store = self._home.store
        adapter = newest_adapter(store, user, None if task is None else self._home.task(task).name)
        return adapter, use_of_user(store, adapter)

    def add(
        self,
        folder: str | Path,
        task: str,
        *,
        base: str | None = None,
        digest: str | None = None,
        progress: Progress = silent,
    ) -> PoolInfo:
        """Takes in a copy of a pool that others published, after every byte and every piece of it was checked.

        The key that it is signed with is remembered: later versions must be signed with it, and be later.

        Args:
            base: the base it was made for; by default the one of the home with its fingerprint.
            digest: SHA-256 of its `pool.json`, which says which pool it must be.

        Raises:
            PoolError, NotFoundError, StoreError: it is not what it should be, or not for this base; or is here already.
            ConfigError: the digest is none.
        """
        from ownlm.workflows.pools.add import add_pool, base_of, check_digest

        with self._home.working("ownlm pool add", progress):
            spec = self._home.keep_task(task)
            info = pick_base(self._home.store, spec.name, base) if base else base_of(self._home.store, Path(folder))
            wanted = check_digest(digest)
            return add_pool(self._home.store, self._home.load(info, progress), info, spec.name, Path(folder), wanted)

    def trust(self, folder: str | Path, key: str) -> list[str]:
        """Accepts another signing key of a known pool, or that it is not signed any more; returns what was expected.

        Args:
            folder: folder of a version of the pool that is signed with this key.
            key: fingerprint of the signing key, as `ownlm pool verify` prints it; or "unsigned".

        Raises:
            PoolError, NotFoundError: it is not signed so; the home expects no other key.
        """
        from ownlm.workflows.pools.lineage import trust

        return trust(self._home.store, Path(folder), key)

    def keys(self) -> frozenset[str]:
        """The public keys that pools of the home are, or were, signed with."""
        versions = stored.pool_versions(self._home.store)
        return frozenset(one.key for one in versions if one.key) | {one.publisher for one in self.ls() if one.publisher}

    def older_in_use(self, info: PoolInfo) -> list[tuple[PoolInfo, int]]:
        """Older versions of a signed pool, each with how many users' newest adapters are assembled from it."""
        lines = {one.digest: one.line for one in stored.pool_versions(self._home.store)}
        line = lines.get(info.digest)
        older = [one for one in self.ls() if line and lines.get(one.digest) == line and one.version < info.version]
        of = Counter(adapter.pool for adapter in self._home.latest_adapters().values())
        return [(one, of[one.digest]) for one in older if one.digest in of]

    def verify(self, which: str | None = None, digest: str | None = None) -> tuple["Pool", BaseInfo | None]:
        """Checks every byte of a pool, its signature, and every piece, where the home has its base.

        Args:
            which: a folder, or what the digest of a pool of the home begins with; by default the newest.
            digest: SHA-256 of its `pool.json`, which says which pool it must be.

        Returns:
            The pool; and the base that its pieces were checked against, if there is one.

        Raises:
            NotFoundError, PoolError: there is none; it is not what it should be.
        """
        from ownlm.workflows.pools.add import check_digest, verify_pool

        return verify_pool(self._home.store, self._home.load, which, check_digest(digest))

    def withdraw(self, who: str, *, again: bool = True, progress: Progress = silent) -> Withdrawal:
        """Takes a sharer's pieces out of every pool of the home, and assembles the affected users again.

        Each pool gets a version without them; the old one's bytes are removed, and the drafts of their training. Who
        cannot be assembled again stays stale, and is answered by the base until they are.

        Args:
            who: a user, or a sharer's random id, or its beginning.
            again: whether to assemble the affected users again.

        Raises:
            NotFoundError: nothing of theirs is shared, or several ids begin so. StoreError: the home cannot be
                written.
        """
        from ownlm.workflows.pools.withdraw import assemble_again, still_stale, withdraw

        with self._home.working("ownlm pool withdraw", progress):
            done = withdraw(self._home.store, who)
            if again:
                assemble_again(self._home.store, self._home.load, done, progress)
            done.stale = still_stale(self._home.store, done.affected)
        return done

    def remove(self, digest: str, *, progress: Progress = silent) -> tuple[PoolInfo, int]:
        """Takes a pool that no current recipe is made of out of the home; returns it, and how many bytes went.

        One of this home cannot be taken in again: when it goes, the home forgets which users its sharers are.

        Args:
            digest: what its digest begins with.

        Raises:
            NotFoundError, PoolError, StoreError: there is none; recipes are made of it; the home cannot be written.
        """
        from ownlm.workflows.pools.withdraw import remove_pool

        with self._home.working("ownlm pool rm", progress):
            return remove_pool(self._home.store, digest)

    def waiting(self) -> frozenset[str]:
        """Digests of the pools that wait for a withdrawal, since a sharer took their consent back."""
        return frozenset(one.digest for one in self.ls() if one.waits)
