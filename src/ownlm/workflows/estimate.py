"""What `train` would do and take, without doing it: only reading, so another process may train meanwhile."""

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ownlm.errors import ConfigError, OwnlmError
from ownlm.history.task import Task
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.oppu.estimate import Work, tokens_per_second, work_of
from ownlm.oppu.fleet import Job
from ownlm.oppu.memory import Room, room_for
from ownlm.progress import Progress
from ownlm.store.rows import BaseInfo
from ownlm.store.store import Store
from ownlm.workflows.histories import with_history
from ownlm.workflows.report import Estimate
from ownlm.workflows.selection import NOTHING_NEW, Candidate, Plan, candidates, checked, plan_for, seat

SAMPLE = 200  # people whose examples are counted; with more to train, they stand for the rest
TRIED = 64  # people on whose examples the speed is tried


def estimate(
    store: Store,
    task: Task,
    data: str | Path | None,
    load: Callable[[BaseInfo, Progress], BaseLM],
    progress: Progress,
    **asked: Any,
) -> Estimate:
    """Counts everybody who is to be trained, or a sample of them, and tries how fast they are trained.

    Args:
        data: histories that are counted as if they had been added.
        load: loads the base; called if anybody is to be trained.
        asked: as for `plan_for`.

    Raises:
        NotFoundError: a user named, or everybody, has no records. DataError: the file is not what it should be.
        ConfigError: the method is not LoRA.
    """
    store, task, added = with_history(store, data, task)
    plan = plan_for(store, task, **asked)
    found = _measured(store, lambda: load(plan.base, progress), plan, progress)
    found.added = added
    return found


def _measured(store: Store, load: Callable[[], BaseLM], plan: Plan, progress: Progress) -> Estimate:
    if plan.config.method != "lora":
        raise ConfigError("Only LoRA's training can be estimated", got=f"method {plan.config.method}")
    found = Estimate()
    sample, total = _sample(store, plan, found)
    if not sample:
        return found
    model = load()
    room = room_for(model, plan.config, plan.slots, plan.tokens_per_step)
    bank = LoraBank(model.model, plan.config.lora, 1)
    done, tried, reading = Counter[str](), list[Job](), 0.0
    for number, student in enumerate(sample):
        progress("people counted", number, len(sample))
        started = time.perf_counter()
        job = _job(store, model, plan, student, found)
        reading += time.perf_counter() - started
        if job is not None:
            _add(done, work_of(job, bank, plan.config))
            tried += [job] if len(tried) < TRIED else []
    progress("people counted", len(sample), len(sample))
    found.sampled = len(sample) if total > len(sample) else None
    if tried:
        progress("measuring the speed", 0, 0, f"with minibatches of {len(tried):,} users; nothing of it is kept")
        speed = tokens_per_second(model, tried, plan.config, room)
        found.seconds = (reading + done["tokens"] / speed) * total / len(sample)
    return _scaled(found, done, total / len(sample), room, len(bank.read(0).to_bytes()))


def _sample(store: Store, plan: Plan, found: Estimate) -> tuple[list[Candidate], int]:
    """At most `SAMPLE` of those who are to be trained, each as likely as any other; and how many they all are."""
    sample, total, chance = list[Candidate](), 0, random.Random(plan.seed)
    for student in checked(store, candidates(store, plan), plan):
        if not student.selected:
            found.not_chosen[student.skipped or ""] += 1
            continue
        if student.skipped is not None:
            found.skipped.append((student.user, student.skipped))
            continue
        total += 1
        if len(sample) < SAMPLE:
            sample.append(student)
        elif (place := chance.randrange(total)) < SAMPLE:
            sample[place] = student
    return sample, total


def _job(store: Store, model: BaseLM, plan: Plan, student: Candidate, found: Estimate) -> Job | None:
    """A person's job; who has none is told of."""
    try:
        job = seat(store, model, plan, student)[1]
    except OwnlmError as error:
        error.__traceback__ = error.__context__ = None
        found.failed.append((student.user, error))
        return None
    if job is None:
        found.skipped.append((student.user, NOTHING_NEW))
    return job


def _add(done: Counter[str], work: Work) -> None:
    done.update(people=1, examples=work.examples, steps=work.steps, tokens=work.tokens)


def _scaled(found: Estimate, done: Counter[str], scale: float, room: Room, adapter_bytes: int) -> Estimate:
    """What was counted, for everybody."""
    found.people, found.examples, found.steps, found.tokens = (
        round(done[what] * scale) for what in ("people", "examples", "steps", "tokens")
    )
    found.bytes, found.memory_bytes = found.people * adapter_bytes, room.bytes
    found.slots, found.tokens_per_step = room.slots, room.tokens_per_step
    return found
