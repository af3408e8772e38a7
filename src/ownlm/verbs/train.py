"""Stage 2: an adapter for each person whose history, base or settings changed."""

import time
from collections.abc import Iterator, Sequence
from uuid import uuid4

from ownlm.config import TrainConfig
from ownlm.errors import NotFoundError, OwnlmError
from ownlm.history.record import History
from ownlm.history.task import Task
from ownlm.model.base import BaseLM
from ownlm.oppu.examples import tokenize
from ownlm.oppu.fleet import Job, Run, train_fleet
from ownlm.progress import Progress
from ownlm.prompt.example import history_examples
from ownlm.store.store import AdapterInfo, BaseInfo, Person, Store, history_digest
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


def people_to_train(
    store: Store, task: Task, base: BaseInfo, users: Sequence[str], config: TrainConfig, seed: int, report: Training
) -> list[Person]:
    """Whom to train; the others go into the report.

    Raises:
        NotFoundError: a user named, or everybody, has no records.
    """
    people = {person.user: person for person in store.people(task.name)}
    if not people:
        raise NotFoundError(f"Nobody in the home has records for task {task.name!r}", hint="`ownlm history add`")
    if missing := [user for user in users if user not in people]:
        raise NotFoundError(f"The home has no records of user {missing[0]!r}", hint="`ownlm users ls`")
    outsiders = set() if users else store.outsiders(base.name)
    latest = store.latest_adapters(task.name)
    chosen = []
    for user in dict.fromkeys(users) or people:
        person, last = people[user], latest.get((task.name, user))
        if user in outsiders:
            report.skipped.append((user, f"the base {base.name!r} has learnt from these records; --user trains anyway"))
        elif last and last.key == _key(person.history, task, base, config, seed) and store.blobs.has(last.blob):
            report.skipped.append((user, "up to date"))
        else:
            chosen.append(person)
    return chosen


def train_people(
    store: Store,
    model: BaseLM,
    base: BaseInfo,
    task: Task,
    people: Sequence[Person],
    config: TrainConfig,
    seed: int,
    slots: int,
    progress: Progress,
    report: Training,
) -> None:
    """Trains everybody in `people`; each adapter is kept as soon as it is done, each outcome goes into the report."""
    steps = sum(_steps(person.records, config) for person in people)
    meter = Meter(progress, "adapters", steps)
    seated: dict[str, History] = {}  # what each person in flight is trained on; the store may learn more meanwhile

    def jobs() -> Iterator[Job]:
        for person in people:
            try:
                history = store.history(task.name, person.user)
                examples = history_examples(task, history, recent=config.recent, **config.prompt.model_dump())
                job = Job(person.user, tokenize(model, person.user, examples), seed)
            except OwnlmError as error:
                report.failed.append((person.user, error))
            else:
                seated[person.user] = history
                yield job

    for run in train_fleet(model, jobs(), config, slots=slots, on_round=meter.round):
        if run.error:
            report.failed.append((run.job.user, run.error))
        else:
            report.trained.append(_keep(store, run, seated[run.job.user], base, task, config, seed))
        seated.pop(run.job.user, None)
        meter.people += 1
        report.tokens_per_s = meter.tokens_per_s
    progress(meter.stage, steps, steps, meter.note)


def _key(history: str, task: Task, base: BaseInfo, config: TrainConfig, seed: int) -> str:
    """A digest of all that a person's adapter depends on, beside who they are."""
    return digest(history, task.model_dump_json(), base.fingerprint, config.model_dump_json(), seed)


def _steps(records: int, config: TrainConfig) -> int:
    return -(-min(records, config.recent or records) // config.batch_size) * config.epochs


def _keep(
    store: Store, run: Run, history: History, base: BaseInfo, task: Task, config: TrainConfig, seed: int
) -> AdapterInfo:
    """Writes the weights, then says that they are there."""
    assert run.adapter is not None
    weights, trained_on = run.adapter.to_bytes(), history_digest(history)
    adapter = AdapterInfo(
        id=uuid4().hex,
        user=history.user_id,
        task=task.name,
        base=base.name,
        base_fingerprint=base.fingerprint,
        key=_key(trained_on, task, base, config, seed),
        history=trained_on,
        records=len(history),
        blob=store.blobs.put(weights),
        bytes=len(weights),
        lora=config.lora.model_dump(mode="json"),
        provenance=provenance(config, seed) | {"task": task.model_dump(mode="json")},
        steps=run.step,
        tokens=run.tokens,
        loss_first=run.losses[0],
        loss_last=run.losses[-1],
        seconds=round(run.seconds, 3),
    )
    store.add_adapter(adapter)
    return adapter
