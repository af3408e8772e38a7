"""Pools of sharers' pieces, for the methods that use them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ownlm.bench.case import BASE, Case, Changes
from ownlm.bench.methods.method import Count, Fraction, Made
from ownlm.bench.results import Costs
from ownlm.home import Home
from ownlm.inference.load import RECIPE
from ownlm.model.base import BaseLM
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import Recipe
from ownlm.store.pools import users_of
from ownlm.store.rows import AdapterInfo, PoolInfo
from ownlm.workflows.options import Select
from ownlm.workflows.plan import digest


@dataclass(frozen=True, slots=True)
class Opened:
    """A pool in memory, its base, and the home of its sharers."""

    home: Home
    base: BaseLM
    pool: Pool

    def answering(self, case: Case, recipes: Mapping[str, Recipe], rag: int, costs: Costs) -> Made:
        """A method that answers with a recipe of `product` for each user; equal recipes are one adapter."""
        adapters = {user: self._adapter(recipe) for user, recipe in recipes.items()}
        return Made(lambda queries: case.generate(self.home, queries, case.retrieving(rag), adapters), costs)

    def _adapter(self, recipe: Recipe) -> AdapterInfo:
        """A recipe as an adapter that is not in the home."""
        manifest, data = self.pool.manifest, recipe.to_bytes()
        return AdapterInfo(
            id=digest(data.hex()), user="", task="", base=BASE, base_fingerprint=manifest.base_fingerprint, key="",
            history="", records=0, upto=0, blob=None, bytes=len(data), shape=self.pool.lora.model_dump(mode="json"),
            provenance={"assembly": {"combine": "product", "top_k": recipe.top_k}}, steps=0, tokens=0, loss_first=None,
            loss_last=None, seconds=0.0, method=RECIPE, recipe=data, pool=self.pool.digest,
        )  # fmt: skip


def open_pool(case: Case, share: Changes, adapt: Changes) -> Opened:
    """The pool of a method on the adapted base.

    Args:
        share: Settings of pools that differ from the plan's.
        adapt: Settings of stage 1 that differ from the plan's.
    """
    home, pool = pool_of(case, case.adapted(adapt), share)
    return Opened(home, case.loaded(home), home.pools.open(pool.digest)[1])


def pool_of(case: Case, base: Path, share: Changes) -> tuple[Home, PoolInfo]:
    """A pool of sharers' pieces, made once for each of its settings, and the home of the sharers.

    Its cost goes to `case.shared`, not to a method's: the training of all sharers in it, even where another pool needed
    them too.

    Args:
        base: Folder of the base.
        share: Settings that differ from the plan's; arguments of `make_pool`.

    Raises:
        DataError, NotFoundError: No user shares, or none with enough records. TrainingError, and others: as
            `Pools.share`.
    """
    home, pool = make_pool(case, base, **{**case.share, **share})
    sharers = set(users_of(home.store, pool=pool.digest).values())
    took = [one for one in home.pools.drafts(case.task.name) if one.user in sharers]
    seconds, tokens = sum(one.seconds for one in took), sum(one.tokens for one in took)
    case.note("the pool", share, pool.sharers, seconds, tokens)
    return home, pool


def make_pool(
    case: Case, base: Path, *, select: Select = "clustered", sharers: Count = 50, ratio: Fraction = 1.0,
    centre: bool = False, preset: str | None = None, gate_steps: Count | None = None,
    gate_learning_rate: Fraction | None = None, **train: Any,
) -> tuple[Home, PoolInfo]:  # fmt: skip
    """As `pool_of`, with the settings of the pool as arguments.

    Pools that differ only in who shares, or how much, are in one home: no sharer is trained twice.

    Args:
        train: Settings of the sharers' adapters that differ from the preset, by their names in `TrainConfig` and its
            parts. All other settings are as for `Pools.share`.

    Source: Per-Pcs (arXiv 2406.10471), sections 3.1 and 4.
    """
    how = {"preset": preset, "gate_steps": gate_steps, "gate_learning_rate": gate_learning_rate, **train}
    home = case.home("share", base, how, "sharers")
    wanted = {"select": select, "asked_for": sharers, "ratio": ratio, "centre": centre}
    for pool in home.pools.ls(case.task.name):
        if pool.provenance["sharing"] == wanted:
            return home, pool
    for history in home.histories(case.task.name):
        home.consent(history.user, True)
    if train.get("profile"):
        case.profile(home)
    shared = home.pools.share(
        case.task.name, base=BASE, seed=case.seed, select=select, sharers=sharers, ratio=ratio, centre=centre,
        progress=case.progress, **how,
    )  # fmt: skip
    return home, shared.pool
