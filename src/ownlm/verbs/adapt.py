"""Stage 1: the task adapter, trained on outsiders."""

from collections.abc import Sequence

from ownlm.config import TrainConfig
from ownlm.errors import TrainingError
from ownlm.history.record import History, Query
from ownlm.history.task import Task
from ownlm.model.base import BaseLM
from ownlm.oppu.examples import tokenize
from ownlm.oppu.fleet import Job, Run, train_fleet
from ownlm.progress import Progress
from ownlm.prompt.example import Example, history_examples, query_prompt
from ownlm.verbs.train import Meter


def train_task_adapter(
    base: BaseLM, name: str, examples: Sequence[Example], config: TrainConfig, seed: int, progress: Progress
) -> Run:
    """Trains one adapter on everybody's examples.

    Raises:
        DataError: there is no example, or one is too long.
        TrainingError: the loss is no finite number.
    """
    meter = Meter(progress, "task adapter")
    run = next(
        train_fleet(base, [Job(name, tokenize(base, name, examples), seed)], config, slots=1, on_round=meter.round)
    )
    if run.adapter is None:
        raise run.error or TrainingError("The task adapter was not trained")
    return run


def stage_one_examples(
    task: Task, history: History, queries: Sequence[Query], config: TrainConfig
) -> list[Example]:
    """An outsider's records, and their queries whose answers are known, as examples."""
    examples = history_examples(
        task,
        history,
        rag=config.rag,
        recent=config.recent,
        max_words=config.max_words,
        max_words_retrieved=config.max_words_retrieved,
    )
    for query in queries:
        if query.user_id == history.user_id and query.gold is not None:
            prompt, retrieved = query_prompt(
                task,
                query.fields,
                history,
                rag=config.rag,
                max_words=config.max_words,
                max_words_retrieved=config.max_words_retrieved,
            )
            examples.append(Example(query.id, prompt, f" {query.gold}", retrieved))
    return examples
