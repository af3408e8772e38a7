"""Gates, weights, and an adapter upon a frozen one: trained in a bank as by plain autograd and `torch.optim.AdamW`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from ownlm.config import LoraConfig, TrainConfig
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.oppu.fleet import Job, Run, job_seed, train_fleet
from ownlm.oppu.minibatches import minibatches
from ownlm.oppu.optim import linear_schedule
from ownlm.perpcs.equations import gated
from tests.oppu.test_fleet import make_jobs, norms_in_double  # noqa: F401
from tests.peft_reference import padded
from tests.perpcs.assembling import random_adapter

QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj", "q_proj")
K = 3

Update = Callable[[str, Tensor], Tensor]  # a module's name and its input: what is added to its output


def config_of(modules: tuple[str, ...], r: int = 2) -> TrainConfig:
    lora = LoraConfig(r=r, lora_alpha=2 * r, target_modules=modules)
    return TrainConfig(lora=lora, learning_rate=3e-3, steps=7, batch_size=4, weight_decay=0)


def generator_of(job: Job) -> torch.Generator:
    return torch.Generator().manual_seed(job_seed(job.seed, job.user))


def naive(
    folder: Path, job: Job, config: TrainConfig, parameters: dict[str, Tensor], update: Update, draw: torch.Generator
) -> list[float]:
    """Trains the parameters in place, one person alone; returns the losses."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in config.lora.target_modules:
            module.register_forward_hook(lambda _, args, y, name=name: y + update(name, args[0]))
    batches, losses = minibatches(len(job.examples), config, draw), []
    optimizer = torch.optim.AdamW(parameters.values(), lr=1.0, weight_decay=config.weight_decay)
    for step, batch in enumerate(batches):
        ids, mask, labels = padded([job.examples[index] for index in batch])
        logits = model(input_ids=ids, attention_mask=mask).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), config.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * linear_schedule(step, len(batches), config.warmup_ratio)
        optimizer.step()
        losses.append(loss.item())
    return losses


def people(base: BaseLM, frozen: LoraConfig, **more: object) -> list[Job]:
    jobs = make_jobs(base.model.config.vocab_size, examples=9, prompt=12)[:4]
    return [
        Job(job.user, job.examples, job.seed, frozen=random_adapter(base, frozen, number, 0.2), **more)
        for number, job in enumerate(jobs)
    ]


@pytest.mark.parametrize("modules", [QKVO, MLP], ids=["attention", "mlp"])
@pytest.mark.parametrize("slots", [1, 3])
def test_gates_equal_plain_autograd(double: BaseLM, tiny_base: Path, modules: tuple[str, ...], slots: int) -> None:
    config = config_of(modules)
    jobs = people(double, config.lora)
    fleet = train_fleet(double, jobs, config, scaled="gates", frozen=config.lora, slots=slots, tokens_per_step=200)
    runs = {run.job.user: run for run in fleet}
    for job in jobs[:2]:
        gates = {
            name: torch.zeros(pair.A_RD.shape[1], dtype=torch.float64, requires_grad=True)
            for name, pair in job.frozen.pairs.items()
        }

        def update(name: str, x_BTD: Tensor, job: Job = job, gates: dict[str, Tensor] = gates) -> Tensor:
            pair = job.frozen.pairs[name]
            x_TD = gated(x_BTD.flatten(0, 1), gates[name])
            return (2.0 * x_TD @ pair.A_RD.T @ pair.B_OR.T).view(*x_BTD.shape[:2], -1)

        losses = naive(tiny_base, job, config, gates, update, generator_of(job))
        run = runs[job.user]
        assert run.step == 7 and run.losses == pytest.approx(losses, rel=1e-9) and run.adapter is None
        assert run.scales.keys() == gates.keys()
        for name, gate_D in gates.items():
            torch.testing.assert_close(run.scales[name], gate_D.detach(), atol=1e-9, rtol=1e-9)
            assert gate_D.detach().abs().max() > 1e-4


def test_weights_equal_plain_autograd(double: BaseLM, tiny_base: Path) -> None:
    config = config_of(QKVO)
    stacked = config.lora.model_copy(update={"r": K * config.lora.r, "lora_alpha": K * config.lora.lora_alpha})
    begin = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    named = people(double, stacked)
    jobs = [
        Job(job.user, job.examples, 7, frozen=job.frozen, weights=dict.fromkeys(job.frozen.pairs, begin))
        for job in named
    ]
    runs = {run.job.user: run for run in train_fleet(double, jobs, config, scaled="weights", frozen=stacked, slots=3)}
    job = jobs[1]
    weights = {name: begin.clone().requires_grad_() for name in job.frozen.pairs}

    def update(name: str, x_BTD: Tensor) -> Tensor:
        pair = job.frozen.pairs[name]
        A_KRD, B_KOR = pair.A_RD.view(K, 2, -1), pair.B_OR.view(-1, K, 2).transpose(0, 1)
        return 2.0 * sum(weights[name][k] * (x_BTD @ A_KRD[k].T @ B_KOR[k].T) for k in range(K))

    losses = naive(tiny_base, job, config, weights, update, generator_of(job))
    assert runs[job.user].losses == pytest.approx(losses, rel=1e-9)
    for name, weight_K in weights.items():
        torch.testing.assert_close(runs[job.user].scales[name], weight_K.detach(), atol=1e-9, rtol=1e-9)
        assert (weight_K.detach() - begin).abs().max() > 1e-4


def test_an_adapter_upon_a_frozen_one_equals_plain_autograd(double: BaseLM, tiny_base: Path) -> None:
    config, frozen = config_of(("q_proj", "v_proj"), r=1), config_of(QKVO, r=6).lora
    jobs = people(double, frozen)
    runs = {run.job.user: run for run in train_fleet(double, jobs, config, frozen=frozen, slots=3)}
    job = jobs[2]
    bank, draw = LoraBank(double.model, config.lora, 1), generator_of(job)
    bank.initialise(0, draw)
    own = {
        (name, part): matrix.clone().requires_grad_()
        for name, pair in bank.read(0).pairs.items()
        for part, matrix in (("A", pair.A_RD), ("B", pair.B_OR))
    }
    every = config.model_copy(update={"lora": config.lora.model_copy(update={"target_modules": QKVO})})

    def update(name: str, x_BTD: Tensor) -> Tensor:
        pair = job.frozen.pairs[name]
        added = 2.0 * x_BTD @ pair.A_RD.T @ pair.B_OR.T
        return added + 2.0 * x_BTD @ own[name, "A"].T @ own[name, "B"].T if (name, "A") in own else added

    losses = naive(tiny_base, job, every, own, update, draw)
    assert runs[job.user].losses == pytest.approx(losses, rel=1e-9)
    for name, pair in runs[job.user].adapter.pairs.items():
        torch.testing.assert_close(pair.A_RD, own[name, "A"].detach(), atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(pair.B_OR, own[name, "B"].detach(), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("what", ["gates", "weights", "residual"])
@pytest.mark.parametrize("modules", [QKVO, MLP], ids=["attention", "mlp"])
def test_dropout_does_not_depend_on_company(double: BaseLM, modules: tuple[str, ...], what: str) -> None:
    config = config_of(modules, r=1 if what == "residual" else 2).model_copy(update={"lora_dropout": 0.3})
    frozen, scaled = config_of(modules, r=2 if what == "gates" else 6).lora, None if what == "residual" else what
    jobs = people(double, frozen)
    if what == "weights":
        begin = torch.full((K,), 1 / K)
        jobs = [replace(job, weights=dict.fromkeys(job.frozen.pairs, begin)) for job in jobs]

    def runs(some: list[Job], slots: int, config: TrainConfig = config) -> dict[str, Run]:
        fleet = train_fleet(double, some, config, scaled=scaled, frozen=frozen, slots=slots, tokens_per_step=200)
        return {run.job.user: run for run in fleet}

    together, turned = runs(jobs, 4), runs(jobs[::-1], 3)
    for job in jobs[1:3]:
        (alone,) = runs([job], 1).values()
        for other in (together[job.user], turned[job.user]):
            assert other.losses == pytest.approx(alone.losses, rel=1e-9)
            if scaled:
                assert all(torch.allclose(other.scales[name], one, atol=1e-9) for name, one in alone.scales.items())
            else:
                pairs = other.adapter.pairs
                assert all(torch.allclose(pairs[n].B_OR, p.B_OR, atol=1e-9) for n, p in alone.adapter.pairs.items())
        (without,) = runs([job], 1, config.model_copy(update={"lora_dropout": 0.0})).values()
        assert alone.losses != pytest.approx(without.losses, rel=1e-4)
