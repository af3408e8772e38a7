"""One data set under one seed: what every method is given, and a home for each of its stages.

A stage that trains has a home of its own, whose name is a digest of all that it depends on: settings, data, base, seed.
So nothing is trained twice, nothing of one method reaches another, and what a killed run has done is found again.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ownlm.bench.data import SetData
from ownlm.bench.plan import ProfilePlan
from ownlm.bench.results import Costs, SharedCost
from ownlm.bench.warnings import few_steps
from ownlm.durable import write_whole
from ownlm.errors import ConfigError, PoolError
from ownlm.filesystem import read_regular
from ownlm.history.record import History, Query
from ownlm.history.task import Task
from ownlm.home import Home
from ownlm.model.base import BaseLM
from ownlm.model.bases.files import fingerprint as read_fingerprint
from ownlm.model.bases.random_base import make_random_base
from ownlm.progress import Progress, silent
from ownlm.store.rows import BaseInfo, record_digest
from ownlm.workflows.plan import digest

fingerprint = cache(read_fingerprint)  # by folder: what lies there stays while a benchmark runs
Who = Literal["targets", "sharers", "outsiders"]
Answers = Callable[[Sequence[Query]], Iterator[str]]

BASE = "base"  # what a stage's base is called in its home
ADAPTED = "adapted"
RANDOM = "random"  # the base of a plan that is only tried


def known_of(histories: Mapping[str, History]) -> list[tuple[str, str]]:
    """A digest of each person's records, in their order: without times, that says which are the latest."""
    return sorted(
        (user, digest(*(part for one in history.records for part in (one.id, record_digest(one)))))
        for user, history in histories.items()
    )


def no_outsiders(name: str) -> ConfigError:
    """A set has no users whom stage 1 could learn from."""
    return ConfigError(
        f"The set {name!r} has no outsiders to adapt the base on",
        hint="name a file of theirs as `outsiders`, or leave stage 1 out with `adapt = false`",
    )


@dataclass(frozen=True, slots=True)
class Made:
    """A method, ready to answer, and what it took.

    Attributes:
        answer: gives an answer a query, in order and one by one: those that are there stay when a run is killed.
        costs: of the stages before.
    """

    answer: Answers
    costs: Costs


@dataclass(frozen=True, slots=True)
class Case:
    """One data set under one seed.

    Attributes:
        folder: of the whole benchmark; homes lie in it.
        source: the raw base, as for `Home.add_base`; or "random".
        adapt: settings of stage 1; None to leave it out.
        share: settings of pools; a method's own stand above.
        choose: choose among the task's labels by likelihood, where it has any; else generate.
        shared: what was done once for all people, by what it is; filled as methods are made.
        warnings: what the reader of the results should know of a method's training; filled as it is made.
    """

    folder: Path
    data: SetData
    source: str
    seed: int = 0
    adapt: Mapping[str, Any] | None = field(default_factory=dict)
    share: Mapping[str, Any] = field(default_factory=dict)
    writer: ProfilePlan = field(default_factory=ProfilePlan)
    choose: bool = True
    device: str | None = None
    progress: Progress = silent
    shared: dict[str, SharedCost] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def task(self) -> Task:
        """The set's, with its own instruction and labels."""
        return self.data.task

    @property
    def people(self) -> tuple[str, ...]:
        """Who is asked."""
        return tuple(self.data.targets)

    @property
    def histories(self) -> Mapping[str, History]:
        """Of those who are asked."""
        return self.data.targets

    def raw(self) -> Path:
        """The folder of the raw base."""
        return Path(self._raw().folder)

    def load_raw(self) -> BaseLM:
        """The raw base, ready to run."""
        info = self._raw()
        return self._bases().load(info)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of texts, as the raw base counts them."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.raw() / "tokenizer.json"))
        return [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]

    def adapted(self, **changes: Any) -> Path:
        """The folder of the adapted base: stage 1 on the outsiders, once for each of its settings.

        Raises:
            ConfigError: the set has no outsiders. TrainingError, DataError: as `Home.adapt`.
        """
        if self.adapt is None:
            return self.raw()
        if not self.data.outsiders:
            raise no_outsiders(self.data.name)
        settings = {**self.adapt, **changes}
        home = self.home("adapt", self.raw(), "outsiders", **settings)
        known = {base.name: base for base in home.bases()}
        if settings.get("profile"):
            self.profile(home)
        made = known.get(ADAPTED)
        if made is None:
            made = home.adapt(ADAPTED, self.task.name, base=BASE, seed=self.seed, progress=self.progress, **settings)
        told = made.provenance or {}
        self.warnings.extend(few_steps("stage 1", [len(told["losses"])] if "losses" in told else []))
        self.note("stage 1", changes, len(self.data.outsiders), told.get("seconds"), told.get("tokens"))
        return Path(made.folder)

    def home(self, stage: str, base: Path, who: Who = "targets", **what: Any) -> Home:
        """The home of a stage, with its base, called "base", and some people's histories.

        Args:
            what: all else that the stage depends on; it must be of what JSON can say.
        """
        histories: Mapping[str, History] = getattr(self.data, who)
        if what.get("profile"):
            what["writer"] = self.writer.model_dump()
        key = digest(
            self.task.model_dump_json(), self.seed, known_of(histories), fingerprint(base),
            json.dumps(what, sort_keys=True),
        )  # fmt: skip
        home = Home(self.folder / "stages" / f"{stage}-{key[:16]}", device=self.device)
        if BASE not in {one.name for one in home.bases()}:
            home.store.put_task(self.task)
            home.store.add_records(self.task.name, list(histories.values()), again=False)
            home.add_base(str(base), BASE, self.progress)  # last: where it is, all is
        return home

    def note(
        self, what: str, changes: Mapping[str, Any], people: int, seconds: float | None, tokens: float | None
    ) -> None:
        """Tells what a stage took that is done once for all people.

        Args:
            changes: how it differs from the plan's own.
            people: whose records it learnt from.
        """
        name = ", ".join([what, *(f"{key} = {value}" for key, value in changes.items())])
        self.shared[name] = SharedCost(name, seconds, tokens, people)

    def loaded(self, home: Home) -> BaseLM:
        """A stage's base, ready to run: loaded before answers are timed, since some methods have it from training."""
        return home.load(home.store.base(BASE))

    def profile(self, home: Home) -> None:
        """Writes everybody's text profile in a home, as the plan says. What that takes is no method's cost.

        Raises:
            OwnlmError: somebody's could not be written. Those that are written stay.
        """
        plan = self.writer
        labels = bool(self.task.labels) and not self.task.options  # such as say something of a person
        counted = plan.writer == "counted" or (plan.writer is None and plan.url is None and labels)
        if plan.url is None and not counted:
            home.add_base(str(self.raw()), "writer", self.progress)
        started = time.perf_counter()
        done = home.profile(
            self.task.name,
            base=None if counted or plan.url else "writer",
            url=plan.url,
            model=plan.model,
            counted=counted,
            progress=self.progress,
        )
        if done.failed:
            raise done.failed[0][1]
        kept = home.store.folder / "profiles.json"  # the seconds, for all who come after
        if done.written:
            write_whole(kept, json.dumps(time.perf_counter() - started).encode())
        seconds = json.loads(read_regular(kept)) if kept.exists() else None  # killed right before: nobody knows
        people = len(done.written) + len(done.skipped)
        self.note(f"text profiles, {home.store.folder.name[:-12]}", {}, people, seconds, None)

    def ask(self, home: Home, queries: Sequence[Query], **how: Any) -> Iterator[str]:
        """Answers, each by the person's newest adapter in a home, or by its base.

        Args:
            how: as for `Home.ask_many`.

        Raises:
            OwnlmError: a query cannot be answered.
        """
        choose = self.choose and bool(self.task.labels)
        for answer in home.ask_many(queries, self.task.name, choose=choose, progress=self.progress, **how):
            if answer.error:
                raise answer.error
            if answer.warning:  # the base would answer in the method's name
                raise PoolError(answer.warning)
            yield answer.answer or ""

    def _raw(self) -> BaseInfo:
        home, source, name = self._bases(), self.source, f"raw-{digest(self.source)[:12]}"
        if source == RANDOM:
            source = str(self.folder / "stages" / RANDOM)
            if not (Path(source) / "tokenizer_config.json").exists():  # what is written last
                make_random_base(Path(source))
        known = {base.name: base for base in home.bases()}
        return known.get(name) or home.add_base(source, name, self.progress)

    def _bases(self) -> Home:
        return Home(self.folder / "stages" / "base", device=self.device)
