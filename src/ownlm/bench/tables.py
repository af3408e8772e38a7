"""A benchmark's results as plain rows, for a terminal, Markdown or a page alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from unicodedata import category

from ownlm.bench.metrics import metric
from ownlm.bench.results import MethodResult, Results, SetResult
from ownlm.bench.statistics import Difference, Estimate

BETTER, WORSE, UNCLEAR, SAME = "▲ better", "▼ worse", "unclear", "same"
NOTHING = "-"  # what does not apply

_INTERVALS = "In brackets: 95% intervals, from drawing whole people again (queries, where there is one person alone)."


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under named columns; those whose name ends in '#' are numbers. The first names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def about(results: Results, one: SetResult) -> list[str]:
    """What must be known to read a set's tables, a sentence each."""
    lines = [
        f"Task {plain(one.task)}: {_many(one.users, 'person', 'people')} with "
        f"{_many(one.queries, 'query', 'queries')}, answered under {_many(len(results.seeds), 'seed')}; "
        f"{_many(one.outsiders, 'outsider')}, {_many(one.sharers, 'possible sharer')}."
    ]
    compared = [method for method in one.methods if method.differences]
    if compared:
        lines.append(
            f"Baseline: {plain(results.baseline)}. {_INTERVALS} A difference is marked better or worse where its "
            "interval excludes zero; by chance alone, one in twenty does."
        )
    else:
        lines.append(f"Nothing is compared to the baseline, {plain(results.baseline)}, here. {_INTERVALS}")
    return lines + [_sensitivity(name, compared) for name in one.metrics]


def _sensitivity(name: str, compared: list[MethodResult]) -> str:
    """In which direction a metric is better, and how small a difference this size would have shown."""
    better = "higher" if metric(name).higher_is_better else "lower"
    found = sorted(least for method in compared if (least := method.differences[name].detectable) > 0)
    if not found:
        return f"{name}: {better} is better."
    spread = f" (by method, {figure(found[0])} to {figure(found[-1])})" if found[0] < found[-1] else ""
    return (
        f"{name}: {better} is better; at this size a true difference of {figure(median(found))}{spread} would be "
        "found with 80% power."
    )


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


def costs(one: SetResult) -> Table:
    """A row a method: what it took."""
    columns = ("method", "training, s#", "training, tokens#", "assembly, s#", "answering, ms each#", "bytes a person#")
    rows = []
    for method in one.methods:
        c = method.costs
        numbers = (c.train_seconds, c.train_tokens, c.assemble_seconds, c.ms_per_answer, c.bytes_per_user)
        shown = (NOTHING if x is None else f"{x:,.{d}f}" for x, d in zip(numbers, (1, 0, 1, 1, 0), strict=True))
        rows.append((plain(method.name), *shown))
    return Table(f"{plain(one.name)}: costs", columns, tuple(rows))


def activity(one: SetResult) -> Iterator[Table]:
    """For each metric a row a method and a column a bucket of people, by how many records they have."""
    buckets = one.methods[0].buckets if one.methods else ()
    if not buckets:
        return
    heads = [
        f"{bucket.label} ({_many(bucket.users, 'person', 'people')}, {_many(bucket.queries, 'query', 'queries')})#"
        for bucket in buckets
    ]
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
    """A value with its interval.

    >>> interval(Estimate(0.5, 0.25, 0.75))
    '0.500 [0.250, 0.750]'
    """
    return f"{figure(estimate.value)} [{figure(estimate.low)}, {figure(estimate.high)}]"


def signed(difference: Difference) -> str:
    """A difference with its interval.

    >>> signed(Difference(0.5, -0.25, 0.75, 0.1))
    '+0.500 [-0.250, +0.750]'
    """
    return f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def verdict(name: str, difference: Difference) -> str:
    """What a difference of that metric says.

    >>> verdict("mae", Difference(-0.5, -0.75, -0.25, 0.1))
    '▲ better'
    """
    if difference.value == difference.low == difference.high == 0:
        return SAME
    if difference.low <= 0 <= difference.high:
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
    """A table in Markdown, under its title.

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
    return "\n".join([f"**{escaped(table.title)}**", "", head, sides, *rows])


def escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    for sign in "\\|`*_<&~$":
        text = text.replace(sign, "\\" + sign)
    return text.replace("](", "]\\(")


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count:,} {one if count == 1 else more or one + 's'}"
