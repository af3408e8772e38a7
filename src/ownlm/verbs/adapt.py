"""Stage 1: the task adapter, trained on outsiders and merged into the base."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from ownlm.config import TrainConfig
from ownlm.durable import sync
from ownlm.errors import TrainingError
from ownlm.history.record import History, Query
from ownlm.history.task import Task
from ownlm.model.adapter import Adapter
from ownlm.model.base import BaseLM, save_merged
from ownlm.oppu.fleet import Job, Run, TokenizedExample, train_fleet
from ownlm.progress import Progress
from ownlm.prompt.example import Example, answer_text, history_examples, query_prompt
from ownlm.store.store import Store
from ownlm.verbs.train import Meter


def train_task_adapter(
    base: BaseLM, name: str, examples: Sequence[TokenizedExample], config: TrainConfig, seed: int, progress: Progress
) -> Run:
    """Trains one adapter on everybody's examples.

    Raises:
        TrainingError: the loss is no finite number.
    """
    meter = Meter(progress, "task adapter")
    run = next(train_fleet(base, [Job(name, examples, seed)], config, slots=1, on_round=meter.round))
    if run.adapter is None:
        raise run.error or TrainingError("The task adapter was not trained")
    return run


def stage_one_examples(task: Task, history: History, queries: Sequence[Query], config: TrainConfig) -> list[Example]:
    """An outsider's records, and their queries whose answers are known, as examples."""
    shown = config.prompt.model_dump()
    examples = history_examples(task, history, recent=config.recent, **shown)
    for query in queries:
        if query.user_id == history.user_id and query.gold is not None:
            prompt, retrieved = query_prompt(task, query.fields, history, **shown)
            answer = answer_text(task, {task.answer_field: query.gold}, max_words=config.prompt.max_words)
            examples.append(Example(query.id, prompt, answer, retrieved))
    return examples


def write_adapted(store: Store, base: BaseLM, adapter: Adapter, name: str) -> Path:
    """Writes the adapted base's folder: whole under its name, or not there."""
    folder, temporary = store.folder / "bases" / name, store.folder / "bases" / f".{name}"
    for left_over in (folder, temporary):  # of a run that was killed: no base of this name is registered
        shutil.rmtree(left_over, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        save_merged(base, adapter, temporary)
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(folder.parent)
    return folder
