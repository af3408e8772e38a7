"""Pictures of made-up results."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

import matplotlib
import pytest

from ownlm.bench import plots
from ownlm.bench.results import Costs, Results, SetResult
from tests.bench.made import changed, one_set, results

Draw = Callable[[Results, SetResult, str], str]
DRAWN = (plots.against_baseline, plots.against_cost)
SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [text.text or "" for text in ET.fromstring(svg).iter(f"{SVG}text")]


def settings() -> dict[str, object]:
    """Matplotlib's, but for the backend, which is found when it is first looked at."""
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}


@pytest.mark.parametrize("draw", DRAWN, ids=lambda draw: draw.__name__)
def test_a_picture_is_the_same_each_time_and_names_everything(draw: Draw) -> None:
    made, one = results(), results().sets[0]
    svg = draw(made, one, "accuracy")
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False}):  # a person's own style
        assert draw(made, one, "accuracy") == svg
    assert ET.fromstring(svg).get("role") == "img" and "accuracy" in (ET.fromstring(svg).get("aria-label") or "")
    shown = " ".join(texts(svg))
    assert "adapted base" in shown and "accuracy (higher is better" in shown
    assert "<script" not in svg and "\x1b" not in svg and "$x^2$" in shown  # no formula is made of it
    assert ("averaged" in shown) == (draw is not plots.against_cost)  # others are better at the same cost
    assert "dc:date" not in svg and "http://matplotlib" not in svg


def test_the_forest_has_a_panel_more_where_there_is_a_baseline() -> None:
    made, one = results(), results().sets[1]
    svg = plots.against_baseline(made, one, "mae")
    shown = texts(svg)
    assert "mae (← lower is better)" in shown and "difference to the baseline in mae (← better)" in shown
    assert {"better", "worse", "unclear", "equal"} <= set(shown)
    assert all(colour in svg for colour in (plots.BLUE, plots.ORANGE, plots.GREY))
    alone = changed(one, methods=tuple(changed(method, differences={}) for method in one.methods))
    assert not any("difference" in text for text in texts(plots.against_baseline(made, alone, "mae")))


def test_costs_that_do_not_apply_stand_at_nothing() -> None:
    shown = texts(plots.against_cost(results(), results().sets[0], "accuracy"))
    assert shown.count("nothing") == 2 and {"1 kB", "1 MB", "10"} <= set(shown)
    one = results().sets[0]
    free = changed(one, methods=tuple(changed(method, costs=Costs(ms_per_answer=1.0)) for method in one.methods))
    assert plots.against_cost(results(), free, "accuracy") == ""
    paid = changed(one, methods=tuple(changed(method, costs=Costs(bytes_per_user=512.0)) for method in one.methods))
    shown = texts(plots.against_cost(results(), paid, "accuracy"))
    assert "nothing" not in shown and not any("training" in text for text in shown)


def test_what_no_other_beats_is_numbered_and_named() -> None:
    shown = texts(plots.against_cost(results(), results().sets[0], "accuracy"))
    assert shown.count("3") == shown.count("4") == 2 and "5" not in shown  # four methods, in both panels
    key = " ".join(shown)
    assert all(name in key for name in ("1  adapted base", "3  own adapter", "4  a|b")) and "averaged" not in key


def test_methods_in_one_place_share_a_label() -> None:
    one = results().sets[0]
    same = changed(one, methods=tuple(changed(one.methods[2], name=name) for name in ("a", "b", "c")))
    assert texts(plots.against_cost(results(), same, "accuracy")).count("1, 2, 3") == 2


def test_the_front_holds_what_is_not_beaten() -> None:
    assert plots.front([0.5, 0.5, 0.4, 0.7], [0.0, 5.0, 0.0, 9.0], "accuracy") == [0, 3]
    assert plots.front([0.5, 0.5, 0.4, 0.7], [0.0, 5.0, 0.0, 9.0], "mae") == [2]
    assert plots.front([0.5, 0.5], [1.0, 1.0], "mae") == [0, 1]


def test_one_method_alone_is_drawn() -> None:
    one = one_set("news", ("rougeL",), ("201+ records",))
    one = changed(one, methods=one.methods[2:3])
    for draw in (plots.against_baseline, plots.against_cost):
        assert len(texts(draw(results(), one, "rougeL"))) > 3


def test_a_picture_leaves_matplotlibs_settings_alone() -> None:
    before = settings()
    plots.against_baseline(results(), results().sets[0], "accuracy")
    assert settings() == before


def test_pictures_share_no_ids() -> None:
    made = results()
    ids = [
        name
        for one in made.sets
        for draw in DRAWN
        for name in re.findall(r' id="([^"]*)"', draw(made, one, one.metrics[0]))
    ]
    assert ids and len(set(ids)) == len(ids)


def test_long_names_are_cut_to_two_lines() -> None:
    assert plots._short("word " * 40).count("\n") == 1 and plots._short("word " * 40).endswith("…")
    assert len(plots._short("x" * 500)) <= 2 * plots.LETTERS + 1
