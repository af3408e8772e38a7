"""Stage 2: an adapter for each person whose history, base or settings changed.

Where only new records came, training goes on from the person's last adapter, on the new records alone.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import uuid4

from ownlm.config import TrainConfig
from ownlm.errors import NotFoundError, OwnlmError, TrainingError
from ownlm.history.record import History
from ownlm.history.task import Task
from ownlm.model.base import BaseLM
from ownlm.oppu.examples import tokenize
from ownlm.oppu.fleet import Job, Run, train_fleet
from ownlm.oppu.peft_methods import train_with_peft
from ownlm.progress import Progress
from ownlm.prompt.example import history_examples
from ownlm.store.blobs import blob_name
from ownlm.store.rows import AdapterInfo, BaseInfo, Person, ProfileInfo, history_digest
from ownlm.store.store import Store
from ownlm.verbs.load import load_adapter
from ownlm.verbs.profile import shown
from ownlm.verbs.report import Training
from ownlm.verbs.settings import digest, provenance


class Meter:
    """Turns a fleet's rounds into progress: steps done, of how many, and tokens a second."""

    def __init__(self, progress: Progress, stage: str, steps: int | None = None) -> None:
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
        people = f"{self.people:,} people done, " if self.people else ""
        return f"{people}{self.tokens_per_s:,.0f} tokens/s"

    def round(self, runs: list[Run], tokens: int) -> None:
        """One optimizer step of everybody in flight is done."""
        self.done += len(runs)
        self.tokens += tokens
        steps = self.steps or len(runs[0].minibatches)
        self.progress(self.stage, min(self.done, steps), steps, self.note)


@dataclass(frozen=True, slots=True)
class Plan:
    """What everybody's training has in common."""

    task: Task
    base: BaseInfo
    config: TrainConfig
    seed: int

    def key(self, profile: ProfileInfo | None) -> str:
        """A digest of all that a person's adapter depends on, beside who they are and what they did."""
        about = profile.text if profile and self.config.prompt.profile else ""
        return digest(
            self.task.model_dump_json(), self.base.fingerprint, self.config.model_dump_json(), self.seed, about
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Student:
    """A person to train, and the adapter to go on from, if any."""

    person: Person
    last: AdapterInfo | None


def people_to_train(
    store: Store, plan: Plan, users: Sequence[str], from_scratch: bool, report: Training
) -> list[Student]:
    """Whom to train; the others go into the report.

    Raises:
        NotFoundError: a user named, or everybody, has no records.
    """
    people = {person.user: person for person in store.people(plan.task.name)}
    if not people:
        raise NotFoundError(f"Nobody in the home has records for task {plan.task.name!r}", hint="`ownlm history add`")
    if missing := [user for user in users if user not in people]:
        raise NotFoundError(f"The home has no records of user {missing[0]!r}", hint="`ownlm users ls`")
    outsiders = set() if users else store.outsiders(plan.base.name)
    latest, profiles = store.latest_adapters(plan.task.name), store.latest_profiles(plan.task.name)
    students = []
    for user in dict.fromkeys(users) or people:
        last = latest.get((plan.task.name, user))
        if user in outsiders and not (last and last.forgotten):  # what learnt from the forgotten is to be replaced
            why = f"the base {plan.base.name!r} has learnt from these records; --user trains anyway"
            report.skipped.append((user, why))
            continue
        if last and last.key != plan.key(profiles.get(user)):
            report.anew.append(user)
            last = None
        if last and (last.forgotten or not store.blobs.has(last.blob)):
            last = None
        if last and last.knows(people[user].history) and not (from_scratch and last.parent):
            report.skipped.append((user, "up to date"))
        else:
            goes_on = not from_scratch and plan.config.method == "lora"
            students.append(Student(people[user], last if goes_on else None))
    return students


def train_people(
    store: Store,
    model: BaseLM,
    plan: Plan,
    students: Sequence[Student],
    slots: int,
    progress: Progress,
    report: Training,
) -> None:
    """Trains everybody in `students`; each adapter is kept as soon as it is done, each outcome goes into the report."""
    config = plan.config
    steps = sum(_steps(student, config) for student in students)
    meter = Meter(progress, "training steps", steps)
    seated: dict[str, _Seated] = {}

    def jobs() -> Iterator[Job]:
        for student in students:
            user = student.person.user
            try:
                seat, job = _seat(store, model, plan, student)
            except OwnlmError as error:
                report.failed.append((user, error))
                continue
            if job is None:
                if seat.last:
                    store.catch_up(seat.last, seat.history, seat.upto)
                report.skipped.append((user, "nothing new to learn from"))
                continue
            seated[user] = seat
            yield job

    trained = train_fleet(model, jobs(), config, slots=slots, on_step=meter.round)
    for run in trained if config.method == "lora" else train_with_peft(model, jobs(), config, on_step=meter.round):
        seat = seated.pop(run.job.user)
        try:
            if run.error:
                raise run.error
            report.trained.append(_keep(store, run, seat, plan))
        except (TrainingError, NotFoundError) as error:
            if store.knows(plan.task.name, run.job.user):
                report.failed.append((run.job.user, error))
            else:
                report.skipped.append((run.job.user, "forgotten meanwhile"))
        meter.people += 1
        report.tokens_per_s = meter.tokens_per_s
    progress(meter.stage, steps, steps, meter.note)


@dataclass(frozen=True, slots=True)
class _Seated:
    """What a person in flight is trained on; the store may learn more, or forget, meanwhile."""

    history: History
    upto: int
    profile: ProfileInfo | None
    last: AdapterInfo | None


def _seat(store: Store, model: BaseLM, plan: Plan, student: Student) -> tuple[_Seated, Job | None]:
    """A person's job; none where everything that can be learnt was learnt by the adapter to go on from."""
    user, last = student.person.user, student.last
    history, numbers = store.numbered_history(plan.task.name, user)
    profile = store.profile(plan.task.name, user)  # after the records: forgetting one of them takes it away too
    learnt = {record for record, number in numbers.items() if last and number <= last.upto}
    examples = history_examples(
        plan.task,
        history,
        recent=plan.config.recent,
        since=plan.config.since,
        learnt=learnt,
        **shown(plan.config.prompt, user, profile),
    )
    seat = _Seated(history, max(numbers.values(), default=0), profile, last)
    if last and not examples:
        return seat, None
    start = load_adapter(store, last, model) if last else None
    return seat, Job(user, tokenize(model, user, examples), plan.seed, start)


def _steps(student: Student, config: TrainConfig) -> int:
    """About how many steps a person takes."""
    new = student.person.records - (student.last.records if student.last else 0)
    return -(-min(new, config.recent or new) // config.batch_size) * config.epochs


def _keep(store: Store, run: Run, seat: _Seated, plan: Plan) -> AdapterInfo:
    """Writes the weights, and says that they are there."""
    assert run.adapter is not None
    weights = run.adapter.to_bytes()
    adapter = AdapterInfo(
        id=uuid4().hex,
        user=seat.history.user_id,
        task=plan.task.name,
        base=plan.base.name,
        base_fingerprint=plan.base.fingerprint,
        key=plan.key(seat.profile),
        history=history_digest(seat.history),
        records=len(seat.history),
        upto=seat.upto,
        parent=seat.last.id if seat.last else None,
        blob=blob_name(weights),
        bytes=len(weights),
        method=plan.config.method,
        shape=run.adapter.shape(),
        provenance=provenance(plan.config, plan.seed) | {"task": plan.task.model_dump(mode="json")},
        steps=run.step,
        tokens=run.tokens,
        loss_first=run.losses[0],
        loss_last=run.losses[-1],
        seconds=round(run.seconds, 3),
    )
    store.add_adapter(adapter, weights)
    return adapter
