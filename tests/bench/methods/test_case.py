from collections.abc import Iterator
from dataclasses import replace

import pytest

from ownlm.bench.case import Case
from ownlm.bench.methods import METHODS
from ownlm.bench.plan import ProfilePlan
from ownlm.errors import PoolError
from ownlm.workflows.report import Answer
from tests.bench.methods.cases import SHARE, TRAIN


@pytest.mark.parametrize("name", ["base", "adapted", "random", "own", "averaged", "assembled"])
def test_bases_are_loaded_before_answers_are_timed(case: Case, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"own": TRAIN, "averaged": {"share": SHARE}, "assembled": {"share": SHARE}}.get(name, {})
    made = METHODS[name].make(case, **settings)

    def fail(*_: object) -> None:
        raise AssertionError("a base is loaded")

    monkeypatch.setattr("ownlm.inference.engine.load_registered", fail)
    assert len(list(made.answer(case.data.queries))) == len(case.data.queries)


def test_another_writer_of_profiles_has_a_stage_of_its_own(case: Case) -> None:
    profiled = replace(case, adapt={**(case.adapt or {}), "profile": True})
    counted = replace(profiled, writer=ProfilePlan(writer="counted"))
    written = replace(profiled, writer=ProfilePlan(writer="base"))
    homes = [
        one.home("adapt", one.raw(), {"profile": True}, "outsiders").store.folder for one in (counted, written, counted)
    ]
    assert homes[0] == homes[2] != homes[1]
    assert counted.home("own", counted.raw()).store.folder == written.home("own", written.raw()).store.folder


def test_the_base_does_not_answer_in_a_methods_name(case: Case) -> None:
    class Stale:
        def ask_many(self, *_: object, **__: object) -> Iterator[Answer]:
            yield Answer(query=case.data.queries[0], answer="home", warning="stale; the base answers")

    with pytest.raises(PoolError, match="stale"):
        list(case.ask(Stale(), case.data.queries[:1]))  # type: ignore[arg-type]
