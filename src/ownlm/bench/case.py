"""A case: one data set under one seed, given to every method, and a home for each stage that trains.

The name of a stage's home is a digest of all inputs: settings, data, base, seed. So nothing is trained twice, no method
changes another, and a run that was killed finds what is done.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from ownlm.bench.data import SetData
from ownlm.bench.plan import ProfilePlan
from ownlm.bench.results import SharedCost
from ownlm.bench.warnings import few_steps
from ownlm.durable import write_whole
from ownlm.errors import ConfigError, DataError, OwnlmError, PoolError
from ownlm.filesystem import read_regular
from ownlm.history.record import History, Query
from ownlm.history.task import Task
from ownlm.home import Home
from ownlm.inference.label_scoring import answer_tokens
from ownlm.inference.request import Request
from ownlm.model.base import BaseLM
from ownlm.model.bases.files import fingerprint as read_fingerprint
from ownlm.model.bases.placement import DEFAULT, Placement
from ownlm.model.bases.random_base import make_random_base
from ownlm.oppu.examples import encode_within
from ownlm.progress import Progress, silent
from ownlm.prompt.example import query_prompt
from ownlm.store.rows import AdapterInfo, BaseInfo, record_digest
from ownlm.workflows.plan import digest

fingerprint = cache(read_fingerprint)  # by folder: bases do not change while a benchmark runs
Role = Literal["targets", "sharers", "outsiders"]
Prompts = Callable[[Query], str]
Changes = Mapping[str, Any]  # settings of a stage, by their names in `TrainConfig` and its parts
AS_PLANNED: Changes = {}
NO_ADAPTERS: Mapping[str, AdapterInfo] = {}

BASE: Final = "base"  # name of a stage's base in its home
ADAPTED: Final = "adapted"
RANDOM: Final = "random"  # the base for trying a plan


def known_of(histories: Mapping[str, History]) -> list[tuple[str, str]]:
    """A digest of each user's records in their order, which says which are the latest where they have no times."""
    return sorted(
        (user, digest(*(part for one in history.records for part in (one.id, record_digest(one)))))
        for user, history in histories.items()
    )


def raise_first(failed: Sequence[tuple[str, OwnlmError]]) -> None:
    """Raises the first error of the users for whom a stage failed."""
    if failed:
        raise failed[0][1]


def no_outsiders(name: str) -> ConfigError:
    """The error for a set without users for stage 1."""
    return ConfigError(
        f"The set {name!r} has no outsiders to adapt the base on",
        hint="name a file of theirs as `outsiders`, or leave stage 1 out with `adapt = false`",
    )


@dataclass(frozen=True, slots=True)
class Case:
    """One data set under one seed.

    Attributes:
        folder: Folder of the whole benchmark; homes lie in it.
        source: The raw base, as for `Home.add_base`; or "random".
        adapt: Settings of stage 1; None leaves it out.
        share: Settings of pools, as defaults for methods.
        writer: Writer of text profiles.
        choose: Choose among the task's labels by likelihood, where it has any; else generate.
        shared: Costs of stages that run once for all users, by name; filled as methods are made.
        warnings: Warnings about a method's training; filled as it is made.
    """

    folder: Path
    data: SetData
    source: str
    seed: int = 0
    adapt: Mapping[str, Any] | None = field(default_factory=dict)
    share: Mapping[str, Any] = field(default_factory=dict)
    writer: ProfilePlan = field(default_factory=ProfilePlan)
    choose: bool = True
    placement: Placement = DEFAULT
    progress: Progress = silent
    shared: dict[str, SharedCost] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def task(self) -> Task:
        """The set's task, with its own instruction and labels."""
        return self.data.task

    @property
    def users(self) -> tuple[str, ...]:
        """Names of the users who are asked."""
        return tuple(self.data.targets)

    @property
    def histories(self) -> Mapping[str, History]:
        """Histories of the users who are asked."""
        return self.data.targets

    def labelled(self, user: str) -> History:
        """The records of a user that have an answer; one of the labels, where there are any.

        Raises:
            DataError: There are none.
        """
        task = self.task
        given = [(record, record.fields.get(task.answer_field, "").strip()) for record in self.histories[user].records]
        records = tuple(record for record, said in given if (said in task.labels if task.labels else said))
        if not records:
            expected = "at least one for each user who is asked"
            raise DataError(f"User {user!r} has no record with an answer", expected=expected)
        return History(user, records)

    def raw(self) -> Path:
        """The folder of the raw base."""
        return Path(self._raw().folder)

    def load_raw(self) -> BaseLM:
        """The raw base, loaded."""
        return self._bases().load(self._raw())

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text, by the raw base's tokenizer."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.raw() / "tokenizer.json"))
        return [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]

    def adapted(self, changes: Changes = AS_PLANNED) -> Path:
        """The folder of the adapted base: stage 1 on the outsiders, once for each of its settings.

        Args:
            changes: Settings of stage 1 that differ from the plan's.

        Raises:
            ConfigError: The set has no outsiders. TrainingError, DataError: as `Home.adapt`.
        """
        if self.adapt is None:
            return self.raw()
        if not self.data.outsiders:
            raise no_outsiders(self.data.name)
        settings = {**self.adapt, **changes}
        home = self.home("adapt", self.raw(), settings, "outsiders")
        if settings.get("profile"):
            self.profile(home)
        made = {base.name: base for base in home.bases()}.get(ADAPTED)
        if made is None:
            made = home.adapt(ADAPTED, self.task.name, base=BASE, seed=self.seed, progress=self.progress, **settings)
        took = made.provenance or {}
        self.warnings.extend(few_steps("stage 1", [len(took["losses"])] if "losses" in took else []))
        self.note("stage 1", changes, len(self.data.outsiders), took.get("seconds"), took.get("tokens"))
        return Path(made.folder)

    def home(self, stage: str, base: Path, settings: Changes = AS_PLANNED, role: Role = "targets") -> Home:
        """The home of a stage, with a base called "base" and the histories of the users in a role.

        Args:
            settings: All other inputs of the stage, as JSON can hold them.
        """
        histories: Mapping[str, History] = getattr(self.data, role)
        writer = {"writer": self.writer.model_dump()} if settings.get("profile") else {}
        key = digest(
            self.task.model_dump_json(), self.seed, known_of(histories), fingerprint(base),
            json.dumps({**settings, **writer}, sort_keys=True),
        )  # fmt: skip
        home = Home(self.folder / "stages" / f"{stage}-{key[:16]}", **asdict(self.placement))
        if BASE not in {one.name for one in home.bases()}:
            home.store.put_task(self.task)
            home.store.add_records(self.task.name, list(histories.values()), again=False)
            home.add_base(str(base), BASE, self.progress)  # last: a home with a base is complete
        return home

    def newest(self, home: Home) -> list[AdapterInfo]:
        """The newest adapter of each user who is asked."""
        latest = home.latest_adapters(self.task.name)
        return [latest[self.task.name, user] for user in self.users]

    def note(self, what: str, changes: Changes, people: int, seconds: float | None, tokens: float | None) -> None:
        """Adds the cost of a stage that runs once for all users.

        Args:
            changes: Settings that differ from the plan's.
            people: Number of users that it learns from.
        """
        name = ", ".join([what, *(f"{key} = {value}" for key, value in changes.items())])
        self.shared[name] = SharedCost(name=name, seconds=seconds, tokens=tokens, people=people)

    def loaded(self, home: Home) -> BaseLM:
        """A stage's base, loaded before answers are timed: some methods have it loaded from training."""
        return home.load(home.store.base(BASE))

    def profile(self, home: Home) -> None:
        """Writes the text profiles of a home's users, as the plan says. The cost is no method's.

        Raises:
            OwnlmError: The profile of a user could not be written. Finished ones are kept.
        """
        plan = self.writer
        labels = bool(self.task.labels) and not self.task.options  # labels that describe a user
        counted = plan.writer == "counted" or (plan.writer is None and plan.url is None and labels)
        if plan.url is None and not counted:
            home.add_base(str(self.raw()), "writer", self.progress)
        started = time.perf_counter()
        done = home.profile(
            self.task.name, base=None if counted or plan.url else "writer", url=plan.url, model=plan.model,
            counted=counted, progress=self.progress,
        )  # fmt: skip
        raise_first(done.failed)
        kept = home.store.folder / "profiles.json"  # the seconds, for later runs
        if done.written:
            write_whole(kept, json.dumps(time.perf_counter() - started).encode())
        seconds = json.loads(read_regular(kept)) if kept.exists() else None  # unknown after a kill right before
        users = len(done.written) + len(done.skipped)
        self.note(f"text profiles, {home.store.folder.name[:-12]}", {}, users, seconds, None)

    def ask(
        self, home: Home, queries: Sequence[Query], *, rag: int = 0, profile: bool = False, base_only: bool = False
    ) -> Iterator[str]:
        """Answers of each user's newest adapter in a home, or of its base alone.

        Args:
            rag: Number of the user's records that a prompt shows.
            profile: Whether a prompt shows the user's text profile.

        Raises:
            OwnlmError: A query cannot be answered.
        """
        for answer in home.ask_many(
            queries, self.task.name, base=BASE, choose=self.choose and bool(self.task.labels), rag=rag,
            profile=profile, base_only=base_only, progress=self.progress,
        ):  # fmt: skip
            if answer.error:
                raise answer.error
            if answer.warning:  # the base would answer in the method's name
                raise PoolError(answer.warning)
            yield answer.answer or ""

    def generate(
        self, home: Home, queries: Sequence[Query], prompt: Prompts, adapters: Mapping[str, AdapterInfo] = NO_ADAPTERS
    ) -> Iterator[str]:
        """Answers prompts of a method's own making, in the queries' order.

        Args:
            prompt: The prompt of a query.
            adapters: The adapter of each user, on the home's base; the base answers for others.

        Raises:
            DataError: A prompt is longer than the base's context.
            PoolError: A recipe is for another pool.
        """
        base, task = home.store.base(BASE), self.task
        labels = tuple(task.labels or ()) if self.choose else ()

        def requests() -> Iterator[Request]:
            model = self.loaded(home)
            room = answer_tokens(model, labels, task.max_new_tokens)
            for query in queries:
                what = f"The query {query.id!r} of user {query.user_id!r}"
                tokens = tuple(encode_within(model, prompt(query), room, what))
                yield Request(
                    base, adapters.get(query.user_id), tokens, task.max_new_tokens, one_line=task.one_line,
                    labels=labels,
                )  # fmt: skip

        for done, output in enumerate(home.engine.generate(requests()), 1):
            if output.error:
                raise output.error
            self.progress("answers", done, len(queries))
            yield output.text

    def retrieving(self, rag: int) -> Prompts:
        """Returns prompts that show `rag` of the user's records, as a home's do."""
        return lambda query: query_prompt(self.task, query.fields, self.histories[query.user_id], rag=rag)[0]

    def _raw(self) -> BaseInfo:
        home, source, name = self._bases(), self.source, f"raw-{digest(self.source)[:12]}"
        if source == RANDOM:
            source = str(self.folder / "stages" / RANDOM)
            if not (Path(source) / "tokenizer_config.json").exists():  # the file that is written last
                make_random_base(Path(source))
        known = {base.name: base for base in home.bases()}
        return known.get(name) or home.add_base(source, name, self.progress)

    def _bases(self) -> Home:
        return Home(self.folder / "stages" / "base", **asdict(self.placement))
