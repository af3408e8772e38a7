"""SVG figures of a benchmark report: metrics of all methods against the baseline, and metrics against cost."""

import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from io import StringIO
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any, Final

from ownlm.bench.metrics import metric
from ownlm.bench.results import MethodResult, Results, SetResult
from ownlm.bench.statistics import Difference, Estimate
from ownlm.bench.tables import BETTER, EQUAL, UNCLEAR, WORSE, plain, verdict
from ownlm.programs import import_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH: Final = 10.0  # inches
LETTERS: Final = 36  # letters of a method's name on one line, of two
BLUE, ORANGE, GREY = "#0072b2", "#c44f00", "#767676"  # blue and orange differ for the colour-blind too
PAGE, INK, SOFT, RULE = "#fefefe", "#1d1f23", "#5b6068", "#dcdfe4"
MARKS: Final = {  # shape, colour and filling of a difference
    BETTER: ("^", BLUE, BLUE),
    WORSE: ("v", ORANGE, ORANGE),
    UNCLEAR: ("o", GREY, PAGE),
    EQUAL: (".", GREY, GREY),
}
_SETTINGS: Final[Any] = {
    "svg.fonttype": "none",  # text stays text, which can be searched and read aloud
    "text.parse_math": False,  # names of methods are no formulas
    "font.family": "sans-serif",
    "font.size": 9.0,
    "figure.facecolor": PAGE,
    "axes.facecolor": PAGE,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
}


def against_baseline(results: Results, one: SetResult, name: str) -> str:
    """Draws one metric of all methods with intervals; a second panel shows differences to the baseline."""
    compared = any(method.differences for method in one.methods)
    wrapped = any("\n" in _short(method.name) for method in one.methods)
    with _figure_of(WIDTH, 1.1 + len(one.methods) * (0.34 if wrapped else 0.25)) as figure:
        panels = figure.subplots(1, 1 + compared, sharey=True, squeeze=False)[0]
        panels[0].set_yticks(range(len(one.methods)), labels=[_short(method.name) for method in one.methods])
        panels[0].set_ylim(len(one.methods) - 0.4, -0.6)
        panels[0].set_xlabel(_directed(name))
        for row, method in enumerate(one.methods):
            mark = "D" if method.name == results.baseline else "o"
            _draw_interval(panels[0], row, method.scores[name], mark, INK, INK)
            if method.name == results.baseline:
                panels[0].axvline(method.scores[name].value, color=SOFT, linewidth=1, linestyle="--")
        if compared:
            _draw_differences(panels[1], one.methods, name)
            figure.legend(loc="outside lower right", ncols=4, frameon=False, fontsize=8.5)
        for panel in panels:
            panel.spines["left"].set_visible(False)
            panel.tick_params(axis="y", length=0, labelsize=8.5)
        beside = "; beside it the differences to the baseline" if compared else ""
        return _to_svg(figure, f"{name} of each method on {plain(one.name)}, with 95% intervals{beside}")


def against_cost(results: Results, one: SetResult, name: str) -> str:
    """Draws one metric against bytes per user and seconds of training and assembly; empty if all costs are zero.

    Only methods that no other method beats at the same cost are named, by number.
    """
    making = [(m.costs.train_seconds or 0.0) + (m.costs.assemble_seconds or 0.0) for m in one.methods]
    costs: list[tuple[str, list[float], Callable[[float], str]]] = [
        ("kept for each user", [method.costs.bytes_per_user or 0.0 for method in one.methods], _size),
        ("training and assembly, s (all users together)", making, "{:,g}".format),
    ]
    drawn = [cost for cost in costs if any(cost[1])]
    if not drawn:
        return ""
    score_M = [method.scores[name] for method in one.methods]
    fronts = [front([score.value for score in score_M], cost_M, name) for _, cost_M, _ in drawn]
    numbers = {row: number for number, row in enumerate(sorted(set().union(*fronts)), start=1)}
    with _figure_of(WIDTH, max(3.4, 0.6 + 0.36 * len(numbers))) as figure:
        panels = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
        for panel, best, (what, cost_M, shown) in zip(panels, fronts, drawn, strict=True):
            place_M = _scale(panel, cost_M, shown)
            panel.set_xlabel(what)
            for row, (place, score) in enumerate(zip(place_M, score_M, strict=True)):
                mark = "D" if one.methods[row].name == results.baseline else "o"
                _draw_dot(panel, place, score, mark, row in best)
            _number(panel, [(place_M[row], score_M[row].value, numbers[row]) for row in best])
        panels[0].margins(y=0.1)
        panels[0].set_ylabel(_directed(name, upright=True))
        labels = [f"{n}  {_short(one.methods[row].name)}".replace("\n", "\n     ") for row, n in numbers.items()]
        keys = [panels[0].plot([], [], " ", label=label)[0] for label in labels]
        figure.legend(
            handles=keys, loc="outside right upper", frameon=False, handlelength=0, handletextpad=0, fontsize=8
        )
        return _to_svg(figure, f"{name} of each method on {plain(one.name)}, against its costs")


def front(score_M: Sequence[float], cost_M: Sequence[float], name: str) -> list[int]:
    """Returns the Pareto front: indices of the rows that no other row dominates in score and cost.

    >>> front([0.5, 0.6, 0.4], [0.0, 10.0, 10.0], "accuracy"), front([0.5, 0.6], [0.0, 10.0], "mae")
    ([0, 1], [0])
    """
    sign = 1 if metric(name).higher_is_better else -1
    points = [(sign * score, -cost) for score, cost in zip(score_M, cost_M, strict=True)]
    return [
        row
        for row, (good, cheap) in enumerate(points)
        if not any(g >= good and c >= cheap and (g, c) != (good, cheap) for g, c in points)
    ]


def _draw_differences(panel: "Axes", methods: Sequence[MethodResult], name: str) -> None:
    panel.axvline(0, color=SOFT, linewidth=1, linestyle="--")
    for row, method in enumerate(methods):
        if (difference := method.differences.get(name)) is not None:
            _draw_interval(panel, row, difference, *MARKS[verdict(name, difference)])
    for says, (mark, colour, face) in MARKS.items():
        panel.plot([], [], mark, color=colour, markerfacecolor=face, markersize=6, label=says.split()[-1])
    better = "better →" if metric(name).higher_is_better else "← better"
    panel.set_xlabel(f"difference to the baseline in {name} ({better})")


def _draw_interval(panel: "Axes", row: int, score: Estimate | Difference, mark: str, colour: str, face: str) -> None:
    if score.low is not None and score.high is not None:
        panel.plot([score.low, score.high], [row, row], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=2)
    panel.plot(score.value, row, mark, color=colour, markerfacecolor=face, markersize=6, zorder=3)


def _draw_dot(panel: "Axes", place: float, score: Estimate, mark: str, best: bool) -> None:
    colour, order = (BLUE, 3.0) if best else (GREY, 2.0)
    if score.low is not None and score.high is not None:
        panel.plot([place, place], [score.low, score.high], color=colour, linewidth=0.6, zorder=order - 1)
    panel.plot(place, score.value, mark, color=colour, markersize=5 if best or mark == "D" else 3.5, zorder=order)


def _scale(panel: "Axes", values: Sequence[float], shown: Callable[[float], str]) -> list[float]:
    """Draws a logarithmic axis with a column for zero at its left; returns the place of each value.

    Values of zero are spread over their column.
    """
    exponents = [log10(value) for value in values if value > 0]
    first, last = floor(min(exponents)), ceil(max(exponents))
    last = max(last, first + 1)
    ticks: list[float] = list(range(first, last + 1, 1 + (last - first) // 5))
    labels = [shown(10.0**tick) for tick in ticks]
    left, zeros = first - 0.15, len(values) - len(exponents)
    free: list[float] = []
    if zeros:
        width = 0.35 * (last - first)
        panel.axvline(left, color=RULE, linewidth=3)
        left -= width
        free = [left + width * (number + 1) / (zeros + 1) for number in range(zeros)]
        ticks, labels = [left + width / 2, *ticks], ["nothing", *labels]
    panel.set_xlim(left, last + 0.3)
    panel.set_xticks(ticks, labels=labels)
    panel.grid(visible=False, axis="x")
    spread = iter(free)
    return [log10(value) if value > 0 else next(spread) for value in values]


def _number(panel: "Axes", points: Sequence[tuple[float, float, int]]) -> None:
    """Writes the numbers of points beside them: one label for all points in one place."""
    heaps: dict[tuple[float, float], list[int]] = {}
    for x, y, number in points:
        heaps.setdefault((round(x, 1), round(y, 3)), []).append(number)
    for (x, y), heap in heaps.items():
        text = ", ".join(map(str, heap))
        panel.annotate(text, (x, y), (4, 4), textcoords="offset points", fontsize=8, zorder=4)


def _short(name: str) -> str:
    """A name on two lines at most."""
    return "\n".join(textwrap.wrap(plain(name), LETTERS, max_lines=2, placeholder=" …"))


def _directed(name: str, upright: bool = False) -> str:
    """A metric's name, and the direction on its axis that is better."""
    if metric(name).higher_is_better:
        return f"{name} (higher is better {'↑' if upright else '→'})"
    return f"{name} ({'↓' if upright else '←'} lower is better)"


def _size(count: float) -> str:
    """Bytes, a power of ten of them.

    >>> _size(1e4)
    '10 kB'
    """
    place = min(int(log10(count)) // 3, 4) if count >= 1 else 0
    return f"{count / 1000**place:g} {('B', 'kB', 'MB', 'GB', 'TB')[place]}"


@contextmanager
def _figure_of(width: float, height: float) -> Iterator["Figure"]:
    """A figure of so many inches. Drawing and `_to_svg` happen within."""
    matplotlib = import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # a user's own style does not change a report
        matplotlib.rcParams.update(_SETTINGS)
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser's font has it
        figure = Figure(figsize=(width, height), dpi=72, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def _to_svg(figure: "Figure", says: str) -> str:
    """A figure as an <svg> element: the same bytes for the same figure.

    Args:
        says: Description for screen readers. It differs for each figure of a page.
    """
    import_matplotlib().rcParams["svg.hashsalt"] = says  # ids are unique in a page, and the same in each run
    written = StringIO()
    figure.savefig(written, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = written.getvalue()
    svg = re.sub(r'<g id="[^"]*"', "<g", svg[svg.index("<svg") :])  # other figures of the page have the same
    box = re.search(r'viewBox="[^"]*"', svg)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box[0] if box else ""}'
    return f'{head} role="img" aria-label="{escape(says)}">{svg[svg.index(">") + 1 :]}'
