"""Trained people, assembled people and the base alone, in one row and one call."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from ownlm.config import LoraConfig
from ownlm.errors import AdapterError
from ownlm.inference.label_scoring import encode_labels, score_labels
from ownlm.model.adapter import Adapter
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.model.packed import BatchBuilder
from ownlm.model.piece_bank import PieceBank, attached
from ownlm.model.segments import BASE
from ownlm.oppu.minibatches import TokenizedExample
from ownlm.perpcs.materialise import materialise, recipe_bank
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import Recipe
from tests.decoding import generate, new_sequence, texts_of
from tests.perpcs.assembling import (
    IDS,
    MLP,
    QKVO,
    histories,
    logits_of,
    pieces_for,
    pool_for,
    random_adapter,
    recipes,
    row_of,
)

pytestmark = pytest.mark.usefixtures("both_ways")
TRAINED = LoraConfig(r=4, lora_alpha=12, target_modules=("q_proj", "v_proj"))  # neither the pool's rank nor modules
TEXTS = ["Sort this: a", "Sort this: a longer message, about something else", "Other words"]
LABELS = ["yes", "nod", "bin", "key", "art", "fox", "urn", "icy"]


@pytest.fixture(scope="module", params=[QKVO, MLP], ids=["attention", "mlp"])
def pool(base: BaseLM, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Pool:
    lora = request.param
    return pool_for(base, tmp_path_factory.mktemp("pool") / "pool", pieces_for(base, lora=lora, scale=0.3), lora)


@pytest.fixture(scope="module")
def assembled(base: BaseLM, pool: Pool) -> dict[str, Recipe]:
    return recipes(base, pool, histories(base, 3))


@pytest.fixture(scope="module")
def trained(base: BaseLM) -> dict[str, Adapter]:
    return {f"trained {slot}": random_adapter(base, TRAINED, slot) for slot in range(2)}


def banks_of(
    base: BaseLM, trained: dict[str, Adapter], assembled: dict[str, Recipe], pool: Pool
) -> list[LoraBank | PieceBank]:
    """A slot for each trained user, then one for each assembled user."""
    bank = LoraBank(base.model, TRAINED, len(trained))
    for slot, adapter in enumerate(trained.values()):
        bank.load(slot, adapter)
    return [bank, recipe_bank(base, pool, list(assembled.values()), first=len(trained))]


def test_a_mixed_row_equals_each_alone(
    base: BaseLM, pool: Pool, assembled: dict[str, Recipe], trained: dict[str, Adapter]
) -> None:
    bare = base.logits(row_of([BASE]).pack())
    with attached(*banks_of(base, trained, assembled, pool)) as banks, torch.no_grad():
        mixed = base.logits(row_of([BASE, 0, 1, 2, 3, 4]).pack(), banks).view(6, len(IDS), -1)
        some = base.logits(row_of([1, 3]).pack(), banks).view(2, len(IDS), -1)
    torch.testing.assert_close(mixed[0], bare)
    adapters = [*trained.values(), *(materialise(recipe, pool) for recipe in assembled.values())]
    for slot, adapter in enumerate(adapters):
        expected = logits_of(base, adapter)
        torch.testing.assert_close(mixed[slot + 1], expected, atol=2e-5, rtol=1e-5)
        assert float((expected - bare).abs().max()) > 1e-2
    torch.testing.assert_close(some, mixed[[2, 4]], atol=2e-5, rtol=1e-5)


def test_a_mixed_row_of_which_little_is_asked(
    base: BaseLM, pool: Pool, assembled: dict[str, Recipe], trained: dict[str, Adapter]
) -> None:
    """The last MLP then sees the asked positions alone."""
    row = BatchBuilder()
    for slot in (BASE, 0, 1, 2, 3, 4):
        row.predict(slot, row.add(slot, IDS)[-1:])
    with attached(*banks_of(base, trained, assembled, pool)) as banks, torch.no_grad():
        mixed = base.logits(row.pack(), banks)
    adapters = [*trained.values(), *(materialise(recipe, pool) for recipe in assembled.values())]
    for slot, adapter in enumerate(adapters):
        torch.testing.assert_close(mixed[slot + 1], logits_of(base, adapter)[-1], atol=2e-5, rtol=1e-5)


def test_spans_of_every_length(base: BaseLM, pool: Pool, assembled: dict[str, Recipe]) -> None:
    row, lengths = BatchBuilder(), {BASE: 3, 0: 1, 1: 2, 2: 6}
    for slot, length in lengths.items():
        row.predict(slot, row.add(slot, IDS[:length]))
    with attached(recipe_bank(base, pool, list(assembled.values()))) as banks, torch.no_grad():
        mixed = base.logits(row.pack(), banks).split(list(lengths.values()))
    torch.testing.assert_close(mixed[0], base.logits(row_of([BASE], IDS[:3]).pack()))
    for slot, recipe in enumerate(assembled.values()):
        expected = logits_of(base, materialise(recipe, pool))[: lengths[slot]]
        torch.testing.assert_close(mixed[slot + 1], expected, atol=2e-5, rtol=1e-5)


def test_answers_of_a_mixed_batch_equal_each_alone(
    base: BaseLM, pool: Pool, assembled: dict[str, Recipe], trained: dict[str, Adapter]
) -> None:
    users = [BASE, 1, 4, 2, 0, 3]  # slots of trained users first, then of assembled ones
    whole = [*trained.values(), *(materialise(recipe, pool) for recipe in assembled.values())]
    asked = [(slot, base.encode_prompt(text)) for text in TEXTS for slot in users]
    with attached(*banks_of(base, trained, assembled, pool)) as banks:
        texts = texts_of(generate(base, banks, asked, 9))
        sequences = [new_sequence(base, *one) for one in asked]
        scores = score_labels(base, banks, sequences, encode_labels(base, LABELS))
    assert len(set(texts)) > 2
    for (slot, prompt), text, found in zip(asked, texts, scores, strict=True):
        own = None if slot == BASE else LoraBank(base.model, whole[slot].lora, 1)
        if own is not None:
            own.load(0, whole[slot])
        with attached(*([] if own is None else [own])) as alone:
            place = BASE if own is None else 0
            assert texts_of(generate(base, alone, [(place, prompt)], 9)) == [text]
            (expected,) = score_labels(base, alone, [new_sequence(base, place, prompt)], encode_labels(base, LABELS))
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("length", [1, 2, len(IDS)])
def test_no_slot_reads_another_ones_weights(
    base: BaseLM, pool: Pool, assembled: dict[str, Recipe], length: int
) -> None:
    bank, ids = recipe_bank(base, pool, list(assembled.values())), IDS[:length]
    with attached(bank) as banks, torch.no_grad():
        before = base.logits(row_of([0, 2], ids).pack(), banks)
        bank.load(1, pool.modules, torch.zeros(len(pool.modules), 3), torch.full((len(pool.modules), 3), torch.nan))
        assert torch.equal(base.logits(row_of([0, 2], ids).pack(), banks), before)
        with_company = base.logits(row_of([0, 1, 2], ids).pack(), banks).view(3, length, -1)
    assert with_company[1].isnan().all() and not with_company[[0, 2]].isnan().any()


def test_nothing_is_left_in_a_cleared_slot(base: BaseLM, pool: Pool, assembled: dict[str, Recipe]) -> None:
    bank = recipe_bank(base, pool, list(assembled.values()))
    held = bank._held[1]
    with attached(bank) as banks, torch.no_grad():
        bare, others = base.logits(row_of([BASE]).pack()), base.logits(row_of([0, 2]).pack(), banks)
        bank.clear(1)
        assert torch.equal(base.logits(row_of([1]).pack(), banks), bare)
        mixed = base.logits(row_of([0, 1, 2]).pack(), banks).view(3, len(IDS), -1)
    torch.testing.assert_close(mixed[[0, 2]].flatten(0, 1), others)
    torch.testing.assert_close(mixed[1], bare)
    assert held is not None and not any(tensor.any() for tensor in held)


def test_places_where_no_piece_is(base: BaseLM, pool: Pool, assembled: dict[str, Recipe]) -> None:
    bank, one = recipe_bank(base, pool, list(assembled.values())), torch.ones(len(pool.modules), 1)
    for wrong in (99 * one, -one):
        with pytest.raises(AdapterError, match="no such piece"):
            bank.load(0, pool.modules, wrong, one)
    assert bank._held[0] is not None  # who was there


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_base_of_half_precision(base: BaseLM, pool: Pool, assembled: dict[str, Recipe], dtype: torch.dtype) -> None:
    """Pieces stay in float32: what is added is rounded once."""
    half = replace(base, model=deepcopy(base.model).to(dtype))
    bare = half.logits(row_of([BASE]).pack()).float()
    bank = recipe_bank(half, pool, list(assembled.values()))
    assert all(tensor.dtype == torch.float32 for one in bank._families for tensor in (one.A_GD, *one.B_FPO))
    with attached(bank) as banks, torch.no_grad():
        mixed = half.logits(row_of([BASE, 0, 1, 2]).pack(), banks).float().view(4, len(IDS), -1)
    torch.testing.assert_close(mixed[0], bare)
    for slot, recipe in enumerate(assembled.values(), 1):
        expected = logits_of(base, materialise(recipe, pool))  # of float32
        assert float((mixed[slot] - expected).norm()) < 0.1 * float((expected - bare).norm())


def test_detached_without_trace(base: BaseLM, pool: Pool, assembled: dict[str, Recipe]) -> None:
    hooks = [len(module._forward_hooks) for module in base.model.modules()]
    with attached(LoraBank(base.model, TRAINED, 1), recipe_bank(base, pool, list(assembled.values()), first=1)):
        assert sum(len(module._forward_hooks) for module in base.model.modules()) == sum(hooks) + 4 + len(pool.modules)
    assert hooks == [len(module._forward_hooks) for module in base.model.modules()]


def test_examples_are_left_as_they_are(base: BaseLM, pool: Pool) -> None:
    (target,) = histories(base, 1)
    before = [TokenizedExample(list(one.prompt), list(one.answer)) for one in target.examples]
    recipes(base, pool, [target])
    assert list(target.examples) == before
