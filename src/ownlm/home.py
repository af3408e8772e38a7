"""A home: the records, bases and adapters of its users, and the operations on them, in the order of the flow."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from ownlm.access import Access
from ownlm.doctor import Diagnosis, diagnose
from ownlm.errors import NotFoundError
from ownlm.history.readers import read_queries
from ownlm.history.record import Dataset, History, Query
from ownlm.history.task import Task, parse_query
from ownlm.model.bases.placement import Dtype, Placement
from ownlm.pools import Pools
from ownlm.progress import Progress, silent
from ownlm.store.consents import LICENCE, Consent, set_consent
from ownlm.store.database import DATABASE
from ownlm.store.forget import Forgotten, resume
from ownlm.store.rows import AdapterInfo, BaseInfo, HistoryInfo, ProfileInfo
from ownlm.store.store import Store
from ownlm.workflows.adapters import learnt_from_gone
from ownlm.workflows.histories import (
    add_history,
    as_path,
    find_task,
    keep_task,
    known_history,
    with_history,
)
from ownlm.workflows.options import (
    AdaptOptions,
    AskOptions,
    AssembleOptions,
    ColdStartOptions,
    TrainOptions,
    UserOptions,
)
from ownlm.workflows.plan import assembly_plan, pick_base, train_plan
from ownlm.workflows.profile import pick_writer, write_profiles
from ownlm.workflows.report import Added, Answer, Assemblies, ColdStart, Estimate, Exported, Profiles, Training
from ownlm.workflows.users import (
    Corrections,
    ListedUser,
    ListOptions,
    forget,
    list_users,
    newest_adapter,
    working_alone,
)

if TYPE_CHECKING:  # what needs torch is imported where it is used: listing users should not wait for it
    from ownlm.inference.engine import Engine
    from ownlm.model.base import BaseLM

AnyPath = str | Path


class Home(Corrections):
    """Everything ownlm keeps for a group of users, in one folder.

    An operation takes the task's name and its options as keyword arguments, or one options object in their place:
    `home.train("news", epochs=2)` is `home.train(TrainOptions(task="news", epochs=2))`; see `workflows.options`.
    `progress` is called with what is done. A `report` given is filled while the operation runs. A process that trains
    waits for another one in the same home.

    Args:
        folder: folder of the home.
        device: device that models run on: cpu, cuda, cuda:N or mps; by default a GPU if there is one, else the CPU.
        dtype: type of the bases' weights: float32, bfloat16, or auto for the one that suits the device.
        create: create the home if it is missing.

    Raises:
        StoreError: the folder cannot be used as a home.
        ConfigError: there is no device or type of that name.
        NotFoundError: there is no home, and `create` is False.

    >>> from tempfile import mkdtemp
    >>> Home(mkdtemp()).histories()
    []
    """

    def __init__(
        self, folder: AnyPath, *, device: str | None = None, dtype: Dtype = "auto", create: bool = True
    ) -> None:
        self.placement = Placement(device, dtype)
        if not create and not (Path(folder) / DATABASE).exists():
            what, hint = f"There is no home in {folder}", "create one by adding a base or histories"
            raise NotFoundError(what, hint=hint, command="ownlm base add smollm2-135m")
        self.store = Store(Path(folder).absolute())
        self.pools, self.access = Pools(self), Access(self.store)
        resume(self.store, to_read=True)

    # Bases

    def add_base(self, source: str, name: str | None = None, progress: Progress = silent) -> BaseInfo:
        """Registers a base model: "smollm2-135m", a folder, or a hub id. Adding the same one again is no error.

        Raises:
            BaseModelError: it cannot be fetched or used, or another base has the name.
        """
        from ownlm.workflows.bases import add_base

        return add_base(self.store, source, name, progress)

    def bases(self) -> list[BaseInfo]:
        """All bases, including adapted ones, in the order they were added."""
        return self.store.bases()

    # Tasks and histories

    def task(self, name_or_path: str) -> Task:
        """A task of the home, else a shipped one, else that of a file; a NotFoundError or TaskError without one."""
        return find_task(self.store, name_or_path)

    def keep_task(self, name_or_path: str) -> Task:
        """The same task, stored in the home, so that an adapter is used with the task it was trained on."""
        return keep_task(self.store, name_or_path)

    def add_history(
        self, data: AnyPath, task: str, *, labels: AnyPath | None = None, skip_bad: bool = False, again: bool = False,
        dry_run: bool = False,
    ) -> Added:  # fmt: skip
        """Adds the records of a file. Records that the home has already stay as they are.

        Args:
            data: path of the file.
            task: the task's name or file.
            labels: the file with the answers, where it is not beside the data under its usual name.
            skip_bad: leave out and report bad rows, instead of adding nothing.
            again: also add records that were forgotten before.
            dry_run: check the file and count its records; nothing is added.

        Raises:
            DataError: the file cannot be read, or changes a record; nothing is added then.
            TaskError: the file's queries have another instruction than the home's task.
        """
        return add_history(self.store, Path(data), self.task(task), as_path(labels), skip_bad, again, dry_run)

    def history(self, user: str, task: str) -> History:
        """A user's records, oldest first; a NotFoundError if the home has none."""
        return known_history(self.store, self.task(task).name, user)

    def histories(self, task: str | None = None) -> list[HistoryInfo]:
        """All users with records, in the order they were added."""
        return self.store.histories(None if task is None else self.task(task).name)

    def list_users(self, wanted: ListOptions) -> tuple[list[ListedUser], int]:
        """Users with their newest adapters, filtered, sorted and cut; and their number without the limit."""
        return list_users(self.store, wanted)

    # Training

    def adapt(self, name: str, task: str | AdaptOptions, *, progress: Progress = silent, **options: object) -> BaseInfo:
        """Stage 1: trains the task adapter on outsiders, merges it into the base, registers the adapted base as `name`.

        Raises:
            NotFoundError, BaseModelError, DataError, ConfigError, TrainingError: nothing is registered then.
        """
        from ownlm.workflows.bases import adapt_base, adapt_plan

        asked = AdaptOptions.of(task, options)
        plan = adapt_plan(self.store, self.task(asked.task), asked, name)
        dataset = Dataset() if asked.data is None else self.add_history(asked.data, asked.task).dataset
        with self.working("ownlm adapt", progress):
            plan = replace(plan, task=keep_task(self.store, asked.task))
            return adapt_base(plan, partial(self.load, plan.base, progress), dataset, progress)

    def train(
        self, task: str | TrainOptions, *, progress: Progress = silent, report: Training | None = None,
        **options: object,
    ) -> Training:  # fmt: skip
        """Stage 2: trains an adapter for each user whose history, base or settings changed since their last one.

        Where only records were added, training continues from the last adapter, on the new records. Each adapter is
        stored soon after it is done. By default all users are trained, except outsiders that the base has learnt from.

        Raises:
            NotFoundError, BaseModelError, DataError, ConfigError: no user is trained. An error of one user is reported.
            StoreError: the home cannot be written; finished adapters are kept.
        """
        from ownlm.workflows.train import train_users

        asked, report = TrainOptions.of(task, options), Training() if report is None else report
        report.added = self._add_first(asked.data, asked)
        with self.working("ownlm train", progress):
            plan = train_plan(self.store, keep_task(self.store, asked.task), asked)
            train_users(plan, partial(self.load, plan.base, progress), progress, report)
        return report

    def estimate(self, task: str | TrainOptions, *, progress: Progress = silent, **options: object) -> Estimate:
        """What `train` with the same options would do and need; nothing is written, and no other process is waited for.

        Raises:
            NotFoundError, BaseModelError, DataError, ConfigError: as for `train`; or the method is not LoRA.
        """
        from ownlm.workflows.train import estimate

        asked = TrainOptions.of(task, options)
        store, kept, added = with_history(self.store, asked.data, self.task(asked.task))
        plan = train_plan(store, kept, asked)
        found = estimate(plan, partial(self.load, plan.base, progress), progress)
        found.added = added
        return found

    def ladder(
        self, task: str | ColdStartOptions, *, progress: Progress = silent, report: ColdStart | None = None,
        **options: object,
    ) -> ColdStart:  # fmt: skip
        """Gives each user what their records are enough for: the base, an assembly, an adapted one, an own adapter.

        Named users are placed by their records alone, even below their present tier.

        Raises:
            NotFoundError, PoolError, StoreError, and others: as `train` and `assemble`.
        """
        from ownlm.workflows.cold_start import cold_start, cold_start_plan, place

        asked, report = ColdStartOptions.of(task, options), ColdStart() if report is None else report
        if asked.dry_run:
            store, kept, report.added = with_history(self.store, asked.data, self.task(asked.task))
            plan = cold_start_plan(train_plan(store, kept, asked), asked.pool)
            report.placed += place(plan, report.training.skipped)
            return report
        report.added = self._add_first(asked.data, asked)
        with self.working("ownlm train", progress):
            plan = cold_start_plan(train_plan(self.store, keep_task(self.store, asked.task), asked), asked.pool)
            cold_start(plan, partial(self.load, plan.own.base, progress), progress, report)
        return report

    def _add_first(self, data: Path | None, asked: UserOptions) -> Added | None:
        """Adds the histories given with an operation, if its base exists."""
        if data is None:
            return None
        task = self.task(asked.task)
        pick_base(self.store, task.name, asked.base)
        return add_history(self.store, data, task, None, skip_bad=False, again=False)

    # Assembling; `pools` has what is shared

    def assemble(
        self, task: str | AssembleOptions, *, progress: Progress = silent, report: Assemblies | None = None,
        **options: object,
    ) -> Assemblies:  # fmt: skip
        """Makes an adapter for each user out of a pool's pieces, in one pass over their history, without training.

        Raises:
            NotFoundError, DataError, ConfigError, BaseModelError, PoolError: no user is assembled. An error of one user
                is reported.
            StoreError: the home cannot be written; finished recipes are kept.
        """
        from ownlm.workflows.assemble import assemble_users

        asked, report = AssembleOptions.of(task, options), Assemblies() if report is None else report
        report.added = self._add_first(asked.data, asked) or report.added
        with self.working("ownlm assemble", progress):
            plan = assembly_plan(self.store, keep_task(self.store, asked.task), asked)
            assemble_users(plan, partial(self.load, plan.base, progress), progress, report)
        return report

    # Profiles

    def profile(
        self, task: str, *, users: Sequence[str] = (), base: str | None = None, url: str | None = None,
        model: str | None = None, counted: bool = False, tell: Callable[[str], None] = lambda text: None,
        progress: Progress = silent, report: Profiles | None = None,
    ) -> Profiles:  # fmt: skip
        """Writes a text about each user, from their latest records, for prompts to show.

        The writer is the newest raw base, or `base`; or the `model` behind an OpenAI-compatible `url`, with the key in
        OWNLM_PROFILE_KEY, after a call of `tell` with what is sent there; or, with `counted`, counts of the task's
        labels. A user with a profile from the same history and writer is skipped. An error of one user is reported.

        Raises:
            OwnlmError: the writer cannot be used, or the endpoint does not answer; finished profiles are kept.
        """
        spec = self.task(task)
        writer = pick_writer(self.store, lambda: self.engine, spec, base, url, model, counted, tell)
        return write_profiles(self.store, spec, users, writer, progress, report or Profiles())

    def profiles(self, task: str) -> dict[str, ProfileInfo]:
        """Each user's newest profile, by user."""
        return self.store.latest_profiles(self.task(task).name)

    # Asking

    @cached_property
    def engine(self) -> "Engine":
        """The inference engine of this home. It keeps one base in memory."""
        from ownlm.inference.engine import Engine

        return Engine(self.store, self.placement)

    def ask(self, user: str, text: str, task: str, *, progress: Progress = silent, **options: object) -> Answer:
        """Answers one text with a user's own model.

        Args:
            text: The task's input; where it has several fields, a JSON object with them.
            options: Fields of `AskOptions`.

        Raises:
            NotFoundError, TaskError, DataError, AdapterError, PoolError, StoreError: The text cannot be answered.
        """
        query = Query(user, "", parse_query(self.task(task), text)[0])
        (answer,) = self.ask_many([query], task, progress=progress, **options)
        if answer.error:
            raise answer.error
        return answer

    def ask_many(
        self, queries: Sequence[Query], task: str, *, progress: Progress = silent, **options: object
    ) -> Iterator[Answer]:
        """Answers queries of many users in mixed batches, each with the user's own adapter; in the queries' order.

        A query that cannot be answered gets an Answer with the error. Where a user's assembly is stale, the base
        answers, with a warning.

        Args:
            options: Fields of `AskOptions`.
        """
        from ownlm.workflows.ask import answer_queries

        asked = AskOptions(**options)
        yield from answer_queries(self.store, self.engine, queries, self.task(task), asked, progress)

    def read_queries(self, data: AnyPath, task: str, *, labels: AnyPath | None = None) -> list[Query]:
        """The queries of a file, with their answers where it has them; a DataError if it cannot be read."""
        return read_queries(Path(data), self.task(task), labels=as_path(labels))

    # Users

    def adapters(self, user: str | None = None, task: str | None = None) -> list[AdapterInfo]:
        """All versions of adapters, oldest first."""
        return self.store.adapters(None if task is None else self.task(task).name, user)

    def latest_adapters(self, task: str | None = None) -> dict[tuple[str, str], AdapterInfo]:
        """The newest adapter of each (task, user)."""
        return self.store.latest_adapters(None if task is None else self.task(task).name)

    def export(self, user: str, folder: AnyPath, *, task: str | None = None, rank: int | None = None) -> Exported:
        """Writes a user's newest adapter as a PEFT folder, which `peft` and vLLM load unchanged.

        An assembly of K pieces of rank r has rank K r, and is exact; `rank` makes it, or any LoRA adapter, smaller.

        Raises:
            NotFoundError, AdapterError, StoreError: there is no adapter; the folder is not empty; weights are damaged.
        """
        from ownlm.workflows.export import export_adapter

        adapter = newest_adapter(self.store, user, None if task is None else self.task(task).name)
        return Exported(
            adapter=adapter, folder=Path(folder), base=self.store.base(adapter.base).folder, rank=rank,
            relative_error=export_adapter(self.store, adapter, Path(folder), rank), warning=learnt_from_gone(adapter),
        )  # fmt: skip

    def behind(self, adapter: AdapterInfo) -> int:
        """Number of records that were added after the adapter was made."""
        return self.store.arrived_after(adapter.task, adapter.user, adapter.upto)

    def consent(self, user: str, share: bool | None = None, licence: str = LICENCE) -> Consent:
        """Records whether a user shares pieces of their adapters, and returns how it stands; see `set_consent`."""
        return set_consent(self.store, user, share, licence)

    def forget(self, user: str, progress: Progress = silent, *, verify: bool = False, wait: bool = True) -> Forgotten:
        """Removes every record, profile, adapter version and blob of a user, also from a running training.

        Bases that have learnt from the records stay, and are named. The user's pieces are withdrawn from pools;
        assemblies that used them become stale.

        Args:
            user: name of the user.
            progress: called while a running training is waited for.
            verify: search all files of the home for the removed texts afterwards.
            wait: withdraw pieces now, after a running training; else the next training begins with it.

        Raises:
            NotFoundError, CopyError, StoreError: the home does not know the user; a file in it holds a copy.
        """
        return forget(self.store, user, progress, verify=verify, wait=wait)

    # The home itself

    def doctor(self, progress: Progress = silent) -> Diagnosis:
        """Checks the machine and the whole home: every blob is hashed, every reference followed."""
        return diagnose(self.store, self.placement, progress)

    def working(self, what: str, progress: Progress) -> AbstractContextManager[None]:
        """A block in which no other process trains in this home; it first removes what killed runs left behind."""
        return working_alone(self.store, what, progress)

    def load(self, base: BaseInfo, progress: Progress = silent) -> "BaseLM":
        """A base, loaded; a BaseModelError if its files have changed."""
        return self.engine.load(base, progress)
