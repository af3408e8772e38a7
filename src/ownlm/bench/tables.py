"""A benchmark's results as plain rows, for a terminal, Markdown or a page alike."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unicodedata import category

from ownlm.bench.metrics import metric
from ownlm.bench.results import Results, SetResult
from ownlm.bench.statistics import Difference, Estimate
from ownlm.errors import many

BETTER, WORSE, UNCLEAR, EQUAL = VERDICTS = "▲ better", "▼ worse", "○ unclear", "• equal"
NOTHING = "-"  # what does not apply
_FILES = {"task", "data", "queries", "labels", "outsiders", "outsiders_labels"}  # in a plan, what may be a path
_PLACED = r"[/~.\\]|[A-Za-z]:[/\\]"  # how paths begin that no other text does

_ANSWERING = (
    "Training (forward and backward passes) and assembly: of all people together. Answering: the mean over the "
    "queries, the base loaded before."
)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under named columns; those whose name ends in '#' are numbers. The first names the row.

    Attributes:
        note: what must be known to read it; it stands below.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def quality(results: Results, one: SetResult) -> Table:
    """A row a method: each metric with its interval, and how it differs from the baseline."""
    columns = ["method"]
    for name in one.metrics:
        columns += [f"{with_arrow(name)}#", f"Δ {name}#", "verdict"]
    rows = []
    for method in one.methods:
        cells = [plain(method.name)]
        for name in one.metrics:
            difference = method.differences.get(name)
            if difference is not None:
                against = [signed(difference), verdict(name, difference)]
            else:
                against = ["baseline" if method.name == results.baseline else NOTHING, ""]
            cells += [interval(method.scores[name]), *against]
        rows.append(tuple(cells))
    return Table(f"{plain(one.name)}: quality", tuple(columns), tuple(rows))


def costs(one: SetResult) -> Iterator[Table]:
    """A row a method: what it took; and what all of them share, where there is such a thing."""
    columns = ("method", "training, s#", "training, tokens#", "assembly, s#", "answering, ms each#", "bytes a person#")
    rows = []
    for method in one.methods:
        c = method.costs
        numbers = (c.train_seconds, c.train_tokens, c.assemble_seconds, c.ms_per_answer, c.bytes_per_user)
        rows.append((plain(method.name), *map(_number, numbers, (1, 0, 1, 1, 0))))
    yield Table(f"{plain(one.name)}: costs", columns, tuple(rows), _ANSWERING)
    if one.shared:
        title = f"{plain(one.name)}: done once for all people"
        shared = ((c.name, f"{c.people:,}", _number(c.seconds, 1), _number(c.tokens, 0)) for c in one.shared)
        yield Table(
            title,
            ("what", "learns from people#", "training, s#", "training, tokens#"),
            tuple(shared),
            "Not in the rows above.",
        )


def activity(one: SetResult) -> Iterator[Table]:
    """For each metric a row a method and a column a bucket of people, by how many records they have.

    None where all have about as many: it would be the table of all.
    """
    buckets = one.methods[0].buckets if one.methods else ()
    if len(buckets) < 2:
        return
    heads = [f"{bucket.label} ({many(bucket.users, 'person')}, {many(bucket.queries, 'query')})#" for bucket in buckets]
    for name in one.metrics:
        rows = ((plain(m.name), *(interval(bucket.scores[name]) for bucket in m.buckets)) for m in one.methods)
        title = f"{plain(one.name)}: {with_arrow(name)} by how active people are"
        yield Table(title, ("method", *heads), tuple(rows))


def figure(value: float) -> str:
    """A metric's value.

    >>> figure(0.73149)
    '0.731'
    """
    return f"{value:.3f}"


def interval(estimate: Estimate) -> str:
    """A value with its interval, if there is one.

    >>> interval(Estimate(0.5, 0.25, 0.75)), interval(Estimate(0.5, None, None))
    ('0.500 [0.250, 0.750]', '0.500')
    """
    if estimate.low is None or estimate.high is None:
        return figure(estimate.value)
    return f"{figure(estimate.value)} [{figure(estimate.low)}, {figure(estimate.high)}]"


def signed(difference: Difference) -> str:
    """A difference with its interval, if there is one.

    >>> signed(Difference(0.5, -0.25, 0.75, 0.1))
    '+0.500 [-0.250, +0.750]'
    """
    if difference.low is None or difference.high is None:
        return _signed(difference.value)
    return f"{_signed(difference.value)} [{_signed(difference.low)}, {_signed(difference.high)}]"


def verdict(name: str, difference: Difference) -> str:
    """What a difference of that metric says.

    >>> verdict("mae", Difference(-0.5, -0.75, -0.25, 0.1))
    '▲ better'
    """
    if difference.value == difference.detectable == 0:  # in no draw is there any
        return EQUAL
    if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        return UNCLEAR
    return BETTER if (difference.low > 0) == metric(name).higher_is_better else WORSE


def with_arrow(name: str) -> str:
    """A metric's name, and which way is better.

    >>> with_arrow("mae")
    'mae ↓'
    """
    return f"{name} {'↑' if metric(name).higher_is_better else '↓'}"


def plain(text: str) -> str:
    """A name out of a file, as one line that nothing can hide in.

    >>> plain("a\\n b\\x1b[31m")
    'a b?[31m'
    """
    return "".join("?" if category(letter) == "Cc" else letter for letter in " ".join(text.split()))


def markdown(table: Table) -> str:
    """A table in Markdown, under its title and above its note.

    >>> print(markdown(Table("t", ("method", "n#"), (("a|b", "1"),))))
    **t**
    <BLANKLINE>
    | method | n |
    |:--|--:|
    | a\\|b | 1 |
    """
    head = "| " + " | ".join(escaped(column.rstrip("#")) for column in table.columns) + " |"
    sides = "|" + "|".join("--:" if column.endswith("#") else ":--" for column in table.columns) + "|"
    rows = ("| " + " | ".join(map(escaped, row)) + " |" for row in table.rows)
    note = ["", escaped(table.note)] if table.note else []
    return "\n".join([f"**{escaped(table.title)}**", "", head, sides, *rows, *note])


def without_folders(value: Any, key: str = "") -> Any:
    """A plan, or a part of one, with paths as names of files: a folder says whose machine it is on.

    Args:
        key: under which the part stands.

    >>> without_folders({"base": "/home/ada/llama", "sets": [{"name": "a/b", "data": "mine/x.jsonl"}]})
    {'base': 'llama', 'sets': [{'name': 'a/b', 'data': 'x.jsonl'}]}
    """
    if isinstance(value, dict):
        return {name: without_folders(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [without_folders(one, key) for one in value]
    if isinstance(value, str) and (key in _FILES or re.match(_PLACED, value)):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1] or value
    return value


def escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    for sign in "\\|`*_<&~$":
        text = text.replace(sign, "\\" + sign)
    return text.replace("](", "]\\(")


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # no -0.000


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:,.{digits}f}"
