"""Recipes made into matrices: one person's adapter, or one pair of matrices for everybody."""

from collections.abc import Sequence
from math import isclose

import torch
from torch import Tensor

from ownlm.errors import AdapterError, ConfigError
from ownlm.model.adapter import Adapter, LoraPair
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.perpcs.equations import product
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
    """One adapter that adds what both add.

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
    """The nearest adapter of a lower rank, module by module, and how far it is.

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


def recipe_bank(base: BaseLM, pool: Pool, recipes: Sequence[Recipe], first: int = 0) -> LoraBank:
    """A slot for each recipe of `product`: one pair of matrices for everybody, and a person is a row of weights.

        dW_u x = B_all ((w_u (x) 1_r) * (A_all x))

    Of the pool's pieces, those are resident that one of the recipes uses.

    Args:
        first: the number of the first slot.

    Raises:
        PoolError: a recipe is for another pool.

    Source: ours.
    """
    for recipe in recipes:
        check_recipe(recipe, pool)
    used = [sorted(set().union(*(_used(one, number) for one in recipes))) for number in range(len(pool.modules))]
    bank = _shared_bank(base, pool, used, len(recipes), first)
    for slot, recipe in enumerate(recipes):
        _load_row(bank, slot, recipe, pool, used)
    return bank


def pool_bank(base: BaseLM, pool: Pool, rows: int, first: int = 0) -> LoraBank:
    """The same with all of a pool's pieces resident, and rows for people who come and go; `load_row` fills one.

    Args:
        rows: how many people there is room for.
        first: the number of the first slot.

    Source: ours.
    """
    return _shared_bank(base, pool, _all_places(pool), rows, first)


def load_row(bank: LoraBank, slot: int, recipe: Recipe, pool: Pool) -> None:
    """Makes a slot of a pool's bank answer as a recipe of `product` says; a PoolError where it is for another pool."""
    check_recipe(recipe, pool)
    _load_row(bank, slot, recipe, pool, _all_places(pool))


def _all_places(pool: Pool) -> list[Sequence[int]]:
    return [range(len(pool.gates(name))) for name in pool.modules]


def _shared_bank(base: BaseLM, pool: Pool, places: Sequence[Sequence[int]], rows: int, first: int) -> LoraBank:
    """Room for rows of weights, beside these pieces of each module."""
    most = max(1, *map(len, places))
    bank = LoraBank(base.model, pool.lora, rows, scaled="weights", pieces=most, shared=True, first=first)
    for name, own in zip(pool.modules, places, strict=True):
        A_NRD, B_NOR = pieces(pool, name, [*own, *[None] * (most - len(own))])
        bank.load_pair(0, name, *product(torch.ones(most), A_NRD, B_NOR))
    return bank


def _load_row(bank: LoraBank, slot: int, recipe: Recipe, pool: Pool, places: Sequence[Sequence[int]]) -> None:
    """A recipe's weights, in the order of the resident pieces."""
    assert recipe.combine == "product"  # a row of weights can make nothing else
    rows = dict[str, Tensor]()
    for number, name in enumerate(pool.modules):
        used = _used(recipe, number)
        rows[name] = torch.zeros(bank.pieces)
        rows[name][: len(places[number])] = torch.tensor([used.get(place, 0.0) for place in places[number]])
    bank.load_weights(slot, rows)


def _used(recipe: Recipe, module: int) -> dict[int, float]:
    """The places of the pieces that a recipe uses of a module, with their weights."""
    row = zip(recipe.place_MK[module].tolist(), recipe.weight_MK[module].tolist(), strict=True)
    return {place: weight for place, weight in row if weight}
