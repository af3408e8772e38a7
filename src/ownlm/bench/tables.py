"""Tables of results as rows of text, printed alike in a terminal and in the report."""

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
NOTHING = "-"  # a cost or difference that does not apply
_FILES = {"task", "data", "queries", "labels", "outsiders", "outsiders_labels"}  # keys of a plan that may hold paths
_PATH = r"[/~.\\]|[A-Za-z]:[/\\]"  # how a path begins

_ANSWERING = (
    "Training (forward and backward passes) and assembly: of all users together. Answering: the mean over the "
    "queries, the base loaded before."
)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under named columns. The first column names the row.

    Attributes:
        columns: Names of the columns. A name that ends in '#' marks a column of numbers.
        note: Text below the table.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def quality(results: Results, one: SetResult) -> Table:
    """Scores of each method, with intervals, differences to the baseline and verdicts."""
    columns = ["method"]
    for name in one.metrics:
        columns += [f"{with_arrow(name)}#", f"Δ {name}#", "verdict"]
    rows = []
    for method in one.methods:
        cells = [plain(method.name)]
        for name in one.metrics:
            difference = method.differences.get(name)
            cells.append(interval(method.scores[name]))
            if difference is not None:
                cells += [signed(difference), verdict(name, difference)]
            else:
                cells += ["baseline" if method.name == results.baseline else NOTHING, ""]
        rows.append(tuple(cells))
    return Table(f"{plain(one.name)}: quality", tuple(columns), tuple(rows))


def costs(one: SetResult) -> Iterator[Table]:
    """Costs of each method; and a second table of the stages that run once for all users, if there are any."""
    columns = ("method", "training, s#", "training, tokens#", "assembly, s#", "answering, ms each#", "bytes a user#")
    rows = []
    for method in one.methods:
        c = method.costs
        numbers = (c.train_seconds, c.train_tokens, c.assemble_seconds, c.ms_per_answer, c.bytes_per_user)
        rows.append((plain(method.name), *map(_number, numbers, (1, 0, 1, 1, 0))))
    yield Table(f"{plain(one.name)}: costs", columns, tuple(rows), _ANSWERING)
    if one.shared:
        heads = ("what", "learns from users#", "training, s#", "training, tokens#")
        stages = [(c.name, f"{c.people:,}", _number(c.seconds, 1), _number(c.tokens, 0)) for c in one.shared]
        title = f"{plain(one.name)}: done once for all users"
        yield Table(title, heads, tuple(stages), "Not in the rows above.")


def activity(one: SetResult) -> Iterator[Table]:
    """For each metric the scores of users by their number of records; nothing with fewer than two buckets."""
    parts = one.methods[0].buckets if one.methods else ()
    if len(parts) < 2:
        return
    heads = [f"{part.label} ({many(part.users, 'user')}, {many(part.queries, 'query')})#" for part in parts]
    for name in one.metrics:
        rows = ((plain(m.name), *(interval(bucket.scores[name]) for bucket in m.buckets)) for m in one.methods)
        title = f"{plain(one.name)}: {with_arrow(name)} by the users' number of records"
        yield Table(title, ("method", *heads), tuple(rows))


def figure(value: float) -> str:
    """A metric's value, in three digits.

    >>> figure(0.73149)
    '0.731'
    """
    return f"{value:.3f}"


def interval(estimate: Estimate) -> str:
    """A value, and its interval if it has one.

    >>> interval(Estimate(0.5, 0.25, 0.75)), interval(Estimate(0.5, None, None))
    ('0.500 [0.250, 0.750]', '0.500')
    """
    if estimate.low is None or estimate.high is None:
        return figure(estimate.value)
    return f"{figure(estimate.value)} [{figure(estimate.low)}, {figure(estimate.high)}]"


def signed(difference: Difference) -> str:
    """A difference with its sign, and its interval if it has one.

    >>> signed(Difference(0.5, -0.25, 0.75, 0.1))
    '+0.500 [-0.250, +0.750]'
    """
    if difference.low is None or difference.high is None:
        return _signed(difference.value)
    return f"{_signed(difference.value)} [{_signed(difference.low)}, {_signed(difference.high)}]"


def verdict(name: str, difference: Difference) -> str:
    """Whether a difference in a metric is better, worse, unclear or equal.

    >>> verdict("mae", Difference(-0.5, -0.75, -0.25, 0.1))
    '▲ better'
    """
    if difference.value == difference.detectable == 0:  # in no draw is there any
        return EQUAL
    if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        return UNCLEAR
    return BETTER if (difference.low > 0) == metric(name).higher_is_better else WORSE


def with_arrow(name: str) -> str:
    """A metric's name, and the direction that is better.

    >>> with_arrow("mae")
    'mae ↓'
    """
    return f"{name} {'↑' if metric(name).higher_is_better else '↓'}"


def plain(text: str) -> str:
    """A name on one line, without control characters.

    >>> plain("a\\n b\\x1b[31m")
    'a b?[31m'
    """
    return "".join("?" if category(letter) == "Cc" else letter for letter in " ".join(text.split()))


def markdown(table: Table) -> str:
    """A table in Markdown, with its title as a heading and its note below.

    >>> print(markdown(Table("t", ("method", "n#"), (("a|b", "1"),))))
    ### t
    <BLANKLINE>
    | method | n |
    |:--|--:|
    | a\\|b | 1 |
    """
    head = "| " + " | ".join(escaped(column.rstrip("#")) for column in table.columns) + " |"
    sides = "|" + "|".join("--:" if column.endswith("#") else ":--" for column in table.columns) + "|"
    rows = ("| " + " | ".join(map(escaped, row)) + " |" for row in table.rows)
    note = ["", escaped(table.note)] if table.note else []
    return "\n".join([f"### {escaped(table.title)}", "", head, sides, *rows, *note])


def without_folders(value: Any, key: str = "") -> Any:
    """A plan, or a part of one, with file names in place of paths: reports are published, folders are private.

    Args:
        key: Key of the part in the plan.

    >>> without_folders({"base": "/home/ada/llama", "sets": [{"name": "a/b", "data": "mine/x.jsonl"}]})
    {'base': 'llama', 'sets': [{'name': 'a/b', 'data': 'x.jsonl'}]}
    """
    if isinstance(value, dict):
        return {name: without_folders(one, name) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(one, key) for one in value]
    if isinstance(value, str) and (key in _FILES or re.match(_PATH, value)):
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
