"""Stage 2: an adapter for each person whose history, base or settings changed.

Where only new records came, training goes on from the person's last adapter, on the new records alone. People come in
and adapters go out one by one: but for a line each in the report, memory does not grow with how many there are.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any
from uuid import uuid4

from ownlm.config import TrainConfig
from ownlm.errors import NotFoundError, OwnlmError, many
from ownlm.model.base import BaseLM
from ownlm.oppu.fleet import Job, OnState, Run, train_fleet
from ownlm.oppu.memory import Room, room_for
from ownlm.oppu.peft_methods import train_with_peft
from ownlm.progress import Progress
from ownlm.store.blobs import blob_name
from ownlm.store.checkpoints import CheckpointInfo, Source
from ownlm.store.rows import AdapterInfo, history_digest
from ownlm.store.store import Store
from ownlm.workflows.checkpoints import Checkpoints, Stored, machine_key
from ownlm.workflows.held_back import measure
from ownlm.workflows.report import Trained, Training
from ownlm.workflows.selection import FORGOTTEN, NOTHING_NEW, Plan, TrainingSeat, candidates, checked, seat
from ownlm.workflows.settings import digest
from ownlm.workflows.writer import BackgroundWriter


class Meter:
    """Turns a fleet's passes into progress: steps done, of how many, and tokens a second."""

    def __init__(self, progress: Progress, stage: str, steps: int) -> None:
        self.progress, self.stage, self.steps = progress, stage, steps
        self.done = self.tokens = self.people = 0
        self.started = time.perf_counter()

    @property
    def tokens_per_s(self) -> float:
        """Tokens trained on per second, since the start."""
        return self.tokens / (time.perf_counter() - self.started)

    @property
    def note(self) -> str:
        """How far and how fast, in words."""
        people = f"{many(self.people, 'user')} done, " if self.people else ""
        return f"{people}{self.tokens_per_s:,.0f} tokens/s"

    def counted(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """The same jobs; steps that were taken before an interruption are done already."""
        for job in jobs:
            self.done += job.state.step if job.state else 0
            yield job

    def on_step(self, runs: list[Run], tokens: int) -> None:
        """These people have taken an optimizer step."""
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
    """Trains jobs by the config's method, within the room there is."""
    tokens = room.tokens_per_step
    if config.method != "lora":
        return train_with_peft(base, jobs, config, tokens_per_step=tokens, on_step=on_step, on_state=on_state)
    return train_fleet(
        base, jobs, config, slots=room.slots, tokens_per_step=tokens, workers=room.workers, on_step=on_step,
        on_state=on_state,
    )  # fmt: skip


def train_people(store: Store, load: Callable[[], BaseLM], plan: Plan, progress: Progress, report: Training) -> None:
    """Trains everybody who is to be trained; each adapter is kept soon after it is done, each outcome is reported.

    Args:
        load: gives the base; called if anybody is to be trained.

    Raises:
        NotFoundError: a user named, or everybody, has no records; nothing is trained then.
        StoreError: the home cannot be written; what is done is kept.
    """
    steps = sum(one.steps(plan.config) for one in checked(store, candidates(store, plan), plan) if one.skipped is None)
    held_back = measure(store, load, plan, Meter(progress, "trial steps", steps).on_step) if plan.held_back else {}
    seated, checkpoints = dict[str, TrainingSeat](), Checkpoints(store)
    jobs = _jobs(store, load, plan, seated, checkpoints, report)
    if (first := next(jobs, None)) is None:
        return
    model = load()
    room = room_for(model, plan.config, plan.slots, plan.tokens_per_step)
    meter, made_with = Meter(progress, "training steps", steps), plan.provenance()

    def told(info: Stored, error: NotFoundError | None) -> None:
        if isinstance(info, CheckpointInfo):
            return
        if error:
            _fail(store, plan, info.user, error, report)
        else:
            report.trained.append(Trained.of(info))
            meter.people += 1

    with checkpoints.told(report), BackgroundWriter(checkpoints.store, room.waiting, told) as keeper:
        on_state, everybody = partial(checkpoints.offer, keeper), meter.counted(chain([first], jobs))
        for run in fleet(model, everybody, plan.config, room, meter.on_step, on_state):
            own = seated.pop(run.job.user)
            checkpoints.done(run)
            if run.error:
                _fail(store, plan, run.job.user, run.error, report)
            else:
                run.job = Job(run.job.user, (), run.job.seed)  # the examples are not held until it is stored
                measured = {"held_back": held_back[run.job.user]} if run.job.user in held_back else {}
                keeper.put(partial(_made, run, own, plan, made_with | measured))
            report.tokens_per_s = meter.tokens_per_s
    progress(meter.stage, steps, steps, meter.note)


def _jobs(
    store: Store,
    load: Callable[[], BaseLM],
    plan: Plan,
    seated: dict[str, TrainingSeat],
    checkpoints: Checkpoints,
    report: Training,
) -> Iterator[Job]:
    """Everybody's jobs, one by one; who has none goes into the report."""
    for student in candidates(store, plan):
        if not student.selected:
            report.not_chosen[student.skipped or ""] += 1
            continue
        if student.skipped is not None:
            report.skipped.append((student.user, student.skipped))
            continue
        if student.anew:
            report.anew.append(student.user)
        model = load()
        try:
            own, job = seat(store, model, plan, student)
        except OwnlmError as error:
            _fail(store, plan, student.user, error, report)
            continue
        if job is None:
            if own.last:
                store.catch_up(own.last, own.history, own.upto)
            report.skipped.append((student.user, NOTHING_NEW))
            continue
        seated[student.user] = own
        yield checkpoints.resume(job, _checkpoint(plan, model, own))


def _checkpoint(plan: Plan, model: BaseLM, own: TrainingSeat) -> CheckpointInfo:
    """What a user's run is checkpointed as."""
    user, history, parent = own.history.user_id, history_digest(own.history), own.last.id if own.last else ""
    key = digest(plan.key(own.profile), history, parent, machine_key(model, plan.config, plan.tokens_per_step))
    return CheckpointInfo(plan.task.name, key, (Source(user, history, own.upto),), user)


def _fail(store: Store, plan: Plan, user: str, error: OwnlmError, report: Training) -> None:
    """Tells why a person has no new adapter."""
    if store.knows(plan.task.name, user):
        error.__traceback__ = error.__context__ = None  # else everything they were trained on stays in memory
        report.failed.append((user, error))
    else:
        report.skipped.append((user, FORGOTTEN))


def _made(run: Run, own: TrainingSeat, plan: Plan, made_with: dict[str, Any]) -> tuple[AdapterInfo, bytes]:
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
