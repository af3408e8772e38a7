"""A run that continues from its state after any step equals one that was not interrupted, bit for bit when alone."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from ownlm.config import LoraConfig, TrainConfig
from ownlm.errors import TrainingError
from ownlm.model.base import BaseLM
from ownlm.oppu.fleet import Job, Run, train_fleet
from ownlm.oppu.peft_methods import train_with_peft
from ownlm.oppu.state import RunState
from tests.oppu.test_fleet import make_jobs
from tests.oppu.test_scaled import random_adapter

LORA = LoraConfig(r=2, lora_alpha=4, target_modules=("q_proj", "v_proj"))
PLAIN = TrainConfig(lora=LORA, learning_rate=3e-3, epochs=2, batch_size=4)
FROZEN = {"scaled": "gates", "frozen": LORA}
KINDS: dict[str, tuple[TrainConfig, dict[str, Any]]] = {
    "lora": (PLAIN, {}),
    "dropout": (PLAIN.model_copy(update={"lora_dropout": 0.3}), {}),
    "gates": (PLAIN, FROZEN),
    "ia3": (TrainConfig(method="ia3", learning_rate=3e-2, batch_size=4), {}),
    "prompt": (TrainConfig(method="prompt", virtual_tokens=3, learning_rate=3e-2, batch_size=4), {}),
}


def fleet_of(base: BaseLM, kind: str, slots: int) -> Callable[..., list[Run]]:
    config, how = KINDS[kind]
    if config.method != "lora":
        return lambda jobs, **more: list(train_with_peft(base, jobs, config, **more))
    return lambda jobs, **more: list(
        train_fleet(base, jobs, config, slots=slots, workers=1, tokens_per_step=100, **how, **more)
    )


def jobs_of(base: BaseLM, kind: str, count: int) -> list[Job]:
    jobs = make_jobs(90, examples=9, prompt=12)[:count]
    return [replace(job, frozen=random_adapter(base, LORA, 1)) for job in jobs] if kind == "gates" else jobs


def outcome(run: Run) -> bytes:
    assert run.error is None
    return run.adapter.to_bytes() if run.adapter else repr(sorted(run.scales.items())).encode()


def keep_all(states: dict[tuple[str, int], bytes], run: Run, state: Callable[[], RunState]) -> None:
    states[run.job.user, run.step] = state().to_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_continued_after_each_step_it_is_the_same_bit_for_bit(base: BaseLM, kind: str) -> None:
    train, (job,), states = fleet_of(base, kind, 1), jobs_of(base, kind, 1), dict[tuple[str, int], bytes]()
    (whole,) = train([job], on_state=partial(keep_all, states))
    assert [step for _, step in states] == list(range(1, whole.step)) and whole.step > 3
    for (_, step), data in states.items():
        state = RunState.from_bytes(data)
        (rest,) = train([replace(job, state=state)])
        assert outcome(rest) == outcome(whole) and rest.losses == whole.losses
        assert (state.step, rest.step, rest.tokens) == (step, whole.step, whole.tokens)
        assert rest.seconds > state.seconds


@pytest.mark.parametrize("kind", ["lora", "dropout"])
def test_in_other_company_it_is_the_same_but_for_rounding(base: BaseLM, kind: str) -> None:
    jobs, states = jobs_of(base, kind, 5), dict[tuple[str, int], bytes]()
    whole = {run.job.user: run for run in fleet_of(base, kind, 5)(jobs, on_state=partial(keep_all, states))}
    begun = [replace(job, state=RunState.from_bytes(states[job.user, 1 + at])) for at, job in enumerate(jobs[:3])]
    for run in fleet_of(base, kind, 2)([jobs[4], *begun, jobs[3]]):
        assert run.losses == pytest.approx(whole[run.job.user].losses, rel=1e-4)
        for name, pair in run.adapter.pairs.items():
            torch.testing.assert_close(pair.B_OR, whole[run.job.user].adapter.pairs[name].B_OR, atol=1e-5, rtol=1e-2)


def test_a_state_is_a_copy_and_leaves_training_as_it_is(base: BaseLM) -> None:
    train, (job,), states = fleet_of(base, "lora", 1), jobs_of(base, "lora", 1), list[tuple[RunState, bytes]]()
    (without,) = train([job])
    (run,) = train([job], on_state=lambda run, state: states.append(((own := state()), own.to_bytes())))
    assert outcome(run) == outcome(without)
    assert all(state.to_bytes() == data for state, data in states)


@pytest.mark.parametrize("data", [b"", b"no safetensors at all", bytes(100)])
def test_what_is_no_state_is_refused(data: bytes) -> None:
    with pytest.raises(TrainingError, match="cannot be read"):
        RunState.from_bytes(data)
