"""Stage 1: the task adapter, trained on outsiders and merged into the base."""

import hashlib
import shutil
from array import array
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from ownlm.config import TrainConfig
from ownlm.durable import sync
from ownlm.errors import BaseModelError, NotFoundError, StoreError, TrainingError
from ownlm.history.labels import check_gold, check_history
from ownlm.history.record import History, Query
from ownlm.history.task import Task
from ownlm.model.adapter import Adapter
from ownlm.model.base import BaseLM, save_merged
from ownlm.model.bases.files import fingerprint
from ownlm.oppu.examples import tokenize
from ownlm.oppu.fleet import Job, Run
from ownlm.oppu.memory import room_for
from ownlm.oppu.minibatches import TokenizedExample
from ownlm.progress import Progress
from ownlm.prompt.example import Example, answer_text, history_examples, query_prompt
from ownlm.store.checkpoints import CheckpointInfo, Source, last_number, remove_checkpoint
from ownlm.store.rows import BaseInfo, ProfileInfo, history_digest
from ownlm.store.store import Store
from ownlm.workflows.checkpoints import Checkpoints, Stored, machine_key
from ownlm.workflows.histories import known_history
from ownlm.workflows.profile import shown
from ownlm.workflows.settings import digest, provenance
from ownlm.workflows.train import Meter, fleet
from ownlm.workflows.writer import BackgroundWriter


def outsiders_of(store: Store, name: str, task: Task, users: Sequence[str]) -> list[History]:
    """The histories to learn from: of these people, or of everybody if none are named.

    Raises:
        BaseModelError: the home has a base of that name. NotFoundError: somebody, or everybody, has no records.
    """
    if any(known.name == name for known in store.bases()):
        raise BaseModelError(f"The home has a base {name!r} already", hint="choose another name with --out")
    outsiders = list(dict.fromkeys(users)) or [person.user for person in store.people(task.name)]
    if not outsiders:
        raise NotFoundError(f"Nobody has records for task {task.name!r}", hint="`ownlm history add`")
    return [known_history(store, task.name, user) for user in outsiders]


def adapt_base(
    store: Store,
    base: BaseLM,
    name: str,
    parent: BaseInfo,
    task: Task,
    histories: Sequence[History],
    queries: Sequence[Query],
    config: TrainConfig,
    seed: int,
    progress: Progress,
) -> BaseInfo:
    """Trains the task adapter on outsiders, merges it, and registers the adapted base.

    Args:
        base: the parent, loaded.
        queries: the outsiders' labelled queries are learnt from too.

    Raises:
        DataError, NotFoundError, TrainingError: nothing is registered then.
    """
    run = stage_one(store, base, name, task, histories, queries, config, seed, progress)
    assert isinstance(run.adapter, Adapter)
    folder = write_adapted(store, base, run.adapter, name)
    try:
        took = {"tokens": run.tokens, "seconds": round(run.seconds, 3)}
        made = {"examples": len(run.job.examples), **took, "losses": run.losses}
        store.add_base(
            BaseInfo(
                name, str(folder), fingerprint(folder), parent.parameters, "adapted", task.name, parent.name,
                provenance(config, seed) | made,
            ),
            histories,
        )  # fmt: skip
    except BaseException:
        shutil.rmtree(folder)  # who is forgotten meanwhile leaves no weights
        raise
    with suppress(StoreError):
        remove_checkpoint(store, CheckpointInfo(task.name, "", (), None))
    return store.base(name)


def stage_one(
    store: Store,
    base: BaseLM,
    name: str,
    task: Task,
    histories: Sequence[History],
    queries: Sequence[Query],
    config: TrainConfig,
    seed: int,
    progress: Progress,
) -> Run:
    """Trains the task adapter on everybody's examples; after an interruption it continues from its checkpoint.

    Raises:
        DataError, NotFoundError: somebody's examples cannot be made.
        TrainingError: the loss is no finite number.

    Source: OPPU (arXiv 2402.04401), section 3.1.
    """
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
    key = digest(_digest(examples), name, seed, base.fingerprint, config.model_dump_json())
    info = CheckpointInfo(task.name, digest(key, machine_key(base, config, None)), sources, None)
    checkpoints, room = Checkpoints(store), room_for(base, config, slots=1)
    job = checkpoints.resume(Job(name, examples, seed), info)
    with BackgroundWriter[Stored](checkpoints.store, 1, lambda stored, error: None) as keeper:
        on_state = partial(checkpoints.offer, keeper)
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
    """An outsider's records, and their queries whose answers are known, as examples."""
    show = shown(config.prompt, history.user_id, profile)
    check_history(task, history)
    examples = history_examples(task, history, recent=config.recent, since=config.since, **show)
    for query in queries:
        if query.user_id == history.user_id and query.gold is not None:
            check_gold(task, query)
            prompt, retrieved = query_prompt(task, query.fields, history, **show)
            answer = answer_text(task, {task.answer_field: query.gold}, max_words=config.prompt.max_words)
            examples.append(Example(query.id, prompt, answer, retrieved))
    return examples


def write_adapted(store: Store, base: BaseLM, adapter: Adapter, name: str) -> Path:
    """Writes the adapted base into a folder of its own; until it is registered, that is nobody's."""
    folder = store.new_base_folder(name)
    folder.mkdir(parents=True)
    save_merged(base, adapter, folder)
    for path in (*folder.iterdir(), folder, folder.parent):
        sync(path)
    return folder
