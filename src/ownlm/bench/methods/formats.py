"""Adapters that learn a person's records as plain text, and are asked the task's queries all the same."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from ownlm.bench.case import BASE, Case, Made
from ownlm.bench.methods.asking import ask_with, retrieving
from ownlm.bench.methods.costs import of_training
from ownlm.history.record import History, Query, Record
from ownlm.history.task import Task, load_task
from ownlm.inference.load import load_adapter
from ownlm.prompt.example import retrieval_document, retrieval_query

Format = Literal["task", "answers", "inputs", "text"]

FREE: Final = load_task("free-text")


def trained_on_text(case: Case, format: Format, base: Path, train: dict[str, Any]) -> Made:
    """Everybody's adapter, trained on texts out of their records; asked under the prompts of the case's own task.

    Args:
        format: which texts: "answers", "inputs", or "text", which is an input and its answer.
        base: the folder of the one to train on.
        train: settings, as for `Home.train`.

    Raises:
        NotFoundError: somebody has no such text. OwnlmError: somebody's training failed; those who are done stay so.

    Source: OPPU (arXiv 2402.04401), its section on history formats.
    """
    texts = {user: texts_of(case.task, history, format) for user, history in case.histories.items()}
    free = replace(case, data=replace(case.data, task=FREE, targets=texts))
    home = free.home("own", base, **train)
    done = home.train(FREE.name, users=case.people, base=BASE, seed=case.seed, progress=case.progress, **train)
    if done.failed:
        raise done.failed[0][1]
    loaded = case.loaded(home)
    newest = {user: adapter for (_, user), adapter in home.latest_adapters(FREE.name).items()}

    def answers(queries: Sequence[Query]) -> Iterator[str]:
        return ask_with(
            case, loaded, queries, retrieving(case, 0), owner=lambda query: query.user_id,
            load=lambda user: load_adapter(home.store, newest[user], loaded),
        )  # fmt: skip

    return Made(answers, of_training(free, home))


def texts_of(task: Task, history: History, format: Format) -> History:
    """A history of the free-text task: what records say, without the task's own words; blank ones are left out."""
    said = [(record, _text(task, record, format).strip()) for record in history.records]
    records = (Record(one.user_id, one.id, {"text": text}, one.time) for one, text in said if text)
    return History(history.user_id, tuple(records))


def _text(task: Task, record: Record, format: Format) -> str:
    if format == "answers":
        return record.fields.get(task.options.right if task.options else task.answer_field, "")
    return retrieval_query(task, record.fields) if format == "inputs" else retrieval_document(task, record)
