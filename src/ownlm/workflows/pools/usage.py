"""Which pieces of a pool are used: in one user's recipe with which weights, in all recipes how often."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ownlm.errors import AdapterError, quoted
from ownlm.inference.load import load_pool, load_recipe
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import Recipe
from ownlm.store.rows import AdapterInfo, PoolInfo
from ownlm.store.store import Store
from ownlm.workflows.adapters import remake_command


@dataclass(frozen=True, slots=True)
class Use:
    """Amounts of each sharer's pieces that recipes use.

    Attributes:
        sharers: S random ids, the most used first.
        kinds: C kinds of modules, such as q_proj, in the model's order.
        layers: numbers of the L layers.
        amount_CSL: weights, or counts; 0 for a piece that is not used or does not exist.
        recipes: number of recipes.
    """

    sharers: tuple[str, ...]
    kinds: tuple[str, ...]
    layers: tuple[int, ...]
    amount_CSL: NDArray[np.float64]
    recipes: int

    @property
    def total_S(self) -> NDArray[np.float64]:
        """Each sharer's total, without signs."""
        total_S: NDArray[np.float64] = np.abs(self.amount_CSL).sum((0, 2))
        return total_S

    @property
    def share_S(self) -> NDArray[np.float64]:
        """Each sharer's share of all use; 0 if nothing is used."""
        return self.total_S / (self.total_S.sum() or 1.0)

    @property
    def only_used(self) -> "Use":
        """The same, without unused sharers."""
        used = int((self.total_S > 0).sum())
        return Use(self.sharers[:used], self.kinds, self.layers, self.amount_CSL[:, :used], self.recipes)


def weights(recipe: Recipe, pool: Pool) -> Use:
    """The weights of one recipe."""
    amounts = {name: np.zeros(len(pool.gates(name))) for name in pool.modules}
    for name, place_K, weight_K in zip(pool.modules, recipe.place_MK, recipe.weight_MK, strict=True):
        chosen = weight_K != 0
        np.add.at(amounts[name], place_K[chosen], weight_K[chosen])
    return _laid_out(pool, amounts, 1)


def counts(recipes: Iterable[Recipe], pool: Pool) -> Use:
    """How many of these recipes use each piece."""
    amounts, many = {name: np.zeros(len(pool.gates(name))) for name in pool.modules}, 0
    for recipe in recipes:
        many += 1
        for name, place_K, weight_K in zip(pool.modules, recipe.place_MK, recipe.weight_MK, strict=True):
            amounts[name][place_K[weight_K != 0]] += 1
    return _laid_out(pool, amounts, many)


def use_of_user(store: Store, adapter: AdapterInfo) -> Use:
    """The pieces in a user's newest adapter, with their weights.

    Raises:
        AdapterError: it was trained, is stale, or uses no piece.
        PoolError: its pool is damaged.
    """
    which, again = f"of user {adapter.user!r}", f"`ownlm assemble --task {adapter.task} --user {quoted(adapter.user)}`"
    if not adapter.is_recipe:
        raise AdapterError(f"The newest adapter {which} was trained: no piece of a pool is in it", hint=again)
    if adapter.stale is not None:
        what = f"The assembly {which} is stale: {adapter.stale}"
        raise AdapterError(what, hint=remake_command(store, adapter))
    pool = load_pool(store, adapter)
    use = weights(load_recipe(adapter, pool), pool).only_used
    if not use.sharers:
        raise AdapterError(f"The recipe {which} uses no piece: the base alone was best on records held back")
    return use


def use_of_pool(store: Store, info: PoolInfo, pool: Pool) -> Use:
    """How often current recipes use the pieces of a pool; a PoolError where a recipe is damaged."""
    current = store.latest_adapters().values()
    mine = (one for one in current if one.pool == info.digest and (one.stale is None or one.waits))
    return counts((load_recipe(one, pool) for one in mine), pool)


def _laid_out(pool: Pool, amounts: Mapping[str, NDArray[np.float64]], recipes: int) -> Use:
    sharers, where = pool.manifest.sharers, {name: _kind_and_layer(name) for name in pool.modules}
    kinds = tuple(dict.fromkeys(kind for kind, _ in where.values()))
    layers = tuple(sorted({layer for _, layer in where.values()}))
    row = {sharer: number for number, sharer in enumerate(sharers)}
    amount_CSL = np.zeros((len(kinds), len(sharers), len(layers)))
    for name, (kind, layer) in where.items():
        rows = [row[pool.sharer(name, place)] for place in range(len(amounts[name]))]
        amount_CSL[kinds.index(kind), rows, layers.index(layer)] += amounts[name]
    most = np.argsort(-np.abs(amount_CSL).sum((0, 2)), kind="stable")  # of equals, the id that sorts first
    return Use(tuple(sharers[n] for n in most), kinds, layers, amount_CSL[:, most], recipes)


def _kind_and_layer(module: str) -> tuple[str, int]:
    """A module's kind, and the number of its layer.

    >>> _kind_and_layer("model.layers.12.self_attn.q_proj")
    ('q_proj', 12)
    """
    *path, kind = module.split(".")
    return kind, next((int(part) for part in path if part.isdigit()), 0)
