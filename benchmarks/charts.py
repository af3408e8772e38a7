"""Small line charts, kept beside the results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from record import RESULTS


def line_chart(
    name: str, title: str, x: Sequence[float], y: Sequence[float], x_name: str, y_name: str, width: float = 5.2
) -> Path | None:
    """Writes results/NAME.png, x in powers of two, y from 0; None where matplotlib is not installed."""
    return line_charts(name, title, x, {y_name: y}, x_name, width)


def line_charts(
    name: str, title: str, x: Sequence[float], panels: Mapping[str, Sequence[float]], x_name: str, width: float = 5.2
) -> Path | None:
    """As `line_chart`, with several figures of the same x side by side, each by its name."""
    try:
        import matplotlib
    except ImportError:
        print("no chart: matplotlib is not installed")
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, row = pyplot.subplots(1, len(panels), figsize=(width * len(panels), 3.2), layout="constrained")
    for axes, (y_name, y) in zip([row] if len(panels) == 1 else row, panels.items(), strict=True):
        _draw(axes, x, y)
        axes.set(xlabel=x_name, ylabel=y_name)
    figure.suptitle(title, fontsize="large")
    path = RESULTS / f"{name}.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    print(f"drawn: {path.name}, {path.stat().st_size / 1000:.0f} kB")
    return path


def _draw(axes: Any, x: Sequence[float], y: Sequence[float]) -> None:
    """One line, with its numbers."""
    axes.plot(x, y, marker="o", color="#3b6ea5")
    for one, other in zip(x, y, strict=True):
        shown = f"{other:,.0f}" if other >= 100 else f"{other:.3g}"
        axes.annotate(shown, (one, other), textcoords="offset points", xytext=(0, 6), ha="center", fontsize=8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(x), [f"{one:,.0f}" for one in x])
    axes.minorticks_off()
    axes.set_ylim(0, 1.15 * max(y))
    axes.spines[["top", "right"]].set_visible(False)
