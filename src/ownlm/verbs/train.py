"""Stage 2: an adapter for each person whose history, base or settings changed."""

import time
from collections.abc import Iterable, Iterator, Sequence
from uuid import uuid4

from ownlm.config import TrainConfig
from ownlm.errors import NotFoundError, OwnlmError
from ownlm.history.task import Task
from ownlm.model.base import BaseLM
from ownlm.oppu.examples import tokenize
from ownlm.oppu.fleet import Job, Run, train_fleet
from ownlm.progress import Progress
from ownlm.prompt.example import history_examples
from ownlm.store.store import AdapterInfo, BaseInfo, Person, Store
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
) -> dict[str, tuple[Person, str]]:
    """Whom to train, with the digest of all that their adapter depends on; the others go into the report.

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
    chosen = {}
    for user in users or people:
        person, last = people[user], latest.get((task.name, user))
        key = digest(person.history, task.model_dump_json(), base.fingerprint, config.model_dump_json(), seed)
        if user in outsiders:
            report.skipped.append((user, f"the base {base.name!r} has learnt from these records; --user trains anyway"))
        elif last is not None and last.key == key:
            report.skipped.append((user, "up to date"))
        else:
            chosen[user] = (person, key)
    return chosen


def train_people(
    store: Store,
    model: BaseLM,
    base: BaseInfo,
    task: Task,
    people: dict[str, tuple[Person, str]],
    config: TrainConfig,
    seed: int,
    slots: int,
    progress: Progress,
    report: Training,
) -> None:
    """Trains everybody in `people`; each adapter is kept as soon as it is done, each outcome goes into the report."""
    steps = sum(_steps(person.records, config) for person, _ in people.values())
    meter = Meter(progress, "adapters", steps)
    jobs = _jobs(store, model, task, people, config, seed, report)
    for run in train_fleet(model, jobs, config, slots=slots, on_round=meter.round):
        if run.error:
            report.failed.append((run.job.user, run.error))
        else:
            report.trained.append(_keep(store, run, *people[run.job.user], base, config, seed))
        meter.people += 1
        report.tokens_per_s = meter.tokens_per_s
    progress(meter.stage, steps, steps, meter.note)


def _steps(records: int, config: TrainConfig) -> int:
    return -(-min(records, config.recent or records) // config.batch_size) * config.epochs


def _jobs(
    store: Store, base: BaseLM, task: Task, users: Iterable[str], config: TrainConfig, seed: int, report: Training
) -> Iterator[Job]:
    for user in users:
        try:
            history = store.history(task.name, user)
            examples = history_examples(task, history, recent=config.recent, **config.prompt.model_dump())
            yield Job(user, tokenize(base, user, examples), seed)
        except OwnlmError as error:
            report.failed.append((user, error))


def _keep(
    store: Store, run: Run, person: Person, key: str, base: BaseInfo, config: TrainConfig, seed: int
) -> AdapterInfo:
    """Writes the weights, then says that they are there."""
    assert run.adapter is not None
    weights = run.adapter.to_bytes()
    adapter = AdapterInfo(
        id=uuid4().hex,
        user=person.user,
        task=person.task,
        base=base.name,
        base_fingerprint=base.fingerprint,
        key=key,
        history=person.history,
        records=person.records,
        blob=store.blobs.put(weights),
        bytes=len(weights),
        lora=config.lora.model_dump(mode="json"),
        provenance=provenance(config, seed),
        steps=run.step,
        tokens=run.tokens,
        loss_first=run.losses[0],
        loss_last=run.losses[-1],
        seconds=round(run.seconds, 3),
    )
    store.add_adapter(adapter)
    return adapter
