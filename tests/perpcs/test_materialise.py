"""Recipes made into adapters: as stacked in PEFT, as nearest of a lower rank, and as everybody's in one bank."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ownlm.config import LoraConfig
from ownlm.errors import AdapterError, PoolError
from ownlm.model.adapter import Adapter, LoraPair, write_peft_folder
from ownlm.model.base import BaseLM
from ownlm.model.piece_bank import attached
from ownlm.perpcs.materialise import joined, materialise, of_rank, pieces, recipe_bank, stacked
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import Combine, Recipe, made_of
from tests.perpcs.assembling import IDS, MLP, QKVO, logits_of, pieces_for, pool_for, row_of, sharers_of

LORAS = {"attention": QKVO, "mlp": MLP}


@pytest.fixture(scope="module", params=list(LORAS))
def pool(base: BaseLM, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Pool:
    lora = LORAS[request.param]
    return pool_for(base, tmp_path_factory.mktemp("pool") / "pool", pieces_for(base, lora=lora), lora)


def random_recipe(pool: Pool, combine: Combine = "product", k: int = 3, seed: int = 0) -> Recipe:
    draw = np.random.default_rng(seed)
    place_MK = np.stack([draw.choice(len(pool.gates(name)), k, replace=False) for name in pool.modules])
    weight_MK = draw.normal(size=place_MK.shape)  # as after adapting: some below 0, some above 1
    return made_of(combine, torch.from_numpy(place_MK), torch.from_numpy(weight_MK))


def naive(pool: Pool, recipe: Recipe, name: str) -> np.ndarray:
    """What the recipe adds to a module's weight, before the scaling."""
    number = pool.modules.index(name)
    chosen = list(zip(recipe.place_MK[number], recipe.weight_MK[number].astype(np.float64), strict=True))
    A_NRD, B_NOR = (part.double().numpy() for part in pool.whole(name)[:2])
    if recipe.combine == "product":
        return sum(w * B_NOR[place] @ A_NRD[place] for place, w in chosen)
    return sum(w * B_NOR[place] for place, w in chosen) @ sum(w * A_NRD[place] for place, w in chosen)


@pytest.mark.parametrize("combine", ["product", "factors"])
def test_matrices(pool: Pool, combine: Combine) -> None:
    recipe = random_recipe(pool, combine)
    adapter = materialise(recipe, pool)
    assert (adapter.lora.r, adapter.lora.scaling) == (6 if combine == "product" else 2, pool.lora.scaling)
    assert tuple(adapter.pairs) == pool.modules
    for name, pair in adapter.pairs.items():
        update = (pair.B_OR.double() @ pair.A_RD.double()).numpy()
        np.testing.assert_allclose(update, naive(pool, recipe, name), atol=1e-6)


@pytest.mark.parametrize("combine", ["product", "factors"])
def test_one_sharer_alone_is_that_sharers_adapter(pool: Pool, combine: Combine) -> None:
    places = torch.full((len(pool.modules), 1), 2)
    adapter = materialise(made_of(combine, places, torch.ones(places.shape)), pool)
    assert adapter.lora == pool.lora
    for name, pair in adapter.pairs.items():
        A_RD, B_OR = pool.piece(name, 2)
        assert torch.equal(pair.A_RD, A_RD) and torch.equal(pair.B_OR, B_OR)


@pytest.mark.parametrize("combine", ["product", "factors"])
def test_the_same_logits_in_peft(base: BaseLM, pool: Pool, combine: Combine, tmp_path: Path) -> None:
    adapter = materialise(random_recipe(pool, combine), pool)
    write_peft_folder(tmp_path / "adapter", adapter.to_bytes(), adapter.lora, str(base.folder))
    plain = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
    with torch.no_grad():
        bare = plain(torch.tensor([IDS])).logits[0]
        peft = PeftModel.from_pretrained(plain, tmp_path / "adapter")
        theirs = peft(torch.tensor([IDS])).logits[0]
    ours = logits_of(base, adapter)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert float((ours - bare).abs().max()) > 1e-2


def test_the_same_logits_as_pieces_stacked_in_peft(base: BaseLM, pool: Pool, tmp_path: Path) -> None:
    """PEFT's own weighted sum of adapters, `cat`, of each sharer whole."""
    chosen, weights = [3, 0, 4], [0.6, 0.3, 0.1]
    shape = (len(pool.modules), 1)
    recipe = made_of("product", torch.tensor([chosen]).repeat(*shape), torch.tensor([weights]).repeat(*shape))
    plain = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
    peft = None
    for place in chosen:
        whole = Adapter(pool.lora, {name: LoraPair(*pool.piece(name, place)) for name in pool.modules})
        folder, name = tmp_path / str(place), f"sharer {place}"
        write_peft_folder(folder, whole.to_bytes(), pool.lora, str(base.folder))
        if peft is None:
            peft = PeftModel.from_pretrained(plain, folder, adapter_name=name)
        else:
            peft.load_adapter(folder, adapter_name=name)
    peft.add_weighted_adapter([f"sharer {place}" for place in chosen], weights, "sum", combination_type="cat")
    peft.set_adapter("sum")
    with torch.no_grad():
        theirs = peft(torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(logits_of(base, materialise(recipe, pool)), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("both_ways")
def test_the_same_logits_in_one_bank_for_everybody(base: BaseLM, pool: Pool) -> None:
    recipes = [random_recipe(pool, k=k, seed=k) for k in (3, 1, 2)]
    bank = recipe_bank(base, pool, recipes)
    with attached(bank) as banks, torch.no_grad():
        mixed = base.logits(row_of([0, 1, 2]).pack(), banks).view(3, len(IDS), -1)
        alone = [base.logits(row_of([slot]).pack(), banks) for slot in range(3)]
    for slot, recipe in enumerate(recipes):
        expected = logits_of(base, materialise(recipe, pool))
        torch.testing.assert_close(mixed[slot], expected, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(alone[slot], expected, atol=2e-5, rtol=1e-5)
    assert float((mixed[0] - mixed[1]).abs().max()) > 1e-2


def test_only_used_pieces_are_resident(base: BaseLM, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    read, piece = [], Pool.piece

    def counted(self: Pool, module: str, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        read.append((module, place))
        return piece(self, module, place)

    monkeypatch.setattr(Pool, "piece", counted)
    recipes = [random_recipe(pool, k=1, seed=seed) for seed in (0, 1)]
    bank = recipe_bank(base, pool, recipes)
    used = {(name, int(one.place_MK[m, 0])) for one in recipes for m, name in enumerate(pool.modules)}
    assert sorted(read) == sorted(used) and bank.most <= 2


@pytest.mark.usefixtures("both_ways")
def test_weights_of_zero_read_nothing(base: BaseLM, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    places = torch.full((len(pool.modules), 2), 900)  # no such pieces: nobody may look
    nothing = made_of("product", places, torch.zeros(places.shape))
    monkeypatch.setattr(Pool, "piece", lambda *_: pytest.fail("a piece was read"))
    adapter = materialise(nothing, pool)
    bank = recipe_bank(base, pool, [nothing])
    with attached(bank) as banks, torch.no_grad():
        assert torch.equal(base.logits(row_of([0]).pack(), banks), base.logits(row_of([-1]).pack()))
    assert not any(pair.A_RD.any() or pair.B_OR.any() for pair in adapter.pairs.values())


@pytest.mark.usefixtures("both_ways")
def test_modules_with_few_pieces_or_none(base: BaseLM, tmp_path: Path) -> None:
    given, (first, second, *_) = pieces_for(base, 3), pieces_for(base, 3)
    one = sharers_of(3)[1]
    pool = pool_for(base, tmp_path / "pool", given | {first: {}, second: {one: given[second][one]}})
    place_MK, weight_MK = torch.zeros(len(pool.modules), 2, dtype=torch.int64), torch.full((len(pool.modules), 2), 0.5)
    place_MK[2:, 1], weight_MK[0], weight_MK[1] = 2, 0.0, torch.tensor([1.0, 0.0])
    recipe = made_of("product", place_MK, weight_MK)
    adapter = materialise(recipe, pool)
    assert not adapter.pairs[first].A_RD.any() and not adapter.pairs[first].B_OR.any()
    update = adapter.pairs[second].B_OR @ adapter.pairs[second].A_RD
    torch.testing.assert_close(update, given[second][one].B_OR @ given[second][one].A_RD)
    bank = recipe_bank(base, pool, [recipe])
    with attached(bank) as banks, torch.no_grad():
        ours = base.logits(row_of([0]).pack(), banks)
    torch.testing.assert_close(ours, logits_of(base, adapter), atol=2e-5, rtol=1e-5)
    A_KRD, B_KOR = pieces(pool, first, [None, None])
    assert A_KRD.shape == (2, 2, 64) and B_KOR.shape == (2, 64, 2) and not A_KRD.any() and not B_KOR.any()


def test_a_recipe_for_another_pool(base: BaseLM, pool: Pool) -> None:
    other = made_of("product", torch.full((len(pool.modules), 1), 5), torch.ones(len(pool.modules), 1))
    for use in (
        lambda: materialise(other, pool),
        lambda: stacked(other, pool),
        lambda: recipe_bank(base, pool, [other]),
    ):
        with pytest.raises(PoolError, match="another pool"):
            use()


def test_pieces_side_by_side_are_not_weighted(pool: Pool) -> None:
    recipe = random_recipe(pool)
    for number, (name, pair) in enumerate(stacked(recipe, pool).pairs.items()):
        for k, place in enumerate(recipe.place_MK[number].tolist()):
            A_RD, B_OR = pool.piece(name, place)
            assert torch.equal(pair.A_RD[2 * k : 2 * k + 2], A_RD)
            assert torch.equal(pair.B_OR[:, 2 * k : 2 * k + 2], B_OR)


def test_joined(base: BaseLM, pool: Pool) -> None:
    one, other = (materialise(random_recipe(pool, k=k, seed=k), pool) for k in (2, 3))
    both = joined(one, other)
    assert (both.lora.r, both.lora.scaling) == (10, pool.lora.scaling)
    for name, pair in both.pairs.items():
        parts = [part.pairs[name] for part in (one, other)]
        torch.testing.assert_close(pair.B_OR @ pair.A_RD, sum(part.B_OR @ part.A_RD for part in parts))
    logits_of(base, both)
    scaled = Adapter(other.lora.model_copy(update={"lora_alpha": 99.0}), other.pairs)
    fewer = Adapter(other.lora, dict(list(other.pairs.items())[1:]))
    for wrong in (scaled, fewer):
        with pytest.raises(AdapterError, match="cannot be joined"):
            joined(one, wrong)


def random_adapter(rows: int, columns: int, rank: int, seed: int = 0) -> Adapter:
    draw = torch.Generator().manual_seed(seed)

    def pair() -> LoraPair:
        return LoraPair(torch.randn(rank, columns, generator=draw), torch.randn(rows, rank, generator=draw))

    return Adapter(LoraConfig(r=rank, lora_alpha=3 * rank), {"one.q_proj": pair(), "two.q_proj": pair()})


def updates(adapter: Adapter) -> list[np.ndarray]:
    return [(pair.B_OR.double() @ pair.A_RD.double()).numpy() for pair in adapter.pairs.values()]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 8), st.integers(1, 10), st.integers(0, 99))
def test_of_rank_is_the_truncated_svd(rows: int, columns: int, own: int, rank: int, seed: int) -> None:
    adapter = random_adapter(rows, columns, own, seed)
    near, error = of_rank(adapter, rank)
    assert near.lora.r == rank and near.lora.scaling == pytest.approx(3)
    lost = whole = 0.0
    for before, after, pair in zip(updates(adapter), updates(near), near.pairs.values(), strict=True):
        assert pair.A_RD.shape == (rank, columns) and pair.B_OR.shape == (rows, rank)
        assert pair.A_RD.dtype == torch.float32 and pair.A_RD.is_contiguous() and pair.B_OR.is_contiguous()
        U, s, Vt = np.linalg.svd(before)
        k = min(rank, len(s))
        np.testing.assert_allclose(after, U[:, :k] * s[:k] @ Vt[:k], atol=1e-4)
        lost, whole = lost + ((before - after) ** 2).sum(), whole + (before**2).sum()
    assert error == pytest.approx((lost / whole) ** 0.5, abs=1e-5)


def test_of_rank_of_what_a_recipe_makes(base: BaseLM, pool: Pool) -> None:
    adapter = materialise(random_recipe(pool), pool)
    errors = []
    for rank in (1, 2, 4, 6, 9):
        near, error = of_rank(adapter, rank)
        errors.append(error)
        if rank >= 6:  # the adapter's own
            torch.testing.assert_close(logits_of(base, near), logits_of(base, adapter), atol=2e-5, rtol=1e-5)
    assert errors[0] > errors[1] > errors[2] > 0.1 and errors[3:] == pytest.approx([0, 0], abs=1e-6)


def test_of_rank_of_nothing() -> None:
    pair = LoraPair(torch.zeros(4, 6), torch.zeros(5, 4))
    near, error = of_rank(Adapter(LoraConfig(r=4, lora_alpha=4), {"q_proj": pair}), 2)
    assert error == 0 and not updates(near)[0].any() and near.lora.r == 2
