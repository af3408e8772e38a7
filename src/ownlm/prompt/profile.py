"""Text profiles (PAG): what a model is asked to write about a person, what becomes of its answer, and counting instead.

A profile is made from a person's own records, and stands in each of their prompts (`ownlm.prompt.example`).

Source: OPPU (arXiv 2402.04401), whose chat model writes profiles from 10 records. The wording, and counting, are ours.
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

RECORDS: Final = 10  # the latest
OPENING: Final = "This person mostly"  # how a base's answer begins: else a small one talks of something else

_FIELD_WORDS, _FIELD_LETTERS = 60, 600  # of each field of a record; letters, for scripts without blanks
_WORDS, _LETTERS = 100, 1000  # of a profile
_LABELS = 5  # of a counted one
_JOINERS = "\u200c\u200d"  # format characters that belong to words
_SENTENCE_END = re.compile(  # not the dot of "1. "
    "(?<!\\s\\d)(?<!^\\d)[.!?\u2026]+[\"'\u201d\u2019)\\]]*(?=\\s|$)|[\u3002\uff01\uff1f]+"
)
_THOUGHTS = re.compile(r"^\s*<think>.*?(</think>|$)", re.DOTALL)


def answered(task: Task, history: History) -> list[Record]:
    """The records that have an answer, oldest first."""
    return [record for record in history.records if _answer(task, record)]


def request(task: Task, records: Sequence[Record]) -> str:
    """What a model reads to write a person's profile.

    Args:
        records: the person's, each with an answer; fields are cut to their first words, on copies.
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
    """A profile without a model: the labels a person chose most often. Nothing where they chose none.

    Args:
        records: the person's, each with an answer.

    Raises:
        TaskError: the task has no labels to count.
    """
    if not task.labels or task.options:
        raise TaskError(
            f"Task {task.name!r} has no labels that could be counted",
            hint="let a model write the profiles: `ownlm profile` without --counted",
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
    """What a model said, as one paragraph of about a hundred words; empty where it said nothing.

    It ends with a sentence where one ends in its second half; what it says twice is kept once, as small models go round
    in circles; a chain of thought at its beginning is left out.

    >>> cleaned("Writes on rain.\\n\\nWrites on rain. Writes on")
    'Writes on rain.'
    """
    text = _THOUGHTS.sub("", text)[: 10 * _LETTERS]
    text = " ".join("".join(map(_plain, text)).split())
    if not any(map(str.isalnum, text)):
        return ""
    text = first_words(text, _WORDS)[:_LETTERS].rstrip()
    ends = [end.end() for end in _SENTENCE_END.finditer(text)]
    if ends and 2 * ends[-1] >= len(text):
        text = text[: ends[-1]]
    kept: dict[str, str] = {}
    for start, end in pairwise(sorted({0, *ends, len(text)})):
        sentence = text[start:end]
        kept.setdefault(sentence.strip().casefold(), sentence)
    return "".join(kept.values())


def _plain(letter: str) -> str:
    kind = category(letter)
    if kind in ("Cc", "Cs"):  # control characters, and halves of characters, which no file could hold
        return " "
    return "" if kind == "Cf" and letter not in _JOINERS else letter


def _answer(task: Task, record: Record) -> str:
    """A record's answer; of two options the right one. Empty where there is none."""
    return record.fields.get(task.options.right if task.options else task.answer_field, "").strip()


def _shown(task: Task, record: Record) -> str:
    fields = {name: _start(value) for name, value in record.fields.items() if value.strip()}
    return f"{fill(task.input, fields)}\n{task.cue} {_start(_answer(task, record))}".strip()


def _start(text: str) -> str:
    return first_words(text, _FIELD_WORDS)[:_FIELD_LETTERS]
