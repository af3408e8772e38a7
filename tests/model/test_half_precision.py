"""A base in bfloat16 on a CPU is near the same base in float32; adapters and gradients are float32."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ownlm.config import LoraConfig, TrainConfig
from ownlm.inference.label_scoring import score_labels
from ownlm.model import attention
from ownlm.model.bank import LoraBank, Scaled
from ownlm.model.base import BaseLM, load_base
from ownlm.model.packed import BatchBuilder, PackedBatch
from ownlm.model.segments import BASE, Segments, make_segments, pad
from ownlm.oppu.fleet import train_fleet
from ownlm.oppu.minibatches import fill, in_chunks
from ownlm.oppu.passes import wide
from ownlm.oppu.peft_methods import train_with_peft
from tests.decoding import new_sequence
from tests.oppu.test_fleet import make_jobs

LORA = LoraConfig(r=4, lora_alpha=8, target_modules=("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"))


@pytest.fixture(scope="module")
def half(tiny_base: Path) -> BaseLM:
    """The tiny base in bfloat16."""
    return load_base(tiny_base, name="tiny", fingerprint="tiny", dtype="bfloat16")


def training_row(base: BaseLM, dropout: bool) -> PackedBatch:
    row = BatchBuilder()
    for slot, job in enumerate(make_jobs(base.model.config.vocab_size, examples=4, prompt=30)[:3]):
        seeds = range(slot * 10, slot * 10 + len(job.examples)) if dropout else ()
        fill(row, in_chunks(slot, job.examples, 10**6, not dropout, 1, list(seeds)), share_prefix=not dropout)
    return row.pack()


def trained_pass(base: BaseLM, scaled: Scaled | None, dropout: float) -> tuple[float, Tensor]:
    """The loss and the gradients of a pass of three users, whose adapters are the same for each base."""
    bank, batch = LoraBank(base.model, LORA, 3, scaled=scaled), training_row(base, dropout > 0)
    generator = torch.Generator().manual_seed(0)
    for parameters in {id(one): one for one in (bank.pairs_UP, bank.param_UP)}.values():
        parameters.copy_(torch.randn(parameters.shape, generator=generator) * 0.05)
    bank.dropout, grads_WP = dropout, bank.new_grads(batch)
    with bank.attached():
        logits_PV = wide(base.logits(batch, bank, grads_WP=grads_WP))
    losses_P = F.cross_entropy(logits_PV, batch.target_P, reduction="none") * batch.weight_P.float()
    losses_P.sum().backward()
    return float(losses_P.detach().sum()), grads_WP


@pytest.mark.parametrize("dropout", [0.0, 0.2], ids=["", "dropout"])
@pytest.mark.parametrize("scaled", [None, "gates", "weights"])
def test_loss_and_gradients_are_near_those_in_float32(
    base: BaseLM, half: BaseLM, scaled: Scaled | None, dropout: float
) -> None:
    loss, grads_WP = trained_pass(base, scaled, dropout)
    half_loss, half_grads_WP = trained_pass(half, scaled, dropout)
    assert next(half.model.parameters()).dtype == torch.bfloat16 and half_grads_WP.dtype == torch.float32
    assert half_loss == pytest.approx(loss, rel=0.01)
    for own_P, half_P in zip(grads_WP, half_grads_WP, strict=True):
        assert F.cosine_similarity(own_P, half_P, dim=0) > 0.999
        assert half_P.norm() == pytest.approx(float(own_P.norm()), rel=0.02)


def varlen_by_definition(
    q: Tensor, k: Tensor, v: Tensor, query_ends: Tensor, key_ends: Tensor, longest_query: int, longest_key: int,
    *, scale: float | None, window_size: tuple[int, int], enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """The kernel of a GPU for sequences of any lengths: a segment's queries are the last of its keys."""
    outputs = list[Tensor]()
    assert enable_gqa and q.shape[1] > k.shape[1] and window_size == (-1, 0)
    for at in range(len(query_ends) - 1):
        own, seen = slice(*query_ends[at : at + 2].tolist()), slice(*key_ends[at : at + 2].tolist())
        n, keys = own.stop - own.start, seen.stop - seen.start
        mask = torch.arange(keys - n, keys)[:, None] >= torch.arange(keys)
        parts = q[own].transpose(0, 1), k[seen].transpose(0, 1), v[seen].transpose(0, 1)
        outputs.append(
            F.scaled_dot_product_attention(*parts, attn_mask=mask, scale=scale, enable_gqa=True).transpose(0, 1)
        )
    return torch.cat(outputs)


@pytest.mark.parametrize("dropout", [0.0, 0.2], ids=["", "dropout"])
@pytest.mark.parametrize("scaled", [None, "gates", "weights"])
def test_the_arithmetic_of_a_gpu_is_near_float32(
    base: BaseLM, half: BaseLM, scaled: Scaled | None, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padded products and attention without padding, which a CPU does not choose."""
    loss, grads_WP = trained_pass(base, scaled, dropout)

    def padded(parts: Any, device: Any, whole: Segments | None = None) -> Segments:
        segments = make_segments(parts, device, whole)
        return replace(segments, long=(), short=None, padded=pad(segments, device))

    monkeypatch.setattr("ownlm.model.packed.make_segments", padded)
    float_loss, float_grads_WP = trained_pass(base, scaled, dropout)
    assert float_loss == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(float_grads_WP, grads_WP, rtol=1e-3, atol=1e-5)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_by_definition)
    monkeypatch.setattr(attention, "_is_flash", lambda query, value: True)
    half_loss, half_grads_WP = trained_pass(half, scaled, dropout)
    assert half_loss == pytest.approx(loss, rel=0.01)
    for own_P, half_P in zip(grads_WP, half_grads_WP, strict=True):
        assert F.cosine_similarity(own_P, half_P, dim=0) > 0.999
        assert half_P.norm() == pytest.approx(float(own_P.norm()), rel=0.02)


def test_attention_is_computed_in_float32(half: BaseLM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, attend = set[torch.dtype](), attention._attend

    def spy(q_qHE: Tensor, k_kGE: Tensor, v_kGE: Tensor, *rest: object) -> Tensor:
        seen.update((q_qHE.dtype, k_kGE.dtype, v_kGE.dtype))
        return attend(q_qHE, k_kGE, v_kGE, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(attention, "_attend", spy)
    assert half.logits(training_row(half, False)).dtype == torch.bfloat16
    assert seen == {torch.float32}


def test_label_scores_are_near_those_in_float32(base: BaseLM, half: BaseLM) -> None:
    labels, scores = [[7, 2], [9, 2], [11, 12, 2]], list[Tensor]()
    for one in (base, half):
        sequences = [new_sequence(one, BASE, prompt) for prompt in ([5, 9, 200, 33], [5, 9, 41])]
        scores.append(torch.tensor(score_labels(one, None, sequences, labels)))
    torch.testing.assert_close(scores[1], scores[0], rtol=0.01, atol=0)


def test_training_learns_the_same_and_keeps_float32(base: BaseLM, half: BaseLM) -> None:
    config = TrainConfig(lora=LORA, learning_rate=3e-3, epochs=4, batch_size=4)
    jobs = make_jobs(base.model.config.vocab_size, examples=9, prompt=12)[:2]
    runs = {run.job.user: run for run in train_fleet(base, jobs, config, slots=2)}
    for run in train_fleet(half, jobs, config, slots=2):
        assert run.losses == pytest.approx(runs[run.job.user].losses, rel=0.02)
        assert all(pair.A_RD.dtype == pair.B_OR.dtype == torch.float32 for pair in run.adapter.pairs.values())


@pytest.mark.parametrize("method", ["ia3", "prompt"])
def test_methods_of_peft_train(base: BaseLM, half: BaseLM, method: str) -> None:
    config = TrainConfig(method=method, learning_rate=3e-3, epochs=4, batch_size=4)
    jobs = make_jobs(base.model.config.vocab_size, examples=9, prompt=12)[:1]
    (run,), (half_run,) = (list(train_with_peft(one, jobs, config)) for one in (base, half))
    assert half_run.error is None and half_run.losses == pytest.approx(run.losses, rel=0.02)
