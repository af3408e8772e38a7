"""Pictures of a benchmark's results: methods with their intervals, against their costs, and by people's activity."""

import textwrap
from collections.abc import Callable, Sequence
from math import ceil, floor, log10
from typing import TYPE_CHECKING

from ownlm.bench.drawing import COLOURS, figure_of, place_labels, to_svg
from ownlm.bench.metrics import metric
from ownlm.bench.results import Costs, MethodResult, Results, SetResult
from ownlm.bench.statistics import Difference, Estimate
from ownlm.bench.tables import BETTER, EQUAL, UNCLEAR, WORSE, plain, verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 10.0  # inches
LETTERS = 36  # of a line of a method's name, which has two; the tables have all of it
# Of verdicts: how a difference is marked, in which colour and filled with which.
MARKS = {
    BETTER: ("^", COLOURS["better"], COLOURS["better"]),
    WORSE: ("v", COLOURS["worse"], COLOURS["worse"]),
    UNCLEAR: ("o", COLOURS["unclear"], COLOURS["page"]),
    EQUAL: (".", COLOURS["unclear"], COLOURS["unclear"]),
}
DASHES = (0, (4, 3))


def forest(results: Results, one: SetResult, name: str) -> str:
    """A metric of all methods with their intervals, and beside it their differences to the baseline."""
    compared = any(method.differences for method in one.methods)
    with figure_of(WIDTH, _height(one.methods)) as figure:
        panels = figure.subplots(1, 1 + compared, sharey=True, squeeze=False)[0]
        _draw_scores(panels[0], one.methods, [method.scores[name] for method in one.methods], results.baseline)
        panels[0].set_xlabel(_directed(name))
        if compared:
            _draw_differences(panels[1], one.methods, name)
            figure.legend(loc="outside lower right", ncols=4, frameon=False, fontsize=8.5)
        beside = "; beside it the differences to the baseline" if compared else ""
        return to_svg(figure, f"{name} of each method on {plain(one.name)}, with 95% intervals{beside}")


def by_activity(results: Results, one: SetResult, name: str) -> str:
    """A panel a bucket of people: a metric of all methods with their intervals. Empty with fewer than two."""
    buckets = one.methods[0].buckets if one.methods else ()
    if len(buckets) < 2:
        return ""
    with figure_of(WIDTH, _height(one.methods) + 0.3) as figure:
        panels = figure.subplots(1, len(buckets), sharex=True, sharey=True, squeeze=False)[0]
        for place, (panel, bucket) in enumerate(zip(panels, buckets, strict=True)):
            scores = [method.buckets[place].scores[name] for method in one.methods]
            _draw_scores(panel, one.methods, scores, results.baseline)
            panel.set_title(f"{bucket.label}\npeople: {bucket.users:,}, queries: {bucket.queries:,}", fontsize=8)
            panel.locator_params(axis="x", nbins=4)
        figure.supxlabel(_directed(name), fontsize=9)
        says = f"{name} of each method on {plain(one.name)}, by how many records people have, with 95% intervals"
        return to_svg(figure, says)


def against_cost(results: Results, one: SetResult, name: str) -> str:
    """A metric against bytes a person, and against seconds of making. Empty where all is free.

    Only the methods that no other beats at the same cost are named, by number: of very many dots, those matter.
    """
    bytes_M = [method.costs.bytes_per_user or 0.0 for method in one.methods]
    seconds_M = [_seconds(method.costs) for method in one.methods]
    making = "training and assembly, s (all people together)"
    drawn = [
        (what, values_M, shown)
        for what, values_M, shown in (("kept of each person", bytes_M, _size), (making, seconds_M, "{:,g}".format))
        if any(values_M)
    ]
    if not drawn:
        return ""
    score_M = [method.scores[name] for method in one.methods]
    fronts = [front([score.value for score in score_M], values_M, name) for _, values_M, _ in drawn]
    numbers = {row: number for number, row in enumerate(sorted(set().union(*fronts)), start=1)}
    with figure_of(WIDTH, max(3.4, 0.6 + 0.36 * len(numbers))) as figure:
        panels = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
        places = []
        for panel, best, (what, values_M, shown) in zip(panels, fronts, drawn, strict=True):
            places.append(_scale(panel, values_M, shown))
            panel.set_xlabel(what)
            for row, (place, score, method) in enumerate(zip(places[-1], score_M, one.methods, strict=True)):
                mark = "D" if method.name == results.baseline else "o"
                _draw_dot(panel, place, score, mark, row in best)
        panels[0].margins(y=0.1)
        panels[0].set_ylabel(_directed(name, upright=True))
        labels = [f"{number}  {_indented(one.methods[row].name)}" for row, number in numbers.items()]
        keys = [panels[0].plot([], [], " ", label=label)[0] for label in labels]
        figure.legend(
            handles=keys, loc="outside right upper", frameon=False, handlelength=0, handletextpad=0, fontsize=8
        )
        figure.draw_without_rendering()  # where points lie is known once the layout is
        for panel, best, place_M in zip(panels, fronts, places, strict=True):
            _number(panel, [(place_M[row], score_M[row].value, numbers[row]) for row in best])
        return to_svg(figure, f"{name} of each method on {plain(one.name)}, against its costs")


def front(score_M: Sequence[float], cost_M: Sequence[float], name: str) -> list[int]:
    """The rows that no other beats: none is better at the same cost or less, or as good at less.

    >>> front([0.5, 0.6, 0.4], [0.0, 10.0, 10.0], "accuracy"), front([0.5, 0.6], [0.0, 10.0], "mae")
    ([0, 1], [0])
    """
    sign = 1 if metric(name).higher_is_better else -1
    points = [(sign * score, -cost) for score, cost in zip(score_M, cost_M, strict=True)]
    return [
        row for row, (good, cheap) in enumerate(points)
        if not any(g >= good and c >= cheap and (g, c) != (good, cheap) for g, c in points)
    ]  # fmt: skip


def _draw_scores(panel: "Axes", methods: Sequence[MethodResult], scores: Sequence[Estimate], baseline: str) -> None:
    """A row a method; the baseline's value goes all the way down."""
    _draw_rows(panel, methods)
    for row, (method, score) in enumerate(zip(methods, scores, strict=True)):
        first = method.name == baseline
        if first:
            panel.axvline(score.value, color=COLOURS["soft"], linewidth=1, linestyle=DASHES, zorder=1)
        _draw_interval(panel, row, score, "D" if first else "o", COLOURS["ink"], COLOURS["ink"])


def _draw_differences(panel: "Axes", methods: Sequence[MethodResult], name: str) -> None:
    _draw_rows(panel, methods)
    panel.axvline(0, color=COLOURS["soft"], linewidth=1, linestyle=DASHES, zorder=1)
    for row, method in enumerate(methods):
        if name in method.differences:
            _draw_interval(panel, row, method.differences[name], *MARKS[verdict(name, method.differences[name])])
    for says, (mark, colour, face) in MARKS.items():
        panel.plot([], [], mark, color=colour, markerfacecolor=face, markersize=6, label=says.split()[-1])
    better = "better →" if metric(name).higher_is_better else "← better"
    panel.set_xlabel(f"difference to the baseline in {name} ({better})")


def _draw_interval(panel: "Axes", row: int, score: Estimate | Difference, mark: str, colour: str, face: str) -> None:
    if score.low is not None and score.high is not None:
        panel.plot([score.low, score.high], [row, row], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=2)
    panel.plot(score.value, row, mark, color=colour, markerfacecolor=face, markersize=6, zorder=3)


def _draw_rows(panel: "Axes", methods: Sequence[MethodResult]) -> None:
    panel.set_yticks(range(len(methods)), labels=[_short(method.name) for method in methods])
    panel.set_ylim(len(methods) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0, labelsize=8.5)
    panel.spines["left"].set_visible(False)


def _draw_dot(panel: "Axes", place: float, score: Estimate, mark: str, best: bool) -> None:
    colour, order = (COLOURS["better"], 3.0) if best else (COLOURS["unclear"], 2.0)
    if score.low is not None and score.high is not None:
        panel.plot([place, place], [score.low, score.high], color=colour, linewidth=0.6, zorder=order - 1)
    panel.plot(place, score.value, mark, color=colour, markersize=5 if best or mark == "D" else 3.5, zorder=order)


def _scale(panel: "Axes", values: Sequence[float], shown: Callable[[float], str]) -> list[float]:
    """Lays out powers of ten, and at the left a column for what costs nothing; returns where values lie.

    What costs nothing is spread over its column.
    """
    exponents = [log10(value) for value in values if value > 0]
    first, last = floor(min(exponents)), ceil(max(exponents))
    last = max(last, first + 1)
    ticks: list[float] = list(range(first, last + 1, 1 + (last - first) // 5))
    labels = [shown(10.0**tick) for tick in ticks]
    left, nothing = first - 0.15, len(values) - len(exponents)
    free: list[float] = []
    if nothing:
        width = 0.35 * (last - first)
        panel.axvline(left, color=COLOURS["rule"], linewidth=3)
        left -= width
        free = [left + width * (number + 1) / (nothing + 1) for number in range(nothing)]
        ticks, labels = [left + width / 2, *ticks], ["nothing", *labels]
    panel.set_xlim(left, last + 0.3)
    panel.set_xticks(ticks, labels=labels)
    panel.grid(visible=False, axis="x")
    spread = iter(free)
    return [log10(value) if value > 0 else next(spread) for value in values]


def _number(panel: "Axes", points: Sequence[tuple[float, float, int]]) -> None:
    """Numbers points, each given with its own, beside them; one label for all that lie in one place."""
    there = panel.transData.transform([(x, y) for x, y, _ in points])
    heaps: dict[tuple[float, float], list[int]] = {}
    for (x, y), (_, _, number) in zip(there, points, strict=True):
        heaps.setdefault((round(float(x)), round(float(y))), []).append(number)
    texts = [", ".join(map(str, heap)) for heap in heaps.values()]
    labels = place_labels(list(heaps), (3.0 + 6.0 * max(map(len, texts)), 9.0))
    for text, (x, y) in zip(texts, panel.transData.inverted().transform(labels), strict=True):
        panel.text(x, y, text, fontsize=8, ha="center", va="center", zorder=4)


def _indented(name: str) -> str:
    return _short(name).replace("\n", "\n     ")


def _short(name: str) -> str:
    """A name in two lines at most, which no picture is too narrow for."""
    lines = textwrap.wrap(plain(name), LETTERS, max_lines=2, placeholder=" …")
    return "\n".join(lines)


def _height(methods: Sequence[MethodResult]) -> float:
    wrapped = any("\n" in _short(method.name) for method in methods)
    return 1.1 + len(methods) * (0.34 if wrapped else 0.25)


def _directed(name: str, upright: bool = False) -> str:
    """A metric's name, and where on its axis better is."""
    if metric(name).higher_is_better:
        return f"{name} (higher is better {'↑' if upright else '→'})"
    return f"{name} ({'↓' if upright else '←'} lower is better)"


def _seconds(costs: Costs) -> float:
    return (costs.train_seconds or 0.0) + (costs.assemble_seconds or 0.0)


def _size(count: float) -> str:
    """Bytes, a power of ten of them.

    >>> _size(1e4)
    '10 kB'
    """
    place = min(int(log10(count)) // 3, 4) if count >= 1 else 0
    return f"{count / 1000**place:g} {('B', 'kB', 'MB', 'GB', 'TB')[place]}"
