"""A benchmark's tables, as a terminal shows them."""

import pytest

from ownlm.cli.bench import show_results
from tests.bench.made import LONG, results


def test_every_table_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show_results(results(), activity=True)
    shown = capsys.readouterr().out
    for title in (
        "news: quality",
        "news: costs",
        "news: done once for all",
        "news: f1_macro ↑ by the users' number of records",
        "<b>ratings: quality",
    ):
        assert title in shown
    assert "+0.125 [+0.062, +0.188]" in shown and "▲ better" in shown and "80% power" in shown
    assert "base: smollm2-135m" in shown.splitlines()[1] and "the base loaded before" in shown
    assert LONG.split()[0] in shown and "\x1b" not in shown and "$x^2$" in shown


def test_activity_is_shown_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    show_results(results())
    assert "by the users' number" not in capsys.readouterr().out
