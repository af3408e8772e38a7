"""Estimate of a training run, without training. It only reads the home, so another process may train."""

import random
import time
from collections import Counter
from collections.abc import Callable

from ownlm.errors import ConfigError, OwnlmError
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.oppu.estimate import tokens_per_second, work_of
from ownlm.oppu.fleet import Job
from ownlm.oppu.memory import room_for
from ownlm.progress import Progress
from ownlm.workflows.plan import TrainPlan
from ownlm.workflows.report import Estimate
from ownlm.workflows.selection import NOTHING_NEW, Candidate, candidates, checked, seat

SAMPLE = 200  # users with counted examples; with more users to train, the sample stands for all
TRIED = 64  # users with examples that the speed is measured on


def estimate(plan: TrainPlan, load: Callable[[], BaseLM], progress: Progress) -> Estimate:
    """Counts the examples of the users to train, or of a sample of them, and measures the speed of training.

    Args:
        plan: users and settings.
        load: gives the base; called if there is a user to train.
        progress: called with users counted.

    Raises:
        NotFoundError: a named user has no records, or no user has any.
        ConfigError: the method is not LoRA.
    """
    if plan.config.method != "lora":
        raise ConfigError("Only LoRA's training can be estimated", got=f"method {plan.config.method}")
    found = Estimate()
    sample, total = _sample(plan, found)
    if not sample:
        return found
    model = load()
    room = room_for(model, plan.config, plan.options.slots, plan.options.tokens_per_step)
    bank = LoraBank(model.model, plan.config.lora, 1)
    done, tried, reading = Counter[str](), list[Job](), 0.0
    for number, one in enumerate(sample):
        progress("people counted", number, len(sample))
        started = time.perf_counter()
        job = _job(plan, model, one, found)
        reading += time.perf_counter() - started
        if job is not None:
            work = work_of(job, bank, plan.config)
            done.update(people=1, examples=work.examples, steps=work.steps, tokens=work.tokens)
            tried += [job] if len(tried) < TRIED else []
    progress("people counted", len(sample), len(sample))
    scale = total / len(sample)
    if tried:
        progress("measuring the speed", 0, 0, f"with minibatches of {len(tried):,} users; nothing of it is kept")
        speed = tokens_per_second(model, tried, plan.config, room)
        found.seconds = (reading + done["tokens"] / speed) * scale
    found.sampled = len(sample) if total > len(sample) else None
    found.people, found.examples, found.steps, found.tokens = (
        round(done[what] * scale) for what in ("people", "examples", "steps", "tokens")
    )
    found.bytes, found.memory_bytes = found.people * len(bank.read(0).to_bytes()), room.bytes
    found.slots, found.tokens_per_step = room.slots, room.tokens_per_step
    return found


def _sample(plan: TrainPlan, found: Estimate) -> tuple[list[Candidate], int]:
    """At most `SAMPLE` of the users to train, drawn uniformly; and the number of all of them."""
    sample, total, chance = list[Candidate](), 0, random.Random(plan.options.seed)
    for one in checked(plan, candidates(plan)):
        if not one.selected:
            found.not_chosen[one.skipped or ""] += 1
            continue
        if one.skipped is not None:
            found.skipped.append((one.user, one.skipped))
            continue
        total += 1
        if len(sample) < SAMPLE:
            sample.append(one)
        elif (place := chance.randrange(total)) < SAMPLE:
            sample[place] = one
    return sample, total


def _job(plan: TrainPlan, model: BaseLM, one: Candidate, found: Estimate) -> Job | None:
    """A user's job; a user without one is reported."""
    try:
        job = seat(plan, model, one)[1]
    except OwnlmError as error:
        error.__traceback__ = error.__context__ = None
        found.failed.append((one.user, error))
        return None
    if job is None:
        found.skipped.append((one.user, NOTHING_NEW))
    return job
