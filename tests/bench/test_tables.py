"""Results as rows of text."""

from dataclasses import replace

import pytest

from ownlm.bench import tables
from ownlm.bench.statistics import Difference
from tests.bench.made import EVIL, LONG, METHODS, results


def test_a_row_a_method_in_the_plans_order_with_its_verdict() -> None:
    table = tables.quality(results(), results().sets[0])
    assert table.columns[:4] == ("method", "accuracy ↑#", "Δ accuracy#", "verdict") and len(table.columns) == 7
    assert [row[0] for row in table.rows] == [tables.plain(name) for name in METHODS]
    assert table.rows[0][1:4] == ("0.500 [0.375, 0.625]", "baseline", "")
    assert table.rows[2][1:4] == ("0.625 [0.500, 0.750]", "+0.125 [+0.062, +0.188]", "▲ better")
    assert [row[3] for row in table.rows[1:]] == ["same", "▲ better", "▼ worse", "unclear"]


def test_less_is_better_of_an_error() -> None:
    table = tables.quality(results(), results().sets[1])
    assert table.columns[1] == "mae ↓#"
    assert [row[3] for row in table.rows[1:]] == ["same", "▼ worse", "▲ better", "unclear"]


@pytest.mark.parametrize(
    ("low", "high", "says"), [(0.0, 0.5, "unclear"), (-0.5, 0.0, "unclear"), (1e-9, 0.5, "▲ better")]
)
def test_an_interval_that_touches_zero_does_not_exclude_it(low: float, high: float, says: str) -> None:
    assert tables.verdict("accuracy", Difference((low + high) / 2, low, high, 1.0)) == says


def test_what_must_be_known_to_read_a_table() -> None:
    people, baseline, accuracy, f1 = tables.about(results(), results().sets[0])
    assert people == "Task LaMP_2N: 4 people with 20 queries, answered under 2 seeds; 30 outsiders, 1 possible sharer."
    assert baseline.startswith("Baseline: adapted base.") and "95% intervals" in baseline
    assert accuracy.startswith("accuracy: higher is better; at this size a true difference of 0.375")
    assert "0.250 to 0.500" in accuracy and "80% power" in accuracy  # the one without any difference tells nothing
    assert f1.startswith("f1_macro: higher")
    assert tables.about(results(), results().sets[1])[2].startswith("mae: lower is better")


def test_a_set_without_the_baseline() -> None:
    made = results()
    methods = tuple(replace(method, differences={}) for method in made.sets[0].methods[1:])
    one = replace(made.sets[0], methods=methods)
    assert {row[2:4] for row in tables.quality(made, one).rows} == {("-", "")}
    lines = tables.about(made, one)
    assert lines[1].startswith("Nothing is compared") and lines[2] == "accuracy: higher is better."


def test_costs_that_do_not_apply() -> None:
    table = tables.costs(results().sets[0])
    assert table.rows[0][1:] == ("-", "-", "-", "12.5", "-")
    assert table.rows[2][1:] == ("90.2", "123,456", "-", "30.0", "921,600")
    assert table.rows[3][1:] == ("-", "-", "4.0", "31.0", "1,500")


def test_activity_is_told_for_each_metric_and_bucket() -> None:
    first, second = tables.activity(results().sets[0])
    assert first.columns == (
        "method", "1-20 records (2 people, 10 queries)#", "21-50 records (2 people, 10 queries)#"
    )  # fmt: skip
    assert first.rows[2] == (LONG, "0.625 [0.500, 0.750]", "0.625 [0.500, 0.750]")
    assert "accuracy ↑" in first.title and "f1_macro ↑" in second.title
    one = results().sets[0]
    none = replace(one, methods=tuple(replace(method, buckets=()) for method in one.methods))
    assert list(tables.activity(none)) == []


def test_markdown_cells_stay_in_their_columns() -> None:
    lines = tables.markdown(tables.quality(results(), results().sets[0])).splitlines()[2:]
    assert {line.replace("\\|", "").count("|") for line in lines} == {8}
    assert "<script" not in tables.escaped(EVIL).replace("\\<", "") and "\\`c\\`" in tables.escaped(EVIL)
    assert tables.escaped("[a](b)") == "[a]\\(b)"


def test_names_lose_what_would_hide_or_steer() -> None:
    assert tables.plain(" a\n\tb \x1b[31m\x00") == "a b ?[31m?"
