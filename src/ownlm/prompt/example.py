"""Prompts and answers from a user's records and queries.

A prompt begins with the instruction, so all prompts of one user have a common prefix:

    {instruction}

    About this person: writes mostly on politics, in short sentences.

    Earlier, by the same person:
    article: ...
    category: politics

    article: ...
    category:

Fields are cut to their first words.
"""

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ownlm.errors import TaskError
from ownlm.history.record import History, Record
from ownlm.history.task import OPTION_FIELDS, Task
from ownlm.history.template import fill
from ownlm.history.times import time_key
from ownlm.prompt.retrieval import rank, retrieve, words

ABOUT: Final = "About this person:"
HEADER: Final = "Earlier, by the same person:"


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and its answer.

    Attributes:
        record_id: the id of the record that it was made from.
        prompt: the prompt, which ends with the task's cue.
        answer: the answer, which begins with a space; without the end-of-text token.
        retrieved: the ids of the records in the prompt, in their order.
    """

    record_id: str
    prompt: str
    answer: str
    retrieved: tuple[str, ...]


def history_examples(
    task: Task,
    history: History,
    *,
    rag: int = 0,
    profile: str = "",
    recent: int | None = None,
    since: str | None = None,
    learnt: Collection[str] = (),
    max_words: int = 768,
    max_words_retrieved: int = 368,
) -> list[Example]:
    """Makes one example of each record that has an answer, oldest first.

    For a task with options, an example shows the right and the wrong option, in an order that depends on the record's
    id. The wrong option of a record without one is the right option of an earlier record; without any, there is no
    example.

    Args:
        task: the task's templates and fields.
        history: the user's records; they are not changed.
        rag: the number of earlier records that a prompt shows.
        profile: a text about the user that every prompt shows.
        recent: the number of latest records to make examples of; prompts may show older ones.
        since: the earliest time of records to make examples of; records without a time are then left out.
        learnt: ids of records to skip because they were learnt before; they count among the `recent`.
        max_words: the words that are kept of each field of the record.
        max_words_retrieved: the words that are kept of each field of an earlier record.

    Raises:
        TaskError: a record lacks a field that the task's input needs.

    Source: OPPU (arXiv 2402.04401), section 3. Differs: retrieval sees earlier records only, so no answer leaks.
    """
    records = history.records
    documents = [words(retrieval_document(task, record)) for record in records] if rag else []
    earliest = float("-inf") if since is None else time_key(since)
    examples: list[Example] = []
    taken = 0
    for place in range(len(records) - 1, -1, -1):
        if taken == recent:
            break
        fields = _example_fields(task, records, place)
        if fields is None or (since is not None and _time(records[place]) < earliest):
            continue
        taken += 1
        if records[place].id in learnt:
            continue
        shown: list[Record] = []
        if rag:
            earlier = _showable(task, records[:place], fields)
            found = rank(words(retrieval_query(task, fields)), [documents[index] for index in earlier], rag)
            shown = [records[earlier[index]] for index in found]
        prompt = prompt_text(
            task, fields, shown, profile=profile, max_words=max_words, max_words_retrieved=max_words_retrieved
        )
        answer = answer_text(task, fields, max_words=max_words)
        examples.append(Example(records[place].id, prompt, answer, tuple(record.id for record in shown)))
    return examples[::-1]


def query_prompt(
    task: Task,
    fields: Mapping[str, str],
    history: History,
    *,
    rag: int = 0,
    profile: str = "",
    max_words: int = 768,
    max_words_retrieved: int = 368,
) -> tuple[str, tuple[str, ...]]:
    """The prompt of a new input, and the ids of the records in it, in their order.

    Args:
        task: the task's templates and fields.
        fields: the query's fields.
        history: the user's records; all of them count as earlier.
        rag, profile, max_words, max_words_retrieved: as in `history_examples`.

    Raises:
        TaskError: the query lacks a field that the task's input needs.
    """
    documents = [retrieval_document(task, record) for record in history.records] if rag else []
    shown = [history.records[index] for index in retrieve(retrieval_query(task, fields), documents, rag)]
    prompt = prompt_text(
        task, fields, shown, profile=profile, max_words=max_words, max_words_retrieved=max_words_retrieved
    )
    return prompt, tuple(record.id for record in shown)


def prompt_text(
    task: Task,
    fields: Mapping[str, str],
    retrieved: Sequence[Record] = (),
    *,
    profile: str = "",
    max_words: int = 768,
    max_words_retrieved: int = 368,
) -> str:
    """The prompt that shows `retrieved` and asks about `fields`; a record without an answer gets no answer line.

    Raises:
        TaskError: a field that the task's input needs is missing.
    """
    if missing := [name for name in task.required_inputs if not fields.get(name, "").strip()]:
        raise TaskError(f"The input of task {task.name!r} lacks the field {missing[0]!r}")
    asked = _joined(fill(task.input, _cut(fields, max_words)), task.cue)
    shown = [_shown(task, record, max_words_retrieved) for record in retrieved]
    if shown:
        shown[0] = _joined(HEADER, shown[0])
    about = [f"{ABOUT} {profile}"] if profile else []
    return "\n\n".join([task.instruction_text, *about, *shown, asked])


def answer_text(task: Task, fields: Mapping[str, str], *, max_words: int | None = None) -> str:
    """The answer after the prompt's cue. Labels are not cut.

    Raises:
        KeyError: the fields have no answer.
    """
    answer = fields[task.answer_field].strip()
    return " " + (answer if max_words is None or task.labels else first_words(answer, max_words))


def first_words(text: str, count: int) -> str:
    """The first words of a text, with the blanks between them.

    >>> first_words(" to be  or not", 3)
    'to be  or'
    """
    text = text.strip()
    for number, word in enumerate(re.finditer(r"\S+", text), 1):
        if number == count:
            return text[: word.end()]
    return text


def _example_fields(task: Task, records: Sequence[Record], place: int) -> Mapping[str, str] | None:
    """The fields of an example's input and answer; None if the record makes no example."""
    record = records[place]
    if task.options is None:
        return record.fields if record.fields.get(task.answer_field, "").strip() else None
    right, wrong = record.fields.get(task.options.right), record.fields.get(task.options.wrong)
    if right is None:
        return None
    if wrong is None or wrong == right:
        others = dict.fromkeys(earlier.fields.get(task.options.right, right) for earlier in records[:place])
        others.pop(right, None)
        if not others:
            return None
        wrong = list(others)[_hash(record.id, "wrong") % len(others)]
    swapped = _hash(record.id, "order") % 2
    labels = task.labels or ()
    return {
        **record.fields,
        **dict(zip(OPTION_FIELDS, (wrong, right) if swapped else (right, wrong), strict=True)),
        task.answer_field: labels[swapped],
    }


def _time(record: Record) -> float:
    return float("-inf") if record.time is None else time_key(record.time)


def _showable(task: Task, earlier: Sequence[Record], fields: Mapping[str, str]) -> list[int]:
    """The places of the records that an example may show: all but those with its wrong option as their right one.

    In queries, no shown record gives the wrong option away.
    """
    if task.options is None:
        return list(range(len(earlier)))
    wrong = fields[OPTION_FIELDS[fields[task.answer_field] == (task.labels or ())[0]]]
    return [place for place, record in enumerate(earlier) if record.fields.get(task.options.right) != wrong]


def _hash(identity: str, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{purpose}\0{identity}".encode()).digest()[:8])


def retrieval_query(task: Task, fields: Mapping[str, str]) -> str:
    """The text to search for: the input, without options."""
    names = (name for name in task.input_fields if task.options is None or name not in OPTION_FIELDS)
    return " ".join(fields[name] for name in names if name in fields)


def retrieval_document(task: Task, record: Record) -> str:
    """The text to search in: a record's input and its answer."""
    return f"{retrieval_query(task, record.fields)} {_answer(task, record) or ''}"


def _answer(task: Task, record: Record) -> str | None:
    """The answer that a shown record has; of options the right one itself, as its number means nothing elsewhere."""
    return record.fields.get(task.options.right if task.options else task.answer_field)


def _shown(task: Task, record: Record, max_words: int) -> str:
    answer = _answer(task, record)
    given = fill(task.input, _cut(record.fields, max_words))
    if answer is None:
        return given
    whole = task.labels is not None and task.options is None
    return _joined(given, f"{task.cue} {answer.strip() if whole else first_words(answer, max_words)}")


def _cut(fields: Mapping[str, str], max_words: int) -> dict[str, str]:
    return {name: first_words(value, max_words) for name, value in fields.items() if value.strip()}


def _joined(*parts: str) -> str:
    return "\n".join(part for part in parts if part)
