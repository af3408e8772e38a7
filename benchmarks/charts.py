"""Small line charts, kept beside the results."""

from collections.abc import Sequence
from pathlib import Path

from record import RESULTS


def line_chart(
    name: str, title: str, x: Sequence[float], y: Sequence[float], x_name: str, y_name: str, width: float = 5.2
) -> Path | None:
    """Writes results/NAME.png, x in powers of two, y from 0; None where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        print("no chart: matplotlib is not installed")
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, 3.2), layout="constrained")
    axes.plot(x, y, marker="o", color="#3b6ea5")
    for one, other in zip(x, y, strict=True):
        axes.annotate(f"{other:,.0f}", (one, other), textcoords="offset points", xytext=(0, 6), ha="center", fontsize=8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(x), [f"{one:,.0f}" for one in x])
    axes.minorticks_off()
    axes.set_ylim(0, 1.15 * max(y))
    axes.set(title=title, xlabel=x_name, ylabel=y_name)
    axes.spines[["top", "right"]].set_visible(False)
    path = RESULTS / f"{name}.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    print(f"drawn: {path.name}, {path.stat().st_size / 1000:.0f} kB")
    return path
