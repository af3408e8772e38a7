"""Recipes as bytes: small, exact to a 24-bit step, and never read wrongly."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ownlm.errors import PoolError
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import Combine, Recipe, assembled_shape, check_recipe, made_of, rounded
from tests.perpcs.pools import LORA, SHAPES, SHARERS, make_pool, random_pieces

STEP = 2.0**-23
Q, V = SHAPES


def recipe_of(modules: int, k: int, places: int, combine: Combine = "product", seed: int = 0) -> Recipe:
    draw = np.random.default_rng(seed)
    weight_MK = draw.dirichlet(np.ones(k), modules)
    place_MK = np.stack([draw.choice(places, k, replace=False) for _ in range(modules)])
    place_MK[-1, -1] = places - 1
    return made_of(combine, torch.from_numpy(place_MK), torch.from_numpy(weight_MK))


def equal(one: Recipe, other: Recipe) -> bool:
    return (
        one.combine == other.combine
        and np.array_equal(one.place_MK, other.place_MK)
        and np.array_equal(one.weight_MK, other.weight_MK)
    )


shapes = st.tuples(st.integers(1, 6), st.integers(1, 4))


@given(st.data(), shapes, st.sampled_from(["product", "factors"]), st.sampled_from([3, 256, 257, 65_536]))
def test_round_trip(data: st.DataObject, shape: tuple[int, int], combine: Combine, places: int) -> None:
    place_MK = data.draw(arrays.arrays(np.uint16, shape, elements=st.integers(0, places - 1)))
    weight_MK = data.draw(arrays.arrays(np.float32, shape, elements=st.floats(-9, 9, width=32)))
    kept = made_of(combine, torch.from_numpy(place_MK.astype(np.int64)), torch.from_numpy(weight_MK))
    assert kept.combine == combine and kept.top_k == shape[1]
    assert kept.place_MK.dtype == np.uint16 and np.array_equal(kept.place_MK, place_MK)
    whole = max(1.0, float(abs(weight_MK).max()))
    assert kept.weight_MK.dtype == np.float32
    assert float(abs(kept.weight_MK - weight_MK).max()) <= whole * STEP
    assert equal(Recipe.from_bytes(kept.to_bytes()), kept)  # what is stored once does not change again


@given(arrays.arrays(np.float64, (2, 3), elements=st.floats(0, 1)))
def test_assembly_sees_the_weights_that_are_kept(weight_UK: np.ndarray) -> None:
    seen = rounded(torch.from_numpy(weight_UK)).float()
    kept = made_of("product", torch.zeros(2, 3, dtype=torch.int64), seen)
    assert torch.equal(torch.from_numpy(kept.weight_MK), seen)
    assert float((seen.double() - torch.from_numpy(weight_UK)).abs().max()) <= STEP


@pytest.mark.parametrize(("places", "most"), [(50, 1500), (256, 1500), (257, 2000), (5000, 2000)])
def test_size(places: int, most: int) -> None:
    assert len(recipe_of(modules=120, k=3, places=places).to_bytes()) <= most


def test_weights_by_module() -> None:
    recipe = recipe_of(2, 3, 9)
    by_name = recipe.weights((Q, V))
    assert list(by_name) == [Q, V] and by_name[V].tolist() == recipe.weight_MK[1].tolist()
    by_name[V].zero_()  # a copy
    assert recipe.weight_MK[1].any()


def test_shapes_of_what_is_assembled() -> None:
    stacked = assembled_shape(LORA, "product", 3)
    assert (stacked.r, stacked.scaling) == (6, LORA.scaling)
    assert assembled_shape(LORA, "factors", 3) == LORA


@pytest.mark.parametrize("places", [9, 300])
def test_no_changed_byte_is_read_as_a_good_one(places: int) -> None:
    data = recipe_of(4, 3, places).to_bytes()
    for at in range(len(data)):
        for change in (1, 128, 255):
            with pytest.raises(PoolError, match="recipe is damaged"):
                Recipe.from_bytes(data[:at] + bytes([data[at] ^ change]) + data[at + 1 :])
        with pytest.raises(PoolError, match="recipe is damaged"):
            Recipe.from_bytes(data[:at])
    with pytest.raises(PoolError, match="recipe is damaged"):
        Recipe.from_bytes(data + b"\0")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return make_pool(tmp_path_factory.mktemp("recipes") / "pool", random_pieces())


def sealed(data: bytes) -> bytes:
    """As if written so: other programs' bytes, with a check that is right."""
    return data + struct.pack("<I", zlib.crc32(data))


heads = st.builds(
    struct.Struct("<BBBHHf").pack,
    st.integers(0, 2), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 4),
    st.floats(width=32),
)  # fmt: skip


@given(head=heads, rest=st.binary(max_size=40), seal=st.booleans())
def test_bytes_of_others_are_refused_or_good(pool: Pool, head: bytes, rest: bytes, seal: bool) -> None:
    for data in (head + rest, rest, head[: len(rest)]):
        try:
            recipe = Recipe.from_bytes(sealed(data) if seal else data)
            check_recipe(recipe, pool)
        except PoolError:
            continue
        assert len(recipe.place_MK) == len(pool.modules) and recipe.top_k > 0 and np.isfinite(recipe.weight_MK).all()


def test_recipes_for_another_pool(pool: Pool) -> None:
    place_MK = torch.tensor([[0, 1], [2, 0]])
    check_recipe(made_of("product", place_MK, torch.full((2, 2), 0.5)), pool)
    check_recipe(made_of("product", torch.tensor([[0, 9], [2, 0]]), torch.tensor([[1.0, 0], [0.5, 0.5]])), pool)
    for wrong in (
        made_of("product", torch.tensor([[0, 3], [2, 0]]), torch.full((2, 2), 0.5)),  # no fourth sharer
        made_of("product", torch.tensor([[0, 3], [2, 0]]), torch.tensor([[1.0, -0.5], [0.5, 0.5]])),
        made_of("product", place_MK[:1], torch.full((1, 2), 0.5)),  # a module is missing
        made_of("product", place_MK.repeat(2, 1), torch.full((4, 2), 0.5)),
    ):
        with pytest.raises(PoolError, match="another pool"):
            check_recipe(wrong, pool)


def test_a_module_that_fewer_share(tmp_path: Path) -> None:
    pieces = random_pieces()
    few = make_pool(tmp_path / "few", {Q: {SHARERS[0]: pieces[Q][SHARERS[0]]}, V: pieces[V]})
    with pytest.raises(PoolError, match="another pool"):
        check_recipe(made_of("product", torch.tensor([[1], [2]]), torch.ones(2, 1)), few)
    check_recipe(made_of("product", torch.tensor([[0], [2]]), torch.ones(2, 1)), few)
