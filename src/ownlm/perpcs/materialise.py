"""Makes matrices of recipes: one user's adapter, or a bank with many pieces of a pool."""

from collections.abc import Sequence
from math import isclose

import numpy as np
import torch
from torch import Tensor

from ownlm.errors import AdapterError, ConfigError
from ownlm.model.adapter import Adapter, LoraPair
from ownlm.model.base import BaseLM
from ownlm.model.piece_bank import PieceBank
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import Recipe, assembled_shape, check_recipe, combined


def materialise(recipe: Recipe, pool: Pool) -> Adapter:
    """The adapter that a recipe makes: of rank K R for `product`, exactly; of rank R for `factors`.

    Raises:
        PoolError: the recipe is for another pool.
    """
    return _made(recipe, pool, weighted=True)


def stacked(recipe: Recipe, pool: Pool) -> Adapter:
    """The pieces of a recipe of `product` side by side, not weighted: a bank scaled by weights does that."""
    assert recipe.combine == "product"
    return _made(recipe, pool, weighted=False)


def _made(recipe: Recipe, pool: Pool, weighted: bool) -> Adapter:
    check_recipe(recipe, pool)
    pairs = {}
    for name, place_K, weight_K in zip(pool.modules, recipe.place_MK, recipe.weight_MK, strict=True):
        A_KRD, B_KOR = pieces(
            pool, name, [int(place) if w else None for place, w in zip(place_K, weight_K, strict=True)]
        )
        put_K = torch.from_numpy(weight_K.copy()) if weighted else torch.ones(recipe.top_k)
        A_HD, B_OH = combined(recipe.combine, put_K, A_KRD, B_KOR)
        pairs[name] = LoraPair(A_HD.contiguous(), B_OH.contiguous())
    return Adapter(assembled_shape(pool.lora, recipe.combine, recipe.top_k), pairs)


def pieces(pool: Pool, module: str, places: Sequence[int | None]) -> tuple[Tensor, Tensor]:
    """Pieces of a module by their places, zeros for None: A_KRD, B_KOR."""
    height, width = pool.shape(module)
    nothing = torch.zeros(pool.lora.r, width), torch.zeros(height, pool.lora.r)
    read = [nothing if place is None else pool.piece(module, place) for place in places]
    return torch.stack([A_RD for A_RD, _ in read]), torch.stack([B_OR for _, B_OR in read])


def joined(one: Adapter, other: Adapter) -> Adapter:
    """The sum of two adapters, as one adapter.

        B_1 A_1 + B_2 A_2  =  [B_1 B_2] [A_1; A_2]

    Raises:
        AdapterError: they are for other modules, or scaled differently.
    """
    if one.pairs.keys() != other.pairs.keys() or not isclose(one.lora.scaling, other.lora.scaling):
        raise AdapterError("Two adapters for different modules, or of different scaling, cannot be joined")
    shape = {"r": one.lora.r + other.lora.r, "lora_alpha": one.lora.lora_alpha + other.lora.lora_alpha}
    pairs = {
        name: LoraPair(
            torch.cat([one.pairs[name].A_RD, other.pairs[name].A_RD]),
            torch.cat([one.pairs[name].B_OR, other.pairs[name].B_OR], dim=1),
        )
        for name in one.pairs
    }
    return Adapter(one.lora.model_copy(update=shape), pairs)


def of_rank(adapter: Adapter, rank: int) -> tuple[Adapter, float]:
    """The nearest adapter of a lower rank, module by module, and its relative distance.

        B A = U S V^T;   B' = U_r sqrt(S_r),  A' = sqrt(S_r) V_r^T

    Args:
        rank: at least 1; the scaling stays.

    Returns:
        The adapter; and |B A - B' A'| / |B A|, Frobenius over all modules.

    Raises:
        ConfigError: the rank is below 1.

    Source: Eckart and Young (1936): no pair of that rank is nearer.
    """
    if rank < 1:
        raise ConfigError("An adapter has a rank of at least 1", got=rank)
    pairs, lost, whole = {}, 0.0, 0.0
    for name, pair in adapter.pairs.items():
        Q_OH, upper_HH = torch.linalg.qr(pair.B_OR.double())
        P_DH, lower_HH = torch.linalg.qr(pair.A_RD.double().T)
        U_HH, s_H, Vt_HH = torch.linalg.svd(upper_HH @ lower_HH.T, full_matrices=False)
        root_r = s_H[:rank].sqrt()
        pairs[name] = LoraPair(
            _filled(((P_DH @ Vt_HH[:rank].T) * root_r).T, rank, 0).to(pair.A_RD).contiguous(),
            _filled((Q_OH @ U_HH[:, :rank]) * root_r, rank, 1).to(pair.B_OR).contiguous(),
        )
        lost, whole = lost + float(s_H[rank:].square().sum()), whole + float(s_H.square().sum())
    shape = {"r": rank, "lora_alpha": rank * adapter.lora.scaling}
    return Adapter(adapter.lora.model_copy(update=shape), pairs), (lost / whole) ** 0.5 if whole else 0.0


def _filled(matrix: Tensor, rank: int, dim: int) -> Tensor:
    """With rows, or columns, of zeros up to the rank."""
    missing = rank - matrix.shape[dim]
    if missing <= 0:
        return matrix
    shape = list(matrix.shape)
    shape[dim] = missing
    return torch.cat([matrix, matrix.new_zeros(shape)], dim=dim)


def recipe_bank(base: BaseLM, pool: Pool, recipes: Sequence[Recipe], first: int = 0) -> PieceBank:
    """A bank with a slot for each recipe of `product`; only pieces that a recipe uses are resident.

    Args:
        first: the number of the first slot.

    Raises:
        PoolError: a recipe is for another pool.

    Source: ours.
    """
    for recipe in recipes:
        check_recipe(recipe, pool)
    used = [sorted(set().union(*(_used(one, number) for one in recipes))) for number in range(len(pool.modules))]
    bank = _bank(base, pool, used, len(recipes), first)
    for slot, recipe in enumerate(recipes):
        rows = zip(used, recipe.place_MK.tolist(), recipe.weight_MK.tolist(), strict=True)
        place_MK = [[own.index(n) if w else 0 for n, w in zip(ns, ws, strict=True)] for own, ns, ws in rows]
        _put(bank, slot, recipe, pool, torch.tensor(place_MK))
    return bank


def pool_bank(base: BaseLM, pool: Pool, slots: int, first: int = 0) -> PieceBank:
    """A bank with all of a pool's pieces resident, and empty slots; `put_recipe` fills one.

    Args:
        slots: number of users with a slot at the same time.
        first: the number of the first slot.

    Source: ours.
    """
    return _bank(base, pool, [range(len(pool.gates(name))) for name in pool.modules], slots, first)


def put_recipe(bank: PieceBank, slot: int, recipe: Recipe, pool: Pool) -> None:
    """Puts a recipe of `product` into a slot of a pool's bank; raises a PoolError where it is for another pool."""
    check_recipe(recipe, pool)
    _put(bank, slot, recipe, pool, torch.from_numpy(recipe.place_MK.astype(np.int64)))


def _put(bank: PieceBank, slot: int, recipe: Recipe, pool: Pool, place_MK: Tensor) -> None:
    assert recipe.combine == "product"  # pieces one by one can make nothing else
    bank.load(slot, pool.modules, place_MK, torch.from_numpy(recipe.weight_MK.copy()))


def _bank(base: BaseLM, pool: Pool, places: Sequence[Sequence[int]], slots: int, first: int) -> PieceBank:
    """With these pieces of each module resident; zeros where there is none."""
    resident = dict(zip(pool.modules, places, strict=True))
    return PieceBank(base.model, pool.lora, lambda name: pieces(pool, name, resident[name] or [None]), slots, first)


def _used(recipe: Recipe, module: int) -> set[int]:
    """The places of the pieces that a recipe uses of a module."""
    return set(recipe.place_MK[module][recipe.weight_MK[module] != 0].tolist())
