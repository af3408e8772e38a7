"""How pictures are drawn: as SVG to stand in a page, in the page's colours, the same bytes for the same numbers."""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from io import StringIO
from itertools import product
from typing import TYPE_CHECKING, Any

from ownlm.programs import import_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# By what they mean. A page sets its own as --better and so on. The first two differ for the colour-blind too.
COLOURS = {
    "better": "#0072b2",
    "worse": "#c44f00",
    "unclear": "#767676",
    "ink": "#1d1f23",
    "soft": "#5b6068",
    "rule": "#dcdfe4",
    "page": "#fefefe",
}
_SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text: to be searched, read aloud, and set in the page's font
    "text.parse_math": False,  # names come from people's files
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.edgecolor": COLOURS["soft"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "xtick.color": COLOURS["soft"],
    "ytick.color": COLOURS["soft"],
    "ytick.labelcolor": COLOURS["ink"],
    "grid.color": COLOURS["rule"],
}
_STEPS = (0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0)  # label heights up or down from a point


@contextmanager
def figure_of(width: float, height: float) -> Iterator["Figure"]:
    """A figure of so many inches, of 72 units each; draw and `to_svg` it within."""
    matplotlib = import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # a person's own style must not change a report
        matplotlib.rcParams.update(_SETTINGS)
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the page's font has it
        figure = Figure(figsize=(width, height), dpi=72, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def to_svg(figure: "Figure", says: str) -> str:
    """The picture as an <svg> element; its colours are the page's, where that sets any.

    Args:
        says: what it shows, for those who do not see it; of each picture in a page another.
    """
    matplotlib = import_matplotlib()
    matplotlib.rcParams["svg.hashsalt"] = says  # ids are made from it: unique in a page, and always the same
    written = StringIO()
    figure.savefig(
        written, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<[^>]*>", lambda tag: _in_page(tag[0]), svg)  # '<' and '>' are nowhere but in tags
    box = re.search(r'viewBox="[^"]*"', svg)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box[0] if box else ""}'
    return f'{head} role="img" aria-label="{escape(says)}">{svg[svg.index(">") + 1 :]}'


def _in_page(tag: str) -> str:
    """A tag with the page's colours; groups lose their ids, which other pictures have too."""
    for name, colour in COLOURS.items():
        tag = tag.replace(f": {colour}", f": var(--{name}, {colour})")
    return re.sub(r' id="[^"]*"', "", tag) if tag.startswith("<g ") else tag


def place_labels(points: Sequence[tuple[float, float]], size: tuple[float, float]) -> list[tuple[float, float]]:
    """Where the middles of labels go, each as near to its point as others' points and labels leave room.

    Args:
        points: x and y; a label stands beside its own, a little above or below if need be.
        size: width and height of a label, in the points' unit.
    """
    width, height = size
    taken = [(x, y, height * 0.7, height * 0.7) for x, y in points]
    placed = []
    for x, y in points:
        spots = [
            (x + side * (width / 2 + height / 2 + far * width), y + step * height)
            for far, step, side in product(range(4), _STEPS, (1, -1))
        ]
        spots.sort(key=lambda spot: (spot[0] - x) ** 2 + 2 * (spot[1] - y) ** 2)
        free = (spot for spot in spots if not any(_overlap((*spot, width, height), other) for other in taken))
        spot = next(free, spots[0])
        taken.append((*spot, width, height))
        placed.append(spot)
    return placed


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    """Whether two boxes do, each given by its middle, width and height."""
    return abs(one[0] - other[0]) * 2 < one[2] + other[2] and abs(one[1] - other[1]) * 2 < one[3] + other[3]
