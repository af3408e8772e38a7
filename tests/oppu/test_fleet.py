"""A bank of eight people equals each person alone, and equals PEFT."""

import random
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from ownlm.config import LoraConfig, TrainConfig
from ownlm.errors import TrainingError
from ownlm.model import attention
from ownlm.model.base import BaseLM, load_base
from ownlm.model.segments import make_segments, pad
from ownlm.oppu import fleet
from ownlm.oppu.fleet import Job, Run, train_fleet
from ownlm.oppu.minibatches import Chunk, TokenizedExample, in_chunks, minibatches, tokens_of
from tests.peft_reference import train_with_peft, weights

PEOPLE = 8


def make_jobs(vocabulary: int, examples: int, prompt: int, seed: int = 0) -> list[Job]:
    """People with the same instruction and their own, random, records of different lengths."""
    rng = random.Random(seed)
    instruction = [rng.randrange(3, vocabulary) for _ in range(6)]

    def tokens(low: int, high: int) -> list[int]:
        return [rng.randrange(3, vocabulary) for _ in range(rng.randint(low, high))]

    return [
        Job(
            f"person {number}",
            [
                TokenizedExample(instruction + tokens(1, prompt), [*tokens(1, 4), 2])
                for _ in range(examples + number % 3)
            ],
            seed=7,
        )
        for number in range(PEOPLE)
    ]


def in_bank(base: BaseLM, jobs: list[Job], config: TrainConfig, slots: int, tokens: int = 200) -> dict[str, Run]:
    """Everybody's runs; the tokens of a pass are few, so that minibatches meet and part."""
    runs = {run.job.user: run for run in train_fleet(base, jobs, config, slots=slots, tokens_per_step=tokens)}
    assert runs.keys() == {job.user for job in jobs}
    return runs


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], start: dict[str, torch.Tensor]) -> float:
    """The worst relative difference of a matrix's update: |one - other| / |other - start|, Frobenius."""
    return max(float((one[k] - other[k]).norm() / (other[k] - start[k]).norm()) for k in start)


@pytest.fixture(scope="module", autouse=True)
def norms_in_double() -> Iterator[None]:
    """transformers' RMSNorm rounds to float32 in its middle whatever the model's type, which hides equality to 1e-9."""

    def forward(self: LlamaRMSNorm, x: torch.Tensor) -> torch.Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)).to(x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlamaRMSNorm, "forward", forward)
        yield


CONFIG = TrainConfig(
    lora=LoraConfig(r=4, lora_alpha=8, target_modules=("q_proj", "k_proj", "v_proj", "o_proj")),
    learning_rate=3e-3,
    epochs=2,
    batch_size=4,
)


def test_bank_of_eight_equals_each_alone_and_peft_in_float64(double: BaseLM, tiny_base: Path) -> None:
    config = double.model.config
    assert config.num_key_value_heads < config.num_attention_heads  # grouped-query attention is part of the test
    jobs = make_jobs(config.vocab_size, examples=38, prompt=12)
    together = in_bank(double, jobs, CONFIG, slots=PEOPLE)
    for job in jobs:
        (alone,) = train_fleet(double, [job], CONFIG, slots=1)
        losses, start, end = train_with_peft(tiny_base, job, CONFIG, torch.float64)
        assert len(losses) >= 20
        for reference, after in ((alone.losses, weights(alone.adapter)), (losses, end)):
            assert together[job.user].losses == pytest.approx(reference, abs=1e-9, rel=1e-9)
            for name, tensor in weights(together[job.user].adapter).items():
                torch.testing.assert_close(tensor, after[name], atol=1e-9, rtol=1e-9)
                assert not torch.equal(tensor, start[name])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_activated_adapters_in_company_equal_each_alone_and_peft(
    double: BaseLM, tiny_base: Path, dropout: float
) -> None:
    jobs = make_jobs(double.model.config.vocab_size, examples=9, prompt=12)
    instruction = jobs[0].examples[0].prompt[:6]
    lora = CONFIG.lora.model_copy(update={"alora_invocation_tokens": tuple(instruction[4:])})
    config = CONFIG.model_copy(update={"lora": lora, "lora_dropout": dropout})
    jobs = [replace(job, examples=[replace(one, unadapted=4) for one in job.examples]) for job in jobs]
    together = in_bank(double, jobs, config, slots=PEOPLE)
    for job in jobs[:3]:
        (alone,) = train_fleet(double, [job], config, slots=1)
        references = [(alone.losses, weights(alone.adapter))]
        if not dropout:
            losses, _, end = train_with_peft(tiny_base, job, config, torch.float64)
            references.append((losses, end))
        for losses, after in references:
            assert together[job.user].losses == pytest.approx(losses, abs=1e-9, rel=1e-9)
            for name, tensor in weights(together[job.user].adapter).items():
                torch.testing.assert_close(tensor, after[name], atol=1e-9, rtol=1e-9)
    everywhere = in_bank(double, make_jobs(double.model.config.vocab_size, examples=9, prompt=12), CONFIG, slots=1)
    assert together[jobs[0].user].losses != pytest.approx(everywhere[jobs[0].user].losses, rel=1e-6)


def test_order_and_slots_do_not_matter(double: BaseLM) -> None:
    jobs = make_jobs(double.model.config.vocab_size, examples=9, prompt=12)
    eight = in_bank(double, jobs, CONFIG, slots=PEOPLE)
    three = in_bank(double, jobs[::-1], CONFIG, slots=3)
    for user, run in eight.items():
        for name, tensor in weights(run.adapter).items():
            torch.testing.assert_close(tensor, weights(three[user].adapter)[name], atol=1e-9, rtol=1e-9)


def test_dropout_does_not_depend_on_company(double: BaseLM) -> None:
    config = CONFIG.model_copy(update={"lora_dropout": 0.3})
    jobs = make_jobs(double.model.config.vocab_size, examples=9, prompt=12)
    together = in_bank(double, jobs, config, slots=PEOPLE)
    alone = in_bank(double, jobs[5:6], config, slots=1)[jobs[5].user]
    assert together[jobs[5].user].losses == pytest.approx(alone.losses, rel=1e-9)
    without = in_bank(double, jobs[5:6], CONFIG, slots=1)[jobs[5].user]
    assert alone.losses != pytest.approx(without.losses, rel=1e-3)


def test_dropout_in_an_mlp_does_not_depend_on_a_neighbour_s_answers(double: BaseLM) -> None:
    config = CONFIG.model_copy(update={"lora_dropout": 0.3, "lora": MLP, "epochs": 1})
    job = make_jobs(double.model.config.vocab_size, examples=4, prompt=24)[0]
    talkative = Job("talkative", [TokenizedExample([5, 6], [7 + n % 5 for n in range(60)])] * 5, seed=7)
    alone = in_bank(double, [job], config, slots=2, tokens=1000)[job.user]
    together = in_bank(double, [job, talkative], config, slots=2, tokens=1000)[job.user]
    assert together.losses == pytest.approx(alone.losses, rel=1e-9)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_passes_of_any_size_give_the_same(double: BaseLM, dropout: float) -> None:
    jobs = make_jobs(double.model.config.vocab_size, examples=9, prompt=30)
    config = CONFIG.model_copy(update={"lora_dropout": dropout})
    small = in_bank(double, jobs, config, slots=PEOPLE, tokens=64)
    large = in_bank(double, jobs, config, slots=PEOPLE, tokens=10_000)
    for user, run in small.items():
        assert run.losses == pytest.approx(large[user].losses, rel=1e-9)


def test_one_record_and_identical_prompts_are_trained(double: BaseLM) -> None:
    same = [TokenizedExample([5, 6, 7], [8 + n, 2]) for n in range(4)]
    runs = in_bank(double, [Job("same", same, 0), Job("one", same[:1], 0)], CONFIG, slots=2)
    assert runs["same"].step == 2 and runs["one"].step == 2
    assert all(run.losses[-1] < run.losses[0] for run in runs.values())


def test_a_loss_that_is_no_number_fails_its_person_alone(tiny_base: Path) -> None:
    base = load_base(tiny_base, name="tiny", fingerprint="tiny", dtype=torch.float64)
    base.model.lm_head.weight = torch.nn.Parameter(base.model.lm_head.weight.detach().clone(), requires_grad=False)
    poisoned = 99  # its embedding alone, not the tied head's row
    jobs = make_jobs(90, examples=9, prompt=12)
    clean = in_bank(base, jobs, CONFIG, slots=PEOPLE)
    with torch.no_grad():
        base.model.get_input_embeddings().weight[poisoned] = float("nan")
    bad = Job(jobs[3].user, [TokenizedExample([5, poisoned, 6], [7, 2])], seed=7)
    runs = in_bank(base, [*jobs[:3], bad, *jobs[4:]], CONFIG, slots=PEOPLE)
    assert isinstance(runs[bad.user].error, TrainingError) and runs[bad.user].adapter is None
    for job in [*jobs[:3], *jobs[4:]]:
        assert runs[job.user].losses == pytest.approx(clean[job.user].losses, rel=1e-9)


def test_every_epoch_sees_every_example_once() -> None:
    config = TrainConfig(epochs=3, batch_size=4)
    batches = minibatches(10, config, torch.Generator().manual_seed(0))
    assert [len(batch) for batch in batches] == [4, 4, 2] * 3
    epochs = [[*batches[at], *batches[at + 1], *batches[at + 2]] for at in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_bank_of_eight_equals_alone_and_peft_in_float32_on_smollm2(
    smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A minibatch spread over cores rounds otherwise, and AdamW blows up what it makes of gradients near its epsilon.
    monkeypatch.setattr("ownlm.oppu.fleet.workers_for", lambda device, config: 1)
    base = load_base(smollm2, name="smollm2-135m", fingerprint="smollm2", dtype="float32")
    config = TrainConfig(learning_rate=3e-4, epochs=2, batch_size=2, lora=LoraConfig(r=8, lora_alpha=8))
    jobs = make_jobs(base.model.config.vocab_size, examples=19, prompt=6)
    together = in_bank(base, jobs, config, slots=PEOPLE)
    for job in jobs[:: PEOPLE - 1]:  # the first and the last; benchmarks/equality.py compares all eight
        (alone,) = train_fleet(base, [job], config, slots=PEOPLE)
        losses, start, end = train_with_peft(smollm2, job, config, torch.float32)
        assert len(losses) >= 20
        mine = weights(together[job.user].adapter)
        for reference, after in ((alone.losses, weights(alone.adapter)), (losses, end)):
            assert together[job.user].losses == pytest.approx(reference, rel=1e-4)
            assert distance(mine, after, start) < 1e-2


MLP = LoraConfig(r=4, lora_alpha=8, target_modules=("q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"))


def every_span_padded(parts, device, whole=None):
    """As on a GPU."""
    spans = make_segments(parts, device, whole)
    return replace(spans, padded=pad(spans, device))


# Each shortcut, and what it is without.
WITHOUT = {
    "prefix shared": ("ownlm.oppu.minibatches.shared_prefix", lambda *_: 0),
    "last MLP at asked positions": ("ownlm.model.forward_context.TRIM_ONE_IN", 10**9),
    "A of siblings at once": ("ownlm.model.targets.SIBLINGS", ()),
    "queries in blocks": ("ownlm.model.packed.BLOCK", 10**9),
    "queries in small blocks": ("ownlm.model.packed.BLOCK", 3),
    "products one by one": ("ownlm.model.packed.make_segments", every_span_padded),
    "a pass on each core": ("ownlm.oppu.fleet.workers_for", lambda device, config: 1),
    "freed memory kept": ("ownlm.oppu.fleet.keeping_freed_memory", nullcontext),
}


@pytest.mark.parametrize("modules", [CONFIG.lora, MLP], ids=["attention", "mlp"])
def test_each_shortcut_changes_nothing(
    double: BaseLM, tiny_base: Path, modules: LoraConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG.model_copy(update={"lora": modules, "epochs": 1})
    jobs = make_jobs(double.model.config.vocab_size, examples=9, prompt=24)[:3]
    quick = in_bank(double, jobs, config, slots=2)
    losses, _, end = train_with_peft(tiny_base, jobs[0], config, torch.float64)
    assert quick[jobs[0].user].losses == pytest.approx(losses, rel=1e-9)
    for name, tensor in weights(quick[jobs[0].user].adapter).items():
        torch.testing.assert_close(tensor, end[name], atol=1e-9, rtol=1e-9)
    for shortcut, (place, other) in WITHOUT.items():
        with monkeypatch.context() as patch:
            patch.setattr(place, other)
            plain = in_bank(double, jobs, config, slots=2)
        for user, run in quick.items():
            assert run.losses == pytest.approx(plain[user].losses, rel=1e-9), shortcut
            for name, tensor in weights(run.adapter).items():
                torch.testing.assert_close(tensor, weights(plain[user].adapter)[name], atol=1e-9, rtol=1e-9)


def test_the_last_mlp_runs_on_asked_positions_alone(double: BaseLM) -> None:
    rows: list[int] = []
    last = double.model.model.layers[-1].mlp
    hook = last.gate_proj.register_forward_hook(lambda module, args, out: rows.append(args[0].shape[1]))
    try:
        in_bank(double, [Job("one", [TokenizedExample(list(range(3, 40)), [5, 2])], 0)], CONFIG, slots=1)
        double.model.set_attn_implementation("eager")
        double.model(torch.tensor([[5, 6, 7]]))  # nobody's flight
    finally:
        double.model.set_attn_implementation(attention.NAME)
        hook.remove()
    assert rows == [2, 2, 3]


def test_one_person_alone_keeps_all_workers_busy(double: BaseLM, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_jobs(double.model.config.vocab_size, examples=9, prompt=24)[0]
    monkeypatch.setattr("ownlm.oppu.fleet.workers_for", lambda device, config: 1)
    alone = in_bank(double, [job], CONFIG, slots=2)[job.user]
    monkeypatch.setattr("ownlm.oppu.fleet.workers_for", lambda device, config: 4)
    passes, run_pass = [], fleet._Fleet.run_pass
    monkeypatch.setattr(fleet._Fleet, "run_pass", lambda self, chunks: passes.append(chunks) or run_pass(self, chunks))
    spread = in_bank(double, [job], CONFIG, slots=2)[job.user]
    assert len(passes) > 2 * spread.step  # of minibatches of 4, 4 and 1
    assert spread.losses == pytest.approx(alone.losses, rel=1e-9) and spread.tokens == alone.tokens


def test_jobs_are_read_as_slots_fall_free(double: BaseLM) -> None:
    jobs, read = make_jobs(double.model.config.vocab_size, examples=3, prompt=6), list[str]()

    def one_by_one() -> Iterator[Job]:
        for job in jobs:
            read.append(job.user)
            yield job

    runs = train_fleet(double, one_by_one(), CONFIG, slots=2)
    next(runs)
    assert len(read) <= 4  # the first to end, the other, and who took their places
    runs.close()
    assert torch.get_num_threads() >= 1 and not double.model.model.layers[0].self_attn.q_proj._forward_hooks


def test_an_error_in_a_pass_reaches_whoever_trains(double: BaseLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: fleet._Fleet, chunks: list[Chunk]) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(fleet._Fleet, "run_pass", broken)
    cores = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="out of memory"):
        in_bank(double, make_jobs(90, examples=3, prompt=6), CONFIG, slots=2)
    assert torch.get_num_threads() == cores


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30), budget=st.integers(1, 200), parts=st.integers(1, 5)
)
def test_chunks_hold_every_example_once_and_are_of_a_size(lengths: list[int], budget: int, parts: int) -> None:
    examples = [TokenizedExample([3] * 4 + [4 + place] * length, [2]) for place, length in enumerate(lengths)]
    chunks = in_chunks(0, examples, budget, True, parts)
    assert [example for chunk in chunks for example in chunk.examples] == examples
    assert len(chunks) <= len(examples)
    shared = tokens_of(examples, True) - sum(len(e.prompt) - 4 for e in examples)
    if len(examples) > 1 and shared == 4:
        own = [sum(len(e.prompt) - 4 for e in chunk.examples) for chunk in chunks]
        assert all(size <= max(budget - 4, 1) + 2 * max(lengths) for size in own)
