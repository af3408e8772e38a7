"""What cannot be in a plan is told before anything runs."""

from typing import Any

import pytest

from ownlm.bench.check import check_adapt, check_settings, check_share
from ownlm.bench.methods import METHODS
from ownlm.bench.plan import Problems
from ownlm.errors import ConfigError
from ownlm.history.task import load_task
from tests.bench.methods.test_methods import SETTINGS

WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("best", {}, "no such method"),
    ("base", {"profile": True}, "no such setting of the method 'base'. Got: profile"),
    ("adapted", {"rag": -1}, "'rag' of the method 'adapted' is wrong"),
    ("adapted", {"rag": True}, "'rag'"),
    ("adapted", {"profile": 1}, "'profile'"),
    ("adapted", {"adapt": {"rate": 1}}, "of stage 1 of the method 'adapted'. Got: rate"),
    ("adapted", {"adapt": {"method": "ia3"}}, "Got: method"),
    ("knn", {"k": 0}, "'k'"),
    ("random", {"k": 1.5}, "'k'"),
    ("own", {"learning_rate": 0}, "'learning_rate'"),
    ("own", {"lora": {}}, "lora"),
    ("own", {"method": "ia3"}, "Got: method"),
    ("own", {"format": "prose"}, "'format'"),
    ("own", {"format": "text", "rag": 1}, "Plain-text formats cannot be combined"),
    ("own", {"virtual_tokens": 4}, "The method 'lora' has no such setting"),
    ("ia3", {"r": 4}, "The method 'ia3' has no such setting"),
    ("prompt", {"virtual_tokens": 0}, "'virtual_tokens'"),
    ("own", {"seed": 1}, "seed"),
    ("own", {"preset": "large"}, "No such preset"),
    ("nearest", {"share": {"ratio": 0}}, "'ratio' of pools of the method 'nearest'"),
    ("nearest", {"share": {"sharer": 3}}, "Got: sharer"),
    ("averaged", {"share": {"method": "ia3"}}, "Got: method"),
    ("averaged", {"share": 3}, "'share'"),
    ("arrow", {"share": {"select": "best"}}, "'select'"),
    ("arrow", {"tau": 0.0}, "'tau'"),
    ("assembled", {"combine": "sum"}, "'combine'"),
    ("assembled", {"combine": "factors", "adapt_steps": 3}, "Only recipes of `product`"),
    ("assembled", {"residual_rank": 2}, "residual_rank needs adapt_steps"),
    ("assembled", {"share": {"learning_rate": 2}}, "'learning_rate'"),
    ("assembled", {"share": {"gate_learning_rate": float("nan")}}, "'gate_learning_rate'"),
]


@pytest.mark.parametrize(("method", "given", "said"), WRONG)
def test_what_is_wrong_is_named(method: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_settings(method, given)
    assert said in str(error.value)


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_right_passes(name: str) -> None:
    check_settings(*SETTINGS[name])


def test_more_that_is_right() -> None:
    for method in METHODS:
        check_settings(method, {})
    check_settings("own", {"target_modules": ["q_proj"], "preset": "paper", "recent": 64, "max_words": 100})
    check_settings("assembled", {"tau": 1, "share": {"ratio": 1, "rag": 1, "centre": True, "recent": 40}})


def test_settings_of_a_whole_plan_are_checked_alike() -> None:
    found = Problems()
    check_share({"sharers": 3, "steps": 2, "gate_steps": 2}, problems=found)
    check_adapt({"epochs": 1, "recent": 6, "preset": "paper"}, problems=found)
    assert not found
    check_share({"people": 3}, problems=found)
    check_adapt({"sharers": 3}, problems=found)
    with pytest.raises(ConfigError, match=r"(?s)of pools of the plan.*of stage 1 of the plan"):
        found.raise_all("The plan")


def test_a_method_that_cannot_answer_a_task_is_refused() -> None:
    titles, votes = load_task("LaMP_4"), load_task("LaMP_3")
    for method, given in [("most_frequent", {}), ("knn", {"k": 2})]:
        check_settings(method, given, votes)
        with pytest.raises(ConfigError, match="LaMP_4"):
            check_settings(method, given, titles)


def test_what_suits_which_task_is_told() -> None:
    """A plan over many sets can leave out what a set cannot be asked."""
    titles, choice = load_task("LaMP_4"), load_task("LaMP_1")
    for task in (titles, choice):
        for method, kind in METHODS.items():
            if kind.labels if task is titles else not kind.options:
                with pytest.raises(ConfigError, match=task.name):
                    check_settings(method, {}, task)
            else:
                check_settings(method, {}, task)
