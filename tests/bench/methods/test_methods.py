"""What is true of every method: all are answered, whoever else is; what was made before is found again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ownlm.bench.case import Case
from ownlm.bench.methods import METHODS
from ownlm.bench.results import Costs
from ownlm.home import Home
from tests.bench.methods.cases import SHARE, TRAIN, ask, with_task

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "base": ("base", {}),
    "base, k=1": ("base", {"rag": 1}),
    "adapted": ("adapted", {}),
    "RAG": ("adapted", {"rag": 2}),
    "PAG": ("adapted", {"profile": True, "rag": 1}),
    "adapted with RAG": ("adapted", {"rag": 1, "adapt": {"rag": 1}}),
    "random": ("random", {"k": 2}),
    "most frequent": ("most_frequent", {}),
    "knn": ("knn", {"k": 3}),
    "own": ("own", TRAIN),
    "own, PAG": ("own", TRAIN | {"rag": 1, "profile": True}),
    "own, answers": ("own", TRAIN | {"format": "answers"}),
    "own, inputs": ("own", TRAIN | {"format": "inputs"}),
    "own, text": ("own", TRAIN | {"format": "text"}),
    "(IA)3": ("ia3", TRAIN),
    "prompt tuning": ("prompt", TRAIN | {"virtual_tokens": 2, "learning_rate": 0.3}),
    "nearest": ("nearest", {"share": SHARE}),
    "averaged": ("averaged", {"share": SHARE, "rag": 1}),
    "arrow": ("arrow", {"share": SHARE, "top_k": 2}),
    "assembled": ("assembled", {"share": SHARE}),
    "factors, PAG": ("assembled", {"share": SHARE, "combine": "factors", "rag": 1, "profile": True}),
    "assembled, then adapted": ("assembled", {"share": SHARE, "adapt_steps": 2, "residual_rank": 1}),
}
TRAINING = {"train_seconds", "train_tokens", "bytes_per_user"}
COSTS = {
    "own": TRAINING,
    "ia3": TRAINING,
    "prompt": TRAINING,
    "nearest": {"assemble_seconds", "bytes_per_user"},
    "averaged": {"bytes_per_user"},
    "arrow": {"bytes_per_user"},
    "assembled": {"assemble_seconds", "bytes_per_user"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_query_is_answered_the_same_in_whatever_company(generating: Case, name: str) -> None:
    method, settings = SETTINGS[name]
    asked = generating.data.queries
    made = METHODS[method].make(generating, **settings)
    answers = list(made.answer(asked))
    assert len(answers) == len(asked)
    again = METHODS[method].make(generating, **settings)
    assert [*again.answer(asked[:7]), *again.answer(asked[7:])] == answers
    assert list(again.answer(asked[::-1]))[::-1] == answers and list(again.answer(())) == []
    known = {name for name in Costs.model_fields if getattr(made.costs, name) is not None}
    assert known == COSTS.get(method, set())
    if method != "nearest":  # whose looking is measured each time
        assert again.costs == made.costs


@pytest.mark.parametrize("name", SETTINGS)
def test_labels_are_chosen_where_there_are_any(case: Case, generating: Case, name: str) -> None:
    method, settings = SETTINGS[name]
    labels = set(case.task.labels or ())
    assert set(ask(case, method, case.data.queries[:5], **settings)) <= labels
    said = set(ask(generating, method, case.data.queries[:5], **settings))
    assert (said <= labels) == (method in ("most_frequent", "knn"))


def test_every_method_is_tried() -> None:
    assert {method for method, _ in SETTINGS.values()} == set(METHODS)


def test_no_two_methods_are_the_same(generating: Case) -> None:
    """Else the tests above would say little."""
    given = {name: tuple(ask(generating, method, **how)) for name, (method, how) in SETTINGS.items()}
    assert len(set(given.values())) == len(given), given


def test_nothing_is_made_twice(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for method, settings in SETTINGS.values():
        METHODS[method].make(case, **settings)

    def fail(*args: Any, **how: Any) -> None:
        raise AssertionError("made again")

    for verb in ("ownlm.workflows.pools.share.share", "ownlm.workflows.bases.adapt_base"):
        monkeypatch.setattr(verb, fail)
    for verb in ("ownlm.workflows.train.fleet", "ownlm.workflows.assemble.assemble"):
        monkeypatch.setattr(verb, fail)
    for method, settings in SETTINGS.values():
        METHODS[method].make(case, **settings)
    anew = replace(case, folder=tmp_path / "out")
    bare = replace(anew, adapt=None)
    to_make: tuple[tuple[Case, str, dict[str, Any]], ...] = (
        (anew, "adapted", {}), (bare, "own", TRAIN), (bare, "averaged", {"share": SHARE}),
        (case, "assembled", {"share": SHARE, "top_k": 1}),
    )  # fmt: skip
    for which, method, settings in to_make:  # each of the four verbs would have been seen
        with pytest.raises(AssertionError, match="made again"):
            METHODS[method].make(which, **settings)


def test_seeds_have_pools_and_adapters_of_their_own(case: Case, tmp_path: Path) -> None:
    other = replace(case, seed=1, folder=tmp_path / "out")
    assert other.adapted() != case.adapted()
    ask(other, "own", other.data.queries[:1], **TRAIN)
    homes = [Home(path) for path in (tmp_path / "out" / "stages").glob("own-*")]
    assert [{one.provenance["seed"] for one in home.adapters()} for home in homes] == [{1}]


def test_a_person_who_cannot_be_trained_is_an_error(case: Case, tmp_path: Path) -> None:
    """Never a row of a table in which somebody else answered."""
    few = with_task(replace(case, folder=tmp_path / "out", adapt=None), answer="place: {place}")
    with pytest.raises(ValueError, match="no record that can be trained on"):
        ask(few, "own", **TRAIN)
