"""Results as rows of text."""

import pytest

from ownlm.bench import tables
from ownlm.bench.statistics import Difference
from tests.bench.made import EVIL, LONG, METHODS, changed, results


def test_a_row_a_method_in_the_plans_order_with_its_verdict() -> None:
    table = tables.quality(results(), results().sets[0])
    assert table.columns[:4] == ("method", "accuracy ↑#", "Δ accuracy#", "verdict") and len(table.columns) == 7
    assert [row[0] for row in table.rows] == [tables.plain(name) for name in METHODS]
    assert table.rows[0][1:4] == ("0.500 [0.375, 0.625]", "baseline", "")
    assert table.rows[2][1:4] == ("0.625 [0.500, 0.750]", "+0.125 [+0.062, +0.188]", "▲ better")
    assert [row[3] for row in table.rows[1:]] == ["• equal", "▲ better", "▼ worse", "○ unclear"]


def test_less_is_better_of_an_error() -> None:
    table = tables.quality(results(), results().sets[1])
    assert table.columns[1] == "mae ↓#"
    assert [row[3] for row in table.rows[1:]] == ["• equal", "▼ worse", "▲ better", "○ unclear"]


@pytest.mark.parametrize(
    ("low", "high", "says"), [(0.0, 0.5, "○ unclear"), (-0.5, 0.0, "○ unclear"), (1e-9, 0.5, "▲ better")]
)
def test_an_interval_that_touches_zero_does_not_exclude_it(low: float, high: float, says: str) -> None:
    assert tables.verdict("accuracy", Difference((low + high) / 2, low, high, 1.0)) == says


def test_a_set_without_the_baseline() -> None:
    made = results()
    methods = tuple(changed(method, differences={}) for method in made.sets[0].methods[1:])
    one = changed(made.sets[0], methods=methods)
    assert {row[2:4] for row in tables.quality(made, one).rows} == {("-", "")}


def test_costs_that_do_not_apply() -> None:
    table, shared = tables.costs(results().sets[0])
    assert table.rows[0][1:] == ("-", "-", "-", "12.5", "-")
    assert table.rows[2][1:] == ("90.2", "123,456", "-", "30.0", "921,600")
    assert table.rows[3][1:] == ("-", "-", "4.0", "31.0", "1,500")
    assert "the base loaded before" in table.note and "Not in the rows above" in shared.note
    assert shared.rows == (("stage 1", "30", "12.5", "123,456"), ("the pool", "1", "40.0", "-"))
    assert len(list(tables.costs(changed(results().sets[0], shared=())))) == 1


def test_activity_is_told_for_each_metric_and_bucket() -> None:
    first, second = tables.activity(results().sets[0])
    assert first.columns == (
        "method", "1-20 records (2 users, 10 queries)#", "21-50 records (2 users, 10 queries)#"
    )  # fmt: skip
    assert first.rows[2] == (LONG, "0.625 [0.500, 0.750]", "0.625 [0.500, 0.750]")
    assert "accuracy ↑" in first.title and "f1_macro ↑" in second.title
    one = results().sets[0]
    none = changed(one, methods=tuple(changed(method, buckets=()) for method in one.methods))
    assert list(tables.activity(none)) == []
    assert list(tables.activity(results().sets[1])) == []  # one bucket: the table of all


def test_markdown_cells_stay_in_their_columns() -> None:
    lines = tables.markdown(tables.quality(results(), results().sets[0])).splitlines()[2:]
    assert {line.replace("\\|", "").count("|") for line in lines} == {8}
    assert "<script" not in tables.escaped(EVIL).replace("\\<", "") and "\\`c\\`" in tables.escaped(EVIL)
    assert tables.escaped("[a](b)") == "[a]\\(b)"


def test_a_tables_note_stands_below_it() -> None:
    assert tables.markdown(tables.Table("t", ("a",), (("b",),), "n_")).endswith("| b |\n\nn\\_")


@pytest.mark.parametrize("path", ["/home/ada/x", "~/x", "../up/x", "./x", "C:\\ada\\x", "\\\\host\\x", "/home/x/"])
def test_a_path_loses_its_folders_wherever_it_stands(path: str) -> None:
    assert tables.without_folders({"share": {"embedder": path}}) == {"share": {"embedder": "x"}}
    assert tables.without_folders({"sets": [{"labels": "ada/x", "task": path}]}) == {
        "sets": [{"labels": "x", "task": "x"}]
    }


def test_what_is_no_path_stays() -> None:
    plan = {"base": "owner/model", "name": "k=1/2", "url": "https://host/v1", "seeds": [0], "labels": None}
    assert tables.without_folders(plan) == plan


def test_names_lose_what_would_hide_or_steer() -> None:
    assert tables.plain(" a\n\tb \x1b[31m\x00") == "a b ?[31m?"
