"""Prompts and answers, from a person's records and queries.

A prompt begins with the instruction, so that all prompts of one person begin alike:

    {instruction}

    About this person: writes mostly on politics, in short sentences.

    Earlier, by the same person:
    article: ...
    category: politics

    article: ...
    category:

Fields are cut to their first words, on copies.
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
    """What the model reads, and what it is to write next.

    Attributes:
        record_id: the record it was made from.
        prompt: ends with the task's cue.
        answer: begins with a space; the end-of-text token is not in it.
        retrieved: ids of the records that the prompt shows, in its order.
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
    """An example of each record that can be learnt from, oldest first.

    A record without its answer makes no example. For a task with options, an example shows the right and the wrong
    one, in an order that depends on the record's id; where a record names no wrong one, it is the right one of an
    earlier record, and where there is none, there is no example.

    Args:
        rag: how many earlier records a prompt shows; never the record itself, never a later one.
        profile: a text about the person, which every prompt shows.
        recent: make examples of this many latest records only; prompts may show older ones.
        since: make examples of records of this time or later only; one without a time is left out then.
        learnt: ids of records to make no example of, because they were learnt before; they count among the `recent`.
        max_words: words kept of each field of the record.
        max_words_retrieved: words kept of each field of a record that the prompt shows.

    Returns:
        Examples; the history stays as it is.

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
    """The prompt of a new input, and the ids of the records it shows, in its order.

    Args:
        fields: the query's; all of the history counts as earlier.
        rag, profile, max_words, max_words_retrieved: as for `history_examples`.

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
    """The prompt that shows `retrieved` and asks about `fields`. A shown record without an answer has no answer line.

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
    """The answer, as it goes on after the prompt's cue. One of the task's labels is never cut.

    Raises:
        KeyError: there is no answer among the fields.
    """
    answer = fields[task.answer_field].strip()
    return " " + (answer if max_words is None or task.labels else first_words(answer, max_words))


def first_words(text: str, count: int) -> str:
    """The first words of a text, as they stand there.

    >>> first_words(" to be  or not", 3)
    'to be  or'
    """
    text = text.strip()
    for number, word in enumerate(re.finditer(r"\S+", text), 1):
        if number == count:
            return text[: word.end()]
    return text


def _example_fields(task: Task, records: Sequence[Record], place: int) -> Mapping[str, str] | None:
    """Fields of the input and the answer; None where no example can be made."""
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
    """Places of the records that an example may show: none that would give the wrong option away.

    A wrong option taken from an earlier record would else be known by its standing above, as no query's is.
    """
    if task.options is None:
        return list(range(len(earlier)))
    wrong = fields[OPTION_FIELDS[fields[task.answer_field] == (task.labels or ())[0]]]
    return [place for place, record in enumerate(earlier) if record.fields.get(task.options.right) != wrong]


def _hash(identity: str, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{purpose}\0{identity}".encode()).digest()[:8])


def retrieval_query(task: Task, fields: Mapping[str, str]) -> str:
    """What is searched for: the input; of a choice between options what they are given for, not the options."""
    names = (name for name in task.input_fields if task.options is None or name not in OPTION_FIELDS)
    return " ".join(fields[name] for name in names if name in fields)


def retrieval_document(task: Task, record: Record) -> str:
    """What is searched: a record's input and its answer."""
    return f"{retrieval_query(task, record.fields)} {_answer(task, record) or ''}"


def _answer(task: Task, record: Record) -> str | None:
    """What a record shows as its answer: of options the right one itself, since its number says nothing elsewhere."""
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
