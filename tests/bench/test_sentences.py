"""What is said above the tables."""

import pytest

from ownlm.bench.report import about, notes, subtitle
from ownlm.bench.results import Results, SetResult
from ownlm.bench.statistics import Difference
from tests.bench.made import changed, one_set, results


def with_base(base: str) -> Results:
    return changed(results(), resolved={"base": base})


def compared(*differences: Difference) -> SetResult:
    """A set with so many methods beside the baseline."""
    one = one_set("news", ("accuracy",), ("1-20 records",))
    rows = [changed(one.methods[1], name=str(n), differences={"accuracy": d}) for n, d in enumerate(differences)]
    return changed(one, methods=(one.methods[0], *rows))


def said(*differences: Difference) -> str:
    """What is said of accuracy."""
    return about(results(), compared(*differences))[-1]


EQUAL, UNCLEAR, BETTER = Difference(0, 0, 0, 0), Difference(0.1, -0.1, 0.3, 0.25), Difference(0.3, 0.1, 0.5, 0.75)


@pytest.mark.parametrize("base", ["smollm2-135m", "/home/ada/smollm2-135m", "owner/smollm2-135m"])
def test_the_base_stands_in_the_first_lines_without_its_folder(base: str) -> None:
    line = subtitle(with_base(base))
    assert "smollm2-135m" in line and "home" not in line and "baseline: adapted base" in line and "seeds 0, 7" in line
    assert not any("random" in note for note in notes(with_base(base)))


def test_a_random_base_is_told_first() -> None:
    assert "base: random" in subtitle(with_base("random"))
    assert "random weights" in notes(with_base("random"))[0] and "mean nothing" in notes(with_base("random"))[0]


def test_the_words_of_rouge_are_named_where_a_task_has_it() -> None:
    with_rouge = changed(results(), sets=(one_set("news", ("rougeL",), ("1-20 records",)),))
    assert any("runs of a-z" in note and "single characters" in note for note in notes(with_rouge))
    assert not any("ROUGE" in note for note in notes(results()))


def test_every_verdict_is_explained_once() -> None:
    *_, verdicts = notes(results())
    assert all(verdicts.count(verdict) == 1 for verdict in ("▲ better", "▼ worse", "○ unclear", "• equal"))


def test_how_many_methods_differ_and_what_would_have_been_found() -> None:
    users, accuracy, f1 = about(results(), results().sets[0])
    assert users == "Task LaMP_2N: 4 users with 20 queries, answered under 2 seeds; 30 outsiders, 1 possible sharer."
    assert accuracy.startswith(
        "accuracy: higher is better. Of 4 compared methods: 1 better, 1 worse, 1 unclear, 1 equal."
    )
    assert "a true difference of 0.375 (the median of the 3 methods not equal, from 0.250 to 0.500)" in accuracy
    assert "chance" not in accuracy and f1.startswith("f1_macro: higher")
    assert about(results(), results().sets[1])[-1].startswith("mae: lower is better")


def test_where_no_method_differs_nothing_is_said_of_size() -> None:
    assert said(EQUAL, EQUAL) == "accuracy: higher is better. None of 2 compared methods differs from the baseline."


def test_one_method_that_differs() -> None:
    assert "0 better, 0 worse, 1 unclear, 2 equal" in said(EQUAL, UNCLEAR, EQUAL)
    assert "a true difference of 0.250 (by the one not equal)" in said(EQUAL, UNCLEAR, EQUAL)


def test_many_comparisons_are_marked_by_chance() -> None:
    assert "By chance alone about 0.6 of the 12 not equal would be marked." in said(*[UNCLEAR] * 11, BETTER, EQUAL)
    assert "chance" not in said(*[UNCLEAR] * 10, *[EQUAL] * 5)  # what is equal cannot be marked


def test_what_is_left_out() -> None:
    one = changed(compared(BETTER), left_out=("kNN", "a\nb"), unlabelled=1)
    lines = about(results(), one)
    assert lines[1] == "Left out: 1 query without a known right answer."
    assert "no labels" in lines[2] and lines[2].endswith("kNN; a b.")
    assert not any("eft out" in line for line in about(results(), compared(BETTER)))


def test_one_bucket_of_activity_is_a_sentence() -> None:
    assert any("All users have 1-20 records" in line for line in about(results(), results().sets[1]))
    assert not any("All users have" in line for line in about(results(), results().sets[0]))


def test_a_set_without_the_baseline() -> None:
    one = compared(BETTER)
    one = changed(one, methods=tuple(changed(method, differences={}) for method in one.methods))
    *_, nothing, accuracy = about(results(), one)
    assert nothing.startswith("Nothing is compared") and accuracy == "accuracy: higher is better."


def test_of_too_few_people_no_difference_is_called_detectable() -> None:
    line = said(Difference(0.25, None, None, None), Difference(0, None, None, 0))
    assert "0 better, 0 worse, 1 unclear, 1 equal" in line
    assert "Fewer than 5 were asked: nothing can be shown." in line and "80% power" not in line


def test_which_code_ran_before_stands_above() -> None:
    assert any(
        "commit 1234567, a slow machine" in note
        for note in notes(changed(results(), earlier=("commit 1234567, a slow machine",)))
    )
    assert not any("other code" in note for note in notes(results()))
