"""Training of the top layers from kept hidden states equals training without them, and PEFT's `layers_to_transform`."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ownlm.config import LoraConfig
from ownlm.model.base import BaseLM, load_base
from ownlm.model.forward_context import split_at
from ownlm.model.targets import decoder_layers
from ownlm.oppu import fleet
from ownlm.oppu.fleet import train_fleet
from ownlm.oppu.lower import LowerStates
from tests.model.small_bases import write_base
from tests.oppu.test_fleet import CONFIG, PEOPLE, in_bank, make_jobs
from tests.peft_reference import train_with_peft, weights

LORA = LoraConfig(r=4, lora_alpha=8, target_modules=("q_proj", "v_proj", "down_proj"), top_layers=1)
TOP = CONFIG.model_copy(update={"lora": LORA, "epochs": 3})


@pytest.fixture
def rows(double: BaseLM) -> list[list[int]]:
    """The number of tokens of each pass through each layer."""
    return [[] for _ in decoder_layers(double.model)]


@pytest.fixture(autouse=True)
def counted(double: BaseLM, rows: list[list[int]]):
    hooks = [
        layer.mlp.gate_proj.register_forward_hook(lambda module, args, out, seen=seen: seen.append(args[0].shape[-2]))
        for layer, seen in zip(decoder_layers(double.model), rows, strict=True)
    ]
    yield
    for hook in hooks:
        hook.remove()


def same(one, other, tolerance: float = 1e-9) -> None:
    assert one.losses == pytest.approx(other.losses, abs=tolerance, rel=tolerance)
    for name, tensor in weights(one.adapter).items():
        torch.testing.assert_close(tensor, weights(other.adapter)[name], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_kept_states_change_nothing(
    double: BaseLM, tiny_base: Path, rows: list[list[int]], dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = make_jobs(double.model.config.vocab_size, examples=9, prompt=12)
    config = TOP.model_copy(update={"lora_dropout": dropout})
    kept = in_bank(double, jobs, config, slots=3)
    lower, upper = map(sum, rows)
    examples = sum(len(e.prompt) + len(e.answer) - 1 for job in jobs for e in job.examples)
    assert 40 < lower < examples + 40  # once each, the shared instruction less; and those of the trial
    assert not [name for layer in decoder_layers(double.model) for name in vars(layer) if name == "forward"]
    recomputed = {run.job.user: run for run in train_fleet(double, jobs, config, slots=3, states_bytes=0)}
    assert sum(rows[0]) > 2.5 * lower and upper
    monkeypatch.setattr(BaseLM, "splits_at", lambda *_: False)
    whole = in_bank(double, jobs, config, slots=3)
    for user, run in kept.items():
        same(run, recomputed[user])
        same(run, whole[user])
    if not dropout:
        losses, start, end = train_with_peft(tiny_base, jobs[0], config, torch.float64)
        assert kept[jobs[0].user].losses == pytest.approx(losses, abs=1e-9, rel=1e-9)
        for name, tensor in weights(kept[jobs[0].user].adapter).items():
            torch.testing.assert_close(tensor, end[name], atol=1e-9, rtol=1e-9)
            assert ".layers.1." in name and not torch.equal(tensor, start[name])


def test_activated_adapters_of_the_top_layers(double: BaseLM, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = make_jobs(double.model.config.vocab_size, examples=9, prompt=12)
    jobs = [replace(job, examples=[replace(one, unadapted=4) for one in job.examples]) for job in jobs]
    kept = in_bank(double, jobs, TOP, slots=PEOPLE)
    monkeypatch.setattr(BaseLM, "splits_at", lambda *_: False)
    whole = in_bank(double, jobs, TOP, slots=PEOPLE)
    for user, run in kept.items():
        same(run, whole[user])


def test_in_float32_the_difference_is_rounding(base: BaseLM, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = make_jobs(base.model.config.vocab_size, examples=9, prompt=12)[:3]
    kept = in_bank(base, jobs, TOP, slots=3)
    monkeypatch.setattr(BaseLM, "splits_at", lambda *_: False)
    whole = in_bank(base, jobs, TOP, slots=3)
    for user, run in kept.items():
        same(run, whole[user], 1e-5)


def test_no_gradient_is_computed_below_the_top_layers(double: BaseLM, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[bool] = []
    first, second = decoder_layers(double.model)
    hooks = [
        layer.register_forward_hook(lambda module, args, out: reached.append(out.requires_grad))
        for layer in (first, second)
    ]
    try:
        monkeypatch.setattr(BaseLM, "splits_at", lambda *_: False)
        in_bank(double, make_jobs(90, examples=3, prompt=6)[:1], TOP, slots=1)
    finally:
        for hook in hooks:
            hook.remove()
    assert reached[::2] == [False] * len(reached[::2]) and all(reached[1::2])


def test_states_leave_with_their_user_and_are_not_kept_for_one_epoch(
    double: BaseLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[LowerStates] = []
    monkeypatch.setattr(fleet, "LowerStates", lambda *how: made.append(LowerStates(*how)) or made[-1])
    jobs = make_jobs(90, examples=5, prompt=6)
    least: list[int] = []
    for config in (TOP, TOP.model_copy(update={"epochs": 1})):
        rooms = set[int]()
        runs = train_fleet(
            double, jobs, config, slots=2, states_bytes=10_000, on_step=lambda *_, rooms=rooms: rooms.add(made[-1].room)
        )
        assert len(list(runs)) == PEOPLE and made[-1].room == 10_000
        least.append(min(rooms))
    assert 0 <= least[0] < 10_000 and least[1] == 10_000


def test_a_base_whose_upper_layers_read_lower_ones_is_trained_whole(tmp_path: Path, tiny_base: Path) -> None:
    shared = write_base(
        tmp_path / "shared", tiny_base, "gemma3n_text", num_hidden_layers=4, num_kv_shared_layers=2,
        layer_types=["full_attention"] * 4, hidden_size_per_layer_input=8, vocab_size_per_layer_input=300,
        laurel_rank=4, altup_num_inputs=2, intermediate_size=[32] * 4, activation_sparsity_pattern=[0.0] * 4,
    )  # fmt: skip
    base = load_base(shared, name="shared", fingerprint="")
    assert not any(base.splits_at(first) for first in (1, 2, 3))
    jobs = make_jobs(290, examples=3, prompt=6)[:2]
    queries = TOP.model_copy(update={"lora": LORA.model_copy(update={"target_modules": ("q_proj",)})})
    assert not any(run.error for run in in_bank(base, jobs, queries, slots=2).values())


@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text", "qwen3", "phi3", "gpt_neox", "qwen2_moe", "mistral"])
def test_other_decoders_are_split(tmp_path: Path, tiny_base: Path, kind: str) -> None:
    base = load_base(write_base(tmp_path / kind, tiny_base, kind), name=kind, fingerprint="")
    assert base.splits_at(1)


def test_a_split_model_runs_other_passes_whole(double: BaseLM) -> None:
    double.model.set_attn_implementation("eager")
    try:
        before = double.model(torch.tensor([[5, 6, 7]])).logits
        with split_at(decoder_layers(double.model), 1):
            assert torch.equal(double.model(torch.tensor([[5, 6, 7]])).logits, before)
    finally:
        double.model.set_attn_implementation("ownlm_packed")
