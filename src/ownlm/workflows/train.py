"""Stage 2: trains an adapter for each user whose history, base or settings changed.

Where only records were added, training continues from the user's last adapter, on the new records alone. Users enter
and adapters leave one by one: memory does not grow with the number of users, except for a line each in the report.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from typing import Any, Literal
from uuid import uuid4

from ownlm.config import TrainConfig
from ownlm.errors import ConfigError, NotFoundError, OwnlmError, many
from ownlm.model.adapter import Adapter
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.oppu.estimate import tokens_per_second, work_of
from ownlm.oppu.fleet import Job, OnState, Run, train_fleet
from ownlm.oppu.memory import Room, room_for
from ownlm.oppu.minibatches import TokenizedExample
from ownlm.oppu.peft_methods import train_with_peft
from ownlm.perpcs.adapt import answer_loss
from ownlm.progress import Progress
from ownlm.store.blobs import blob_name
from ownlm.store.checkpoints import CheckpointInfo, Source
from ownlm.store.rows import AdapterInfo, history_digest
from ownlm.workflows.adapters import HeldBack
from ownlm.workflows.plan import TrainPlan, digest
from ownlm.workflows.report import Estimate, Trained, Training
from ownlm.workflows.selection import FORGOTTEN, NOTHING_NEW, Candidate, TrainingSeat, candidates, seat
from ownlm.workflows.writer import BackgroundWriter, Checkpoints, Stored, machine_key

SAMPLE = 200  # users with counted examples in an estimate; with more users to train, the sample stands for all
TRIED = 64  # users with examples that an estimate measures the speed on
LEAST, MOST = 5, 50  # held-back records to judge by
LEAST_IN_ALL = 15  # records of a history from which some can be held back
MOST_STEPS = 100  # of training; a longer one is not repeated as a trial


class Meter:
    """Turns the passes of a fleet into progress: steps done, steps in all, tokens per second."""

    def __init__(self, progress: Progress, stage: str, steps: int) -> None:
        self.progress, self.stage, self.steps = progress, stage, steps
        self.done = self.tokens = self.users = 0
        self.started = time.perf_counter()

    @property
    def tokens_per_s(self) -> float:
        """Tokens trained on per second, since the start."""
        return self.tokens / (time.perf_counter() - self.started)

    @property
    def note(self) -> str:
        """Users done and speed, in words."""
        users = f"{many(self.users, 'user')} done, " if self.users else ""
        return f"{users}{self.tokens_per_s:,.0f} tokens/s"

    def counted(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """The same jobs; the steps of their checkpoints count as done."""
        for job in jobs:
            self.done += job.state.step if job.state else 0
            yield job

    def on_step(self, runs: list[Run], tokens: int) -> None:
        """Counts an optimizer step of each of these runs."""
        self.done += len(runs)
        self.tokens += tokens
        self.progress(self.stage, min(self.done, self.steps), self.steps, self.note)


def fleet(
    base: BaseLM,
    jobs: Iterable[Job],
    config: TrainConfig,
    room: Room,
    on_step: Callable[[list[Run], int], None],
    on_state: OnState | None = None,
) -> Iterator[Run]:
    """Trains jobs by the config's method, within the memory of `room`."""
    tokens = room.tokens_per_step
    if config.method != "lora":
        return train_with_peft(base, jobs, config, tokens_per_step=tokens, on_step=on_step, on_state=on_state)
    return train_fleet(
        base, jobs, config, slots=room.slots, tokens_per_step=tokens, workers=room.workers,
        states_bytes=room.states_bytes, on_step=on_step, on_state=on_state,
    )  # fmt: skip


def train_users(plan: TrainPlan, load: Callable[[], BaseLM], progress: Progress, report: Training) -> None:
    """Trains the plan's users; each adapter is stored soon after it is done, and each outcome is reported.

    Args:
        plan: users and settings.
        load: gives the base; called if there is a user to train.
        progress: called with steps done and tokens per second.
        report: filled as users are done.

    Raises:
        NotFoundError: a named user has no records, or no user has any; nothing is trained then.
        StoreError: the home cannot be written; finished adapters are kept.
    """
    steps = sum(one.steps(plan.config) for one in candidates(plan, check=True) if one.skipped is None)
    trial_steps = Meter(progress, "trial steps", steps)
    held_back = measure(plan, load, trial_steps.on_step) if plan.options.held_back else {}
    seated, checkpoints = dict[str, TrainingSeat](), Checkpoints(plan.store)
    jobs = _jobs(plan, load, seated, checkpoints, report)
    if (first := next(jobs, None)) is None:
        return
    model = load()
    room = room_for(model, plan.config, plan.options.slots, plan.options.tokens_per_step)
    meter, made_with = Meter(progress, "training steps", steps), plan.provenance() | model.computed_in

    def on_stored(info: Stored, error: NotFoundError | None) -> None:
        if isinstance(info, CheckpointInfo):
            return
        if error:
            _fail(plan, info.user, error, report)
        else:
            report.trained.append(Trained.of(info))
            meter.users += 1

    with checkpoints.reported(report), BackgroundWriter(checkpoints.store, room.waiting, on_stored) as writer:
        on_state = partial(checkpoints.offer, writer)
        jobs = meter.counted(chain([first], jobs))
        for run in fleet(model, jobs, plan.config_for(model), room, meter.on_step, on_state):
            own = seated.pop(run.job.user)
            checkpoints.done(run)
            if run.error:
                _fail(plan, run.job.user, run.error, report)
            else:
                run.job = Job(run.job.user, (), run.job.seed)  # frees the examples before the adapter is stored
                measured = {"held_back": held_back[run.job.user]} if run.job.user in held_back else {}
                writer.put(partial(_made, run, own, plan, made_with | measured))
            report.tokens_per_s = meter.tokens_per_s
    progress(meter.stage, steps, steps, meter.note)


def _jobs(
    plan: TrainPlan, load: Callable[[], BaseLM], seated: dict[str, TrainingSeat], checkpoints: Checkpoints,
    report: Training,
) -> Iterator[Job]:  # fmt: skip
    """The users' jobs, one by one. Users without a job are reported."""
    for one in _to_train(plan, report):
        if one.restarted:
            report.restarted.append(one.user)
        model = load()
        try:
            own, job = seat(plan, model, one)
        except OwnlmError as error:
            _fail(plan, one.user, error, report)
            continue
        if job is None:
            if own.last:
                plan.store.catch_up(own.last, own.history, own.upto)
            report.skipped.append((one.user, NOTHING_NEW))
            continue
        seated[one.user] = own
        history, parent = history_digest(own.history), own.last.id if own.last else ""
        key = digest(plan.key(own.profile), history, parent, machine_key(model))
        source = Source(one.user, history, own.upto)
        yield checkpoints.resume(job, CheckpointInfo(plan.task.name, key, (source,), one.user))


def _to_train(plan: TrainPlan, report: Training | Estimate, *, check: bool = False) -> Iterator[Candidate]:
    """The candidates to train; the others are reported, each with the reason. `check` as for `candidates`."""
    for one in candidates(plan, check=check):
        if not one.selected:
            report.not_chosen[one.skipped or ""] += 1
        elif one.skipped is not None:
            report.skipped.append((one.user, one.skipped))
        else:
            yield one


def _fail(plan: TrainPlan, user: str, error: OwnlmError, report: Training) -> None:
    """Reports why a user has no new adapter."""
    if plan.store.knows(plan.task.name, user):
        error.__traceback__ = error.__context__ = None  # they hold the training data in memory
        report.failed.append((user, error))
    else:
        report.skipped.append((user, FORGOTTEN))


def _made(run: Run, own: TrainingSeat, plan: TrainPlan, made_with: dict[str, Any]) -> tuple[AdapterInfo, bytes]:
    """A finished adapter as it is stored."""
    assert run.adapter is not None
    weights = run.adapter.to_bytes()
    adapter = AdapterInfo(
        id=uuid4().hex,
        user=own.history.user_id,
        task=plan.task.name,
        base=plan.base.name,
        base_fingerprint=plan.base.fingerprint,
        key=plan.key(own.profile),
        history=history_digest(own.history),
        records=len(own.history),
        upto=own.upto,
        parent=own.last.id if own.last else None,
        blob=blob_name(weights),
        bytes=len(weights),
        method=plan.config.method,
        shape=run.adapter.shape(),
        provenance=made_with,
        steps=run.step,
        tokens=run.tokens,
        loss_first=run.losses[0],
        loss_last=run.losses[-1],
        seconds=round(run.seconds, 3),
    )
    return adapter, weights


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
        progress("users counted", number, len(sample))
        started = time.perf_counter()
        job = _job(plan, model, one, found)
        reading += time.perf_counter() - started
        if job is not None:
            work = work_of(job, bank, plan.config)
            done.update(people=1, examples=work.examples, steps=work.steps, tokens=work.tokens)
            tried += [job] if len(tried) < TRIED else []
    progress("users counted", len(sample), len(sample))
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
    for one in _to_train(plan, found, check=True):
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


def measure(
    plan: TrainPlan, load: Callable[[], BaseLM], on_step: Callable[[list[Run], int], None]
) -> dict[str, dict[str, Any]]:
    """Results of the users who are about to be trained and have enough records: by user, as stored in provenance.

    Errors of single users are left to the training, which reports them.
    """
    measured, unseen = dict[str, dict[str, Any]](), dict[str, Sequence[TokenizedExample]]()
    if plan.config.method != "lora":
        return measured

    def trials() -> Iterator[Job]:
        for one in candidates(plan):
            if one.skipped is not None:
                continue
            model = load()
            try:
                _, job = seat(plan, model, one)
            except OwnlmError:
                continue
            if job is not None and job.start is not None:
                if len(job.examples) >= LEAST:
                    measured[job.user] = _compared("last", model, job.start, job.examples[-MOST:])
            elif job is not None and _worth_a_trial(job, plan):
                back = min(max(LEAST, len(job.examples) // 5), MOST)
                unseen[job.user] = job.examples[-back:]
                yield replace(job, examples=job.examples[:-back])

    jobs = trials()
    if (first := next(jobs, None)) is None:
        return measured
    model = load()
    room = room_for(model, plan.config, plan.options.slots, plan.options.tokens_per_step)
    for run in train_fleet(
        model, chain([first], jobs), plan.config_for(model), slots=room.slots, tokens_per_step=room.tokens_per_step,
        workers=room.workers, states_bytes=room.states_bytes, on_step=on_step,
    ):  # fmt: skip
        latest = unseen.pop(run.job.user)
        if isinstance(run.adapter, Adapter):
            measured[run.job.user] = _compared("trial", model, run.adapter, latest)
    return measured


def _worth_a_trial(job: Job, plan: TrainPlan) -> bool:
    return len(job.examples) >= LEAST_IN_ALL and plan.config.steps_for(len(job.examples)) <= MOST_STEPS


def _compared(
    how: Literal["trial", "last"], model: BaseLM, adapter: Adapter, examples: Sequence[TokenizedExample]
) -> dict[str, Any]:
    base_N = [answer_loss(model, None, [one]) for one in examples]
    return asdict(HeldBack.of(how, base_N, [answer_loss(model, adapter, [one]) for one in examples]))
