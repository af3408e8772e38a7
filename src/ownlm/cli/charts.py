"""Heat maps of the pieces that recipes use, by sharer and layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ownlm.durable import sync, unfinished
from ownlm.errors import ConfigError
from ownlm.programs import import_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ownlm.workflows.pools.usage import Use

ROWS = 40  # sharers in a picture; of more, those of whom most is used
ACROSS = 4  # panels side by side
DPI = 150
WHITE, GREY = "1", "0.8"  # of what is not used


def check_picture(path: Path) -> None:
    """Sees, before any work, whether a picture can be written there.

    Raises:
        ConfigError: there is no such folder, or no picture has that suffix.
    """
    kinds = sorted(_new_figure().canvas.get_supported_filetypes())
    suffix = path.suffix.removeprefix(".").lower()
    if suffix not in kinds:
        got = f"the suffix {path.suffix!r}" if suffix else "no suffix"
        raise ConfigError(f"No picture can be written to {path}", got=got, expected=f"one of: {', '.join(kinds)}")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"There is no folder {path.parent} for the picture", hint="make it, or choose another")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, no file for a picture", hint="choose another name")


@contextmanager
def _default_style() -> Iterator[None]:
    """Without the settings of the user's `matplotlibrc`."""
    matplotlib = import_matplotlib()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


@_default_style()
def draw_use(use: "Use", path: Path, title: str, amount: str) -> None:
    """Draws a heat map for each kind of module: sharers, the most used on top, by layers. A file there is replaced.

    Args:
        title: what is seen, in a line.
        amount: what the colours mean.

    Raises:
        ConfigError: it cannot be written there.
    """
    check_picture(path)
    kinds, all_sharers, layers = use.amount_CSL.shape
    shown, across = min(all_sharers, ROWS), min(kinds, ACROSS)
    down = -(-kinds // across)
    width = max(7.0, 2.2 + across * max(1.2, 0.075 * layers))
    figure = _new_figure(width, 1.3 + down * (0.5 + 0.19 * max(shown, 5)))
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten()
    colours, empty = _colours(use)
    for panel, kind, amount_SL in zip(panels, use.kinds, use.amount_CSL, strict=False):
        panel.set_facecolor(empty)
        image = _draw_panel(panel, kind, amount_SL[:shown], colours)
    for panel in panels[kinds:]:
        panel.remove()
    for panel in panels[max(0, kinds - across) : kinds]:  # nothing is below them
        panel.tick_params(labelbottom=True)
    _label_rows(panels[:kinds:across], use, shown)
    step = -(-layers // 6)
    panels[0].set_xticks(range(0, layers, step), labels=[str(layer) for layer in use.layers[::step]])
    label = f"{amount}\n({'white' if empty == WHITE else 'grey'}: not used)"
    figure.colorbar(image, ax=panels[:kinds].tolist(), label=label, pad=0.015, aspect=15 * down + 10)
    figure.supxlabel("layer", fontsize=10)
    more = f"; the {shown} used most of {all_sharers:,} sharers" if shown < all_sharers else ""
    figure.suptitle(title + more, fontsize=11)
    _write(figure, path)


def _new_figure(width: float = 1, height: float = 1) -> "Figure":
    import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _colours(use: "Use") -> tuple[dict[str, Any], str]:
    """A map that the colour-blind can read, and the colour of nothing; around zero where weights are negative."""
    most, least = float(use.amount_CSL.max()), float(use.amount_CSL.min())
    if least < 0:
        return {"cmap": "PuOr", "vmin": -max(most, -least), "vmax": max(most, -least)}, GREY
    return {"cmap": "viridis_r", "vmin": 0.0, "vmax": most}, WHITE


def _draw_panel(panel: "Axes", kind: str, amount_SL: Any, colours: dict[str, Any]) -> Any:
    import numpy as np

    used = np.ma.masked_equal(amount_SL, 0)
    image = panel.imshow(used, aspect="auto", interpolation="nearest", **colours)
    panel.set_title(kind, fontsize=10)
    panel.tick_params(labelsize=8)
    rows, columns = amount_SL.shape
    panel.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    panel.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    panel.grid(which="minor", color="0.9", linewidth=0.4)
    panel.tick_params(which="minor", length=0)
    return image


def _label_rows(panels: Any, use: "Use", shown: int) -> None:
    """Each sharer's random id, and their part of all that is used."""
    labels = [f"{sharer[:6]} {share:6.1%}" for sharer, share in zip(use.sharers, use.share_S, strict=True)]
    panels[0].set_yticks(range(shown), labels=labels[:shown], family="monospace")
    for panel in panels:
        panel.set_ylabel("sharer (random id), part of all", fontsize=10)


def _write(figure: "Figure", path: Path) -> None:
    """Under another name first, so that a picture is whole or not there."""
    try:
        with unfinished(path, 0o666) as temporary:
            figure.savefig(temporary, format=path.suffix.removeprefix(".").lower())
            sync(temporary)
            temporary.replace(path)
            sync(path.absolute().parent)
    except OSError as error:
        raise ConfigError(f"The picture cannot be written to {path}", got=error.strerror or error) from None
