"""Adapting from an assembled start: trained as it should be, and kept only where it helps."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from ownlm.errors import TrainingError
from ownlm.model.adapter import Adapter
from ownlm.model.base import BaseLM
from ownlm.model.lora import lora_merge
from ownlm.oppu.minibatches import TokenizedExample
from ownlm.perpcs.adapt import Adapted, Kept, Start, adapt, adapt_config, answer_loss, split
from ownlm.perpcs.assemble import Target
from ownlm.perpcs.materialise import joined, materialise
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import Recipe, made_of
from tests.community import rows, small_home
from tests.perpcs.assembling import QKVO, histories, pieces_for, pool_for, recipes, same_recipe

pytestmark = pytest.mark.usefixtures("one_core")
STEPS = 12


@pytest.fixture(scope="module")
def pool(base: BaseLM, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return pool_for(base, tmp_path_factory.mktemp("pool") / "pool", pieces_for(base))


@pytest.fixture(scope="module")
def starts(base: BaseLM, pool: Pool) -> list[Start]:
    """People who have been assembled from four fifths of their records."""
    parts = {target.user: split(target.examples) for target in histories(base, 4, records=10)}
    targets = [Target(user, learn) for user, (learn, _) in parts.items()]
    made = recipes(base, pool, targets)
    return [Start(target, made[target.user], parts[target.user][1]) for target in targets]


def adapted(
    base: BaseLM, pool: Pool, starts: Sequence[Start], rank: int | None = None, **more: object
) -> list[Adapted]:
    config = adapt_config(pool, STEPS, 3e-2, rank)
    found = list(adapt(base, pool, starts, config, seed=3, residual=rank is not None, **more))  # type: ignore[arg-type]
    assert all(isinstance(one, Adapted) for one in found)
    return sorted(found, key=lambda one: one.user)  # type: ignore[union-attr,return-value,arg-type]


def trained_adapter(pool: Pool, start: Start, outcome: Adapted) -> Adapter:
    """What the training came to, kept or not."""
    if outcome.run.scales is None:
        assert isinstance(outcome.run.adapter, Adapter)
        return joined(materialise(start.recipe, pool), outcome.run.adapter)
    weight_MK = torch.stack([outcome.run.scales[name] for name in pool.modules])
    return materialise(made_of("product", torch.from_numpy(start.recipe.place_MK.astype(np.int64)), weight_MK), pool)


def stock(base: BaseLM, adapter: Adapter | None) -> torch.nn.Module:
    """The stock model in float64, the adapter merged into its weights."""
    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float64)
    for name, pair in (adapter.pairs if adapter else {}).items():
        weight = model.get_submodule(name).weight
        weight.data = lora_merge(weight.data, pair.A_RD, pair.B_OR, adapter.lora.scaling)  # type: ignore[union-attr]
    return model


@torch.no_grad()
def naive_loss(base: BaseLM, adapter: Adapter | None, examples: Sequence[TokenizedExample]) -> float:
    """Record by record; the mean over all answer tokens."""
    model, losses = stock(base, adapter), []
    for one in examples:
        logits = model(torch.tensor([one.prompt + one.answer])).logits[0, len(one.prompt) - 1 : -1]
        losses += F.cross_entropy(logits, torch.tensor(one.answer), reduction="none").tolist()
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("records", "back"), [(1, 0), (4, 0), (5, 1), (9, 1), (10, 2), (100, 20)])
def test_the_latest_fifth_is_held_back(records: int, back: int) -> None:
    examples = [TokenizedExample([n], [n]) for n in range(records)]
    learn, held = split(examples)
    assert [*learn, *held] == examples and len(held) == back


@pytest.mark.parametrize("rank", [None, 1], ids=["weights", "residual"])
def test_losses_equal_a_naive_computation(base: BaseLM, pool: Pool, starts: list[Start], rank: int | None) -> None:
    outcomes = adapted(base, pool, starts, rank)
    assert [one.user for one in outcomes] == [start.target.user for start in starts]
    for start, outcome in zip(starts, outcomes, strict=True):
        expected = {
            "base": naive_loss(base, None, start.held_back),
            "assembled": naive_loss(base, materialise(start.recipe, pool), start.held_back),
            "adapted": naive_loss(base, trained_adapter(pool, start, outcome), start.held_back),
        }
        assert outcome.losses == pytest.approx(expected, abs=1e-5) and list(outcome.losses) == list(expected)
        assert len({round(loss, 4) for loss in expected.values()}) == 3
        assert outcome.kept == min(expected, key=expected.__getitem__)
        assert outcome.run.step == STEPS and outcome.run.losses[-1] < outcome.run.losses[0]


@pytest.mark.parametrize("tokens", [1024, 1])
def test_answer_loss_in_parts(
    base: BaseLM, pool: Pool, starts: list[Start], tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ownlm.perpcs.adapt.TOKENS_PER_PASS", tokens)
    examples = starts[0].target.examples
    for adapter in (None, materialise(starts[0].recipe, pool)):
        assert answer_loss(base, adapter, examples) == pytest.approx(naive_loss(base, adapter, examples), abs=1e-5)


@torch.no_grad()
def suits(base: BaseLM, adapters: dict[Kept, Adapter | None], best: Kept) -> list[TokenizedExample]:
    """A record whose answer one of the three finds likelier than the others do."""
    prompt, of = [1, 40, 50, 60, 70], {}
    for kept, adapter in adapters.items():
        of[kept] = stock(base, adapter)(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
    others = torch.stack([log_p for kept, log_p in of.items() if kept != best]).max(dim=0).values
    token = int((of[best] - others).argmax())
    assert of[best][token] > others[token] + 1e-4
    return [TokenizedExample(prompt, [token])]


@pytest.mark.parametrize("rank", [None, 2], ids=["weights", "residual"])
@pytest.mark.parametrize("best", ["base", "assembled", "adapted"])
def test_the_best_on_what_is_held_back_is_kept(
    base: BaseLM, pool: Pool, starts: list[Start], best: Kept, rank: int | None
) -> None:
    start = starts[0]
    (first,) = adapted(base, pool, [start], rank)
    trained = trained_adapter(pool, start, first)
    three: dict[Kept, Adapter | None] = {
        "base": None, "assembled": materialise(start.recipe, pool), "adapted": trained,
    }  # fmt: skip
    (outcome,) = adapted(base, pool, [replace(start, held_back=suits(base, three, best))], rank)
    assert outcome.kept == best == min(outcome.losses, key=outcome.losses.__getitem__)
    assert (outcome.recipe.place_MK == start.recipe.place_MK).all()
    assert (outcome.residual is not None) == (best == "adapted" and rank is not None)
    if best == "base":
        assert not outcome.recipe.weight_MK.any()
    elif best == "assembled" or rank is not None:
        assert same_recipe(outcome.recipe, start.recipe, 0)
    else:
        assert not same_recipe(outcome.recipe, start.recipe, 1e-3)
        assert same_recipe(Recipe.from_bytes(outcome.recipe.to_bytes()), outcome.recipe, 0)
    kept = materialise(outcome.recipe, pool)
    if outcome.residual is not None:
        assert outcome.residual.lora.r == rank and outcome.residual.lora.scaling == pool.lora.scaling
        kept = joined(kept, outcome.residual)
    examples = start.target.examples
    assert answer_loss(base, kept, examples) == pytest.approx(naive_loss(base, three[best], examples), abs=1e-5)


def test_of_equally_good_ones_the_simpler_is_kept(base: BaseLM, pool: Pool, starts: list[Start]) -> None:
    nothing = replace(starts[0], recipe=replace(starts[0].recipe, weight_MK=starts[0].recipe.weight_MK * 0))
    (outcome,) = adapted(base, pool, [nothing])
    assert outcome.losses["base"] == outcome.losses["assembled"] == outcome.losses["adapted"]
    assert outcome.kept == "base"  # pieces of weight 0 are not read, so there was nothing to train


@pytest.mark.parametrize("rank", [None, 1], ids=["weights", "residual"])
def test_company_does_not_matter(base: BaseLM, pool: Pool, starts: list[Start], rank: int | None) -> None:
    together = adapted(base, pool, starts[::-1], rank, slots=3)
    for start, one in zip(starts, together, strict=True):
        (alone,) = adapted(base, pool, [start], rank, slots=1)
        assert alone.losses == pytest.approx(one.losses, abs=1e-5) and alone.kept == one.kept
        assert same_recipe(alone.recipe, one.recipe, 1e-4)


@pytest.mark.parametrize("rank", [None, 1], ids=["weights", "residual"])
def test_training_does_not_look_at_what_is_held_back(
    base: BaseLM, pool: Pool, starts: list[Start], rank: int | None
) -> None:
    (one,) = adapted(base, pool, starts[:1], rank)
    (other,) = adapted(base, pool, [replace(starts[0], held_back=starts[1].held_back)], rank)
    assert one.run.losses == other.run.losses and one.losses != other.losses


def test_missing_pieces_stay_missing(base: BaseLM, tmp_path: Path) -> None:
    given = pieces_for(base, 3)
    first, second, *_ = given
    few = dict(list(given[second].items())[:1])
    pool = pool_for(base, tmp_path / "pool", given | {first: {}, second: few})
    (target,) = histories(base, 1, records=10)
    learn, held = split(target.examples)
    recipe = recipes(base, pool, [Target(target.user, learn)])[target.user]
    (outcome,) = adapted(base, pool, [Start(Target(target.user, learn), recipe, held)])
    weights = [outcome.run.scales[name].tolist() for name in pool.modules]  # type: ignore[index]
    assert weights[0] == [0, 0, 0] and weights[1][1:] == [0, 0] and all(all(row) for row in weights[2:])
    assert weights[1][0] != 1


@pytest.mark.parametrize("rank", [None, 1], ids=["weights", "residual"])
def test_training_that_diverges_is_told_and_touches_nobody_else(
    base: BaseLM, pool: Pool, starts: list[Start], rank: int | None
) -> None:
    huge = np.full_like(starts[0].recipe.weight_MK, 3e38)
    broken = replace(starts[0], recipe=replace(starts[0].recipe, weight_MK=huge))
    config = adapt_config(pool, STEPS, 3e-2, rank)
    outcomes = list(adapt(base, pool, [broken, *starts[1:3]], config, seed=3, residual=rank is not None))
    (failed,) = [one for one in outcomes if not isinstance(one, Adapted)]
    assert failed[0] == broken.target.user and isinstance(failed[1], TrainingError)
    assert "diverged" in str(failed[1])
    good = sorted((one for one in outcomes if isinstance(one, Adapted)), key=lambda one: one.user)
    expected = adapted(base, pool, starts[1:3], rank)
    for one, other in zip(good, expected, strict=True):
        assert one.losses == pytest.approx(other.losses, abs=1e-5)


def test_configs(pool: Pool) -> None:
    weights, residual = adapt_config(pool, 7, 1e-2, None), adapt_config(pool, 7, 1e-3, 1)
    assert weights.lora == QKVO and weights.steps == 7 and weights.weight_decay == 0
    assert (residual.lora.r, residual.lora.scaling) == (1, QKVO.scaling)


def test_a_person_with_few_records_is_assembled_without_adapting(tiny_base: Path, tmp_path: Path) -> None:
    home = small_home(tmp_path, tiny_base, rows("ada", 12), rows("bela", 12), rows("few", 4), rows("more", 10))
    for user in ("ada", "bela"):
        home.consent(user, True)
    home.pools.share("sorting", sharers=2, select="active", steps=2, gate_steps=2, learning_rate=1e-2)
    report = home.assemble("sorting", users=["few", "more"], top_k=2, adapt_steps=3)
    assert report.failed == [] and {one.user for one in report.assembled} == {"few", "more"}
    few, more = (home.store.latest_adapters("sorting", [user])["sorting", user] for user in ("few", "more"))
    assert few.steps == 0 and "kept" not in few.provenance
    assert more.steps == 3 and more.provenance["kept"] in ("base", "assembled", "adapted")
