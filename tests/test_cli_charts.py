"""Heat maps of what is used, on made-up numbers."""

from pathlib import Path

import numpy as np
import pytest

from ownlm.cli import charts
from ownlm.errors import ConfigError
from ownlm.workflows.pools.usage import Use

PNG = b"\x89PNG\r\n\x1a\n"


def use(kinds: int, sharers: int, layers: int, least: float = 0.0) -> Use:
    rng = np.random.default_rng(0)
    amount_CSL = np.where(
        rng.random((kinds, sharers, layers)) < 0.3, rng.uniform(least, 1, (kinds, sharers, layers)), 0
    )
    ids = tuple(f"{n:016x}" for n in range(sharers))
    return Use(ids, tuple(f"m{n}_proj" for n in range(kinds)), tuple(range(layers)), amount_CSL, 1)


@pytest.mark.parametrize(("kinds", "sharers", "layers", "least"), [(1, 1, 1, 0.1), (4, 3, 2, -1.0), (7, 60, 30, 0.0)])
def test_any_size_and_sign_is_drawn(tmp_path: Path, kinds: int, sharers: int, layers: int, least: float) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"an older picture")
    charts.draw_use(use(kinds, sharers, layers, least), path, "somebody's", "weight")
    data = path.read_bytes()
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert data.startswith(PNG) and width > 1000 and height > 250
    assert [one.name for one in tmp_path.iterdir()] == ["a.png"]


def test_the_picture_shows_what_is_used_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(charts, "_write", lambda figure, path: drawn.append(figure))
    some = use(2, 60, 30)
    charts.draw_use(some, tmp_path / "a.png", "somebody's", "weight")
    panels = drawn[0].axes
    assert [panel.get_title() for panel in panels[:2]] == ["m0_proj", "m1_proj"]
    labels = [label.get_text() for label in panels[0].get_yticklabels()]
    assert len(labels) == charts.ROWS and labels[1] == f"{some.sharers[1][:6]} {some.share_S[1]:6.1%}"
    shown = panels[1].images[0].get_array()
    assert np.array_equal(shown.filled(0), some.amount_CSL[1, : charts.ROWS])
    assert shown.mask.sum() == (some.amount_CSL[1, : charts.ROWS] == 0).sum()
    assert "the 40 used most of 60 sharers" in drawn[0].get_suptitle()
    assert panels[2].get_ylabel().startswith("weight")  # the colour bar


@pytest.mark.parametrize("name", ["a", "a.odd", "missing/a.png", "folder.png"])
def test_where_no_picture_can_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ConfigError):
        charts.draw_use(use(1, 1, 1), tmp_path / name, "somebody's", "weight")
    assert [one.name for one in tmp_path.iterdir()] == ["folder.png"]


def test_settings_in_the_current_folder_change_no_picture(tmp_path: Path) -> None:
    import matplotlib

    charts.draw_use(use(1, 2, 3), tmp_path / "a.png", "somebody's", "weight")
    # as a matplotlibrc sets them
    with matplotlib.rc_context({"text.usetex": True, "savefig.dpi": 10, "font.size": 30}):
        charts.draw_use(use(1, 2, 3), tmp_path / "b.png", "somebody's", "weight")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
