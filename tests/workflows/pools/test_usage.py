"""Which pieces are used, against naive loops over recipes."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from ownlm.errors import AdapterError, NotFoundError
from ownlm.home import Home
from ownlm.perpcs.recipe import Recipe
from ownlm.workflows.pools.usage import counts, weights
from tests.shared_home import QUICK, community


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    home = Home(community(tmp_path_factory.mktemp("made"), tiny_base).folder / ".ownlm")
    home.pools.share("sorting", ratio=0.75, **QUICK)  # so that places differ from module to module
    home.store.database.close()
    return home.store.folder


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Home:
    return Home(shutil.copytree(made, tmp_path / "home"))


def test_weights_and_counts_are_what_recipes_say(home: Home) -> None:
    info, pool = home.pools.open()
    home.assemble("sorting", top_k=2)
    recipes = [Recipe.from_bytes(one.recipe or b"") for one in home.adapters()]
    expected: dict[tuple[str, str, int], list[float]] = {}
    for number, recipe in enumerate(recipes):
        for name, place_K, weight_K in zip(pool.modules, recipe.place_MK, recipe.weight_MK, strict=True):
            for place, weight in zip(place_K.tolist(), weight_K.tolist(), strict=True):
                if weight:
                    key = pool.sharer(name, place), name.rsplit(".", 1)[1], int(name.split("layers.")[1].split(".")[0])
                    expected.setdefault(key, [0.0] * len(recipes))[number] = weight
    assert len(expected) > 8

    for number, recipe in enumerate(recipes):
        own = weights(recipe, pool)
        for (c, s, layer), amount in np.ndenumerate(own.amount_CSL):
            key = own.sharers[s], own.kinds[c], own.layers[layer]
            assert amount == pytest.approx(expected.get(key, [0.0] * len(recipes))[number])
        assert own.share_S.sum() == pytest.approx(1) and (np.diff(own.share_S) <= 1e-12).all()
    use = home.pools.use(info, pool)
    assert use.recipes == 2 and np.array_equal(use.amount_CSL, counts(recipes, pool).amount_CSL)
    for (c, s, layer), amount in np.ndenumerate(use.amount_CSL):
        assert amount == sum(w > 0 for w in expected.get((use.sharers[s], use.kinds[c], use.layers[layer]), []))


def test_only_what_answers_now_is_counted(home: Home) -> None:
    info, pool = home.pools.open()
    home.assemble("sorting", top_k=2)
    home.assemble("sorting", top_k=1)
    assert home.pools.use(info, pool).total_S.sum() == 2 * len(pool.modules)
    home.train("sorting", users=["eva"], epochs=1)
    assert home.pools.use(info, pool).recipes == 1
    with pytest.raises(AdapterError, match="was trained"):
        home.pools.pieces("eva")
    with pytest.raises(NotFoundError):
        home.pools.pieces("ana")
    adapter, own = home.pools.pieces("finn", "sorting")
    assert adapter.user == "finn" and own.total_S.min() > 0 and own.total_S.sum() == pytest.approx(len(pool.modules))


def test_a_recipe_without_a_piece_is_told(home: Home) -> None:
    _, pool = home.pools.open()
    nothing = np.zeros((len(pool.modules), 2))
    use = weights(Recipe("product", nothing.astype(np.uint16), nothing.astype(np.float32)), pool)
    assert use.only_used.sharers == () and use.share_S.tolist() == [0.0] * 4
