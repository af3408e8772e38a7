"""Text profiles (PAG): the request to a model, the cleaning of its answer, and counted profiles without a model.

A profile is made from a user's records, and is shown in each of the user's prompts (`ownlm.prompt.example`).

Source: OPPU (arXiv 2402.04401), which lets a chat model write profiles from 10 records. Wording and counting are ours.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Final
from unicodedata import category

from ownlm.errors import TaskError
from ownlm.history.record import History, Record
from ownlm.history.task import Task
from ownlm.history.template import fill
from ownlm.prompt.example import first_words

RECORDS: Final = 10  # latest records
OPENING: Final = "This person mostly"  # given beginning of a base's answer: a small base would else lose the subject

_FIELD_WORDS, _FIELD_LETTERS = 60, 600  # of each field of a record; letters count in scripts without blanks
_WORDS, _LETTERS = 100, 1000  # of a profile
_LABELS = 5  # of a counted profile
_JOINERS = "\u200c\u200d"  # format characters that belong to words
_SENTENCE_END = re.compile(  # not the dot of "1. "
    "(?<!\\s\\d)(?<!^\\d)[.!?\u2026]+[\"'\u201d\u2019)\\]]*(?=\\s|$)|[\u3002\uff01\uff1f]+"
)
_THOUGHTS = re.compile(r"^\s*<think>.*?(</think>|$)", re.DOTALL)


def answered(task: Task, history: History) -> list[Record]:
    """The records with an answer, oldest first."""
    return [record for record in history.records if _answer(task, record)]


def request(task: Task, records: Sequence[Record]) -> str:
    """The request to a model to write a user's profile.

    Args:
        task: the task of the records.
        records: the user's records, each with an answer; their fields are cut to the first words.
    """
    if task.labels:
        did, what = "chose", "what they deal with, and what they choose when"
    else:
        did, what = "wrote", "which topics they write about, and in what style"
    return "\n\n".join(
        [
            f'Below are records of one person. The line "{task.cue}" is what this person {did}.',
            *(_shown(task, record) for record in records),
            f"Describe this person in two short sentences: {what}. Name only what the records have in common.",
        ]
    )


def counted(task: Task, records: Sequence[Record]) -> str:
    """A profile without a model: the user's most frequent labels. Empty without any.

    Args:
        task: the task of the records.
        records: the user's records, each with an answer.

    Raises:
        TaskError: the task has no labels to count.
    """
    if not task.labels or task.options:
        raise TaskError(
            f"Task {task.name!r} has no labels that could be counted",
            hint="let a model write the profiles",
        )
    counts = Counter(label for record in records if (label := _answer(task, record)) in task.labels)
    often = sorted(counts, key=lambda label: (-counts[label], label))[:_LABELS]
    if not often:
        return ""
    first, *then = often
    others = ", ".join(f"{label} ({counts[label]:,})" for label in then)
    text = f"Most often {first} ({counts[first]:,} of {len(records):,} records)"
    return f"{text}, then {others}." if others else f"{text}."


def cleaned(text: str) -> str:
    """A model's answer as one paragraph of about a hundred words; empty if it has no words.

    It is cut behind the last whole sentence, if that is in its second half. Repeated sentences are kept once, and a
    chain of thought at its beginning is removed.

    >>> cleaned("Writes on rain.\\n\\nWrites on rain. Writes on")
    'Writes on rain.'
    """
    text = _THOUGHTS.sub("", text)[: 10 * _LETTERS]
    text = " ".join("".join(map(_plain, text)).split())
    text = first_words(text, _WORDS)[:_LETTERS].rstrip()
    ends = [end.end() for end in _SENTENCE_END.finditer(text)]
    if ends and 2 * ends[-1] >= len(text) and _has_words(text[: ends[-1]]):
        text = text[: ends[-1]]
    kept: dict[str, str] = {}
    for start, end in pairwise(sorted({0, *ends, len(text)})):
        sentence = text[start:end]
        kept.setdefault(sentence.strip().casefold(), sentence)
    return "".join(kept.values()) if _has_words(text) else ""


def _has_words(text: str) -> bool:
    """Whether a text has a letter or a digit."""
    return any(map(str.isalnum, text))


def _plain(letter: str) -> str:
    kind = category(letter)
    if kind in ("Cc", "Cs"):  # control characters, and surrogates, which cannot be encoded
        return " "
    return "" if kind == "Cf" and letter not in _JOINERS else letter


def _answer(task: Task, record: Record) -> str:
    """A record's answer; of two options the right one. May be empty."""
    return record.fields.get(task.options.right if task.options else task.answer_field, "").strip()


def _shown(task: Task, record: Record) -> str:
    fields = {name: _start(value) for name, value in record.fields.items() if value.strip()}
    return f"{fill(task.input, fields)}\n{task.cue} {_start(_answer(task, record))}".strip()


def _start(text: str) -> str:
    return first_words(text, _FIELD_WORDS)[:_FIELD_LETTERS]
