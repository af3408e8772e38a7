"""Bases of a home: added, or adapted to a task.

Stage 1 trains the task adapter on outsiders and merges it into the base.
"""

import hashlib
import re
import shutil
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ownlm.config import TrainConfig
from ownlm.durable import sync
from ownlm.errors import BaseModelError, StoreError, TrainingError
from ownlm.history.labels import check_gold
from ownlm.history.record import Dataset, History, Query
from ownlm.history.task import Task
from ownlm.model.adapter import Adapter
from ownlm.model.base import BaseLM, load_base, save_merged
from ownlm.model.bases.architecture import check_architecture, check_tokenizer
from ownlm.model.bases.files import check_base_folder, check_config, fingerprint, parameter_count
from ownlm.model.bases.random_base import make_random_base
from ownlm.model.bases.self_test import check_packed, check_small_copy
from ownlm.model.bases.source import resolve_source
from ownlm.oppu.examples import tokenize
from ownlm.oppu.fleet import Job, Run
from ownlm.oppu.memory import room_for
from ownlm.oppu.minibatches import TokenizedExample
from ownlm.progress import Progress
from ownlm.prompt.example import Example, answer_text, query_prompt
from ownlm.store.checkpoints import CheckpointInfo, Source, last_number, remove_checkpoint
from ownlm.store.records import no_user_has_records
from ownlm.store.rows import BaseInfo, ProfileInfo, history_digest
from ownlm.store.store import Store
from ownlm.workflows.histories import known_history
from ownlm.workflows.options import AdaptOptions
from ownlm.workflows.plan import Plan, digest, pick_raw_base, provenance, settings
from ownlm.workflows.profile import shown
from ownlm.workflows.selection import own_examples
from ownlm.workflows.train import Meter, fleet
from ownlm.workflows.writer import BackgroundWriter, Checkpoints, Stored, machine_key

RANDOM = "random"  # the source of a tiny base with random weights


def add_base(store: Store, source: str, name: str | None, progress: Progress) -> BaseInfo:
    """Fetches, checks and registers a base; a known base stays as it is."""
    name = name or source.rstrip("/").rsplit("/", 1)[-1]
    check_name(name)
    if source == RANDOM and not Path(RANDOM).exists():
        return _add_random(store, name)
    folder = resolve_source(source, progress, partial(check_before_download, name=name))
    check_base_folder(folder)
    check_architecture(folder, name)
    check_tokenizer(folder)
    progress("fingerprint", 0, 1)
    base = BaseInfo(name, str(folder), fingerprint(folder), parameter_count(folder), source)
    progress("fingerprint", 1, 1)
    if any((known.name, known.fingerprint) == (base.name, base.fingerprint) for known in store.bases()):
        store.move_base(name, base.folder)  # the same base, perhaps in another folder
        return store.base(name)
    progress("trial run", 0, 1)
    check_packed(load_base(folder, name=name, fingerprint=base.fingerprint, dtype="float32"))
    progress("trial run", 1, 1)
    store.add_base(base)
    return base


def _add_random(store: Store, name: str) -> BaseInfo:
    """Registers a tiny base with random weights, which lies in the home."""
    if any((known.name, known.source) == (name, RANDOM) for known in store.bases()):
        return store.base(name)
    folder = store.new_base_folder(name)
    try:
        make_random_base(folder)
        base = BaseInfo(name, str(folder), fingerprint(folder), parameter_count(folder), RANDOM)
        store.add_base(base)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return store.base(name)


def check_before_download(folder: Path, name: str) -> None:
    """Checks a model by its config.json, before its weights are downloaded.

    Raises:
        BaseModelError: it cannot serve as a base.
    """
    check_config(folder)
    check_small_copy(check_architecture(folder, name), name)


def check_name(name: str) -> None:
    """Raises a BaseModelError where a name is invalid: it becomes the name of a folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise BaseModelError(
            "Invalid name of a base",
            got=name,
            expected="letters, digits, '.', '_' and '-', at most 64, with a letter or digit first",
            hint="choose another name",
        )


@dataclass(frozen=True, slots=True)
class AdaptPlan(Plan[AdaptOptions]):
    """The plan of stage 1; its base is the one to adapt.

    Attributes:
        name: name of the adapted base.
    """

    name: str


def adapt_plan(store: Store, task: Task, options: AdaptOptions, name: str) -> AdaptPlan:
    """The plan of `Home.adapt`.

    Raises:
        BaseModelError: the name cannot be a base's.
        NotFoundError: there is no such base, or none at all.
        ConfigError: a setting is out of range, or does not go with another.
    """
    check_name(name)
    base = pick_raw_base(store, options.base)
    config = settings("task_adapter", base.parameters, options.preset, options.changes(), base.folder)
    return AdaptPlan(store, task, base, config, options, name)


def adapt_base(plan: AdaptPlan, load: Callable[[], BaseLM], dataset: Dataset, progress: Progress) -> BaseInfo:
    """Trains the task adapter on outsiders, merges it, and registers the adapted base.

    Args:
        plan: base, outsiders and settings.
        load: gives the base.
        dataset: outsiders, where the plan names none; their labelled queries are training data too.
        progress: called with steps done and tokens per second.

    Raises:
        BaseModelError, DataError, NotFoundError, TrainingError: nothing is registered then.
    """
    store, options = plan.store, plan.options
    histories = _outsiders(plan, options.users or [one.user_id for one in dataset.histories])
    base = load()
    run = _train(plan, base, histories, dataset.queries, progress)
    assert isinstance(run.adapter, Adapter)
    folder = _write_adapted(store, base, run.adapter, plan.name)
    try:
        took = {"tokens": run.tokens, "seconds": round(run.seconds, 3), **base.computed_in}
        made = {"examples": len(run.job.examples), **took, "losses": run.losses}
        store.add_base(
            BaseInfo(
                plan.name, str(folder), fingerprint(folder), plan.base.parameters, "adapted", plan.task.name,
                plan.base.name, provenance(plan.config, options.seed) | made,
            ),
            histories,
        )  # fmt: skip
    except BaseException:
        shutil.rmtree(folder)  # an outsider who was forgotten during the training leaves no weights
        raise
    with suppress(StoreError):
        remove_checkpoint(store, CheckpointInfo(plan.task.name, "", (), None))
    return store.base(plan.name)


def _outsiders(plan: AdaptPlan, users: Sequence[str]) -> list[History]:
    """The histories of these users, or of all users if none are named."""
    store, task = plan.store, plan.task.name
    if any(known.name == plan.name for known in store.bases()):
        raise BaseModelError(f"The home has a base {plan.name!r} already", hint="choose another name")
    outsiders = list(dict.fromkeys(users)) or [info.user for info in store.histories(task)]
    if not outsiders:
        raise no_user_has_records(task)
    return [known_history(store, task, user) for user in outsiders]


def _train(
    plan: AdaptPlan, base: BaseLM, histories: Sequence[History], queries: Sequence[Query], progress: Progress
) -> Run:
    """Trains the task adapter on all outsiders' examples; after an interruption it continues from its checkpoint.

    Raises:
        DataError, NotFoundError: an outsider's examples cannot be made.
        TrainingError: the loss is not a finite number.

    Source: OPPU (arXiv 2402.04401), section 3.1.
    """
    store, task, config, seed = plan.store, plan.task, plan.config, plan.options.seed
    profiles, upto = store.latest_profiles(task.name), last_number(store)
    examples = [
        example
        for history in histories
        for example in tokenize(
            base,
            history.user_id,
            stage_one_examples(task, history, queries, config, profiles.get(history.user_id)),
        )
    ]
    meter = Meter(progress, "task adapter, steps", config.steps_for(len(examples)))
    sources = tuple(Source(one.user_id, history_digest(one), upto) for one in histories)
    key = digest(_digest(examples), plan.name, seed, base.fingerprint, config.model_dump_json())
    info = CheckpointInfo(task.name, digest(key, machine_key(base)), sources, None)
    checkpoints, room = Checkpoints(store), room_for(base, config, slots=1)
    job = checkpoints.resume(Job(plan.name, examples, seed), info)
    with BackgroundWriter[Stored](checkpoints.store, 1, lambda stored, error: None) as writer:
        on_state = partial(checkpoints.offer, writer)
        run = next(fleet(base, meter.counted([job]), config, room, meter.on_step, on_state))
    checkpoints.done(run)
    if run.adapter is None:
        raise run.error or TrainingError("The task adapter was not trained")
    return run


def _digest(examples: Sequence[TokenizedExample]) -> str:
    hasher = hashlib.sha256()
    for one in examples:
        hasher.update(array("q", [len(one.prompt), *one.prompt, len(one.answer), *one.answer]).tobytes())
    return hasher.hexdigest()


def stage_one_examples(
    task: Task, history: History, queries: Sequence[Query], config: TrainConfig, profile: ProfileInfo | None
) -> list[Example]:
    """The examples of an outsider's records and labelled queries."""
    examples = own_examples(task, history, config, profile)
    show = shown(config.prompt, history.user_id, profile)
    for query in queries:
        if query.user_id == history.user_id and query.gold is not None:
            check_gold(task, query)
            prompt, retrieved = query_prompt(task, query.fields, history, **show)
            answer = answer_text(task, {task.answer_field: query.gold}, max_words=config.prompt.max_words)
            examples.append(Example(query.id, prompt, answer, retrieved))
    return examples


def _write_adapted(store: Store, base: BaseLM, adapter: Adapter, name: str) -> Path:
    """Writes the adapted base into a new folder, which no row of the database names yet."""
    folder = store.new_base_folder(name)
    folder.mkdir(parents=True)
    save_merged(base, adapter, folder)
    for path in (*folder.iterdir(), folder, folder.parent):
        sync(path)
    return folder
