"""Assembling in a home: whom, when again, what goes wrong with one, and what changes meanwhile."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ownlm.workflows.assemble as verb
from ownlm.errors import ConfigError, NotFoundError, PoolError, StoreError
from ownlm.history.record import History, Record
from ownlm.home import Home
from ownlm.workflows.pools.withdraw import withdraw
from ownlm.workflows.report import Assemblies
from ownlm.workflows.selection import UP_TO_DATE
from tests.community import rows, write_rows
from tests.sharing import GIVERS, OTHERS, TASK, ask, share
from tests.store.rows import take_back_consent

FAST = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-2}


def users(report: Assemblies) -> list[str]:
    return [one.user for one in report.assembled]


def test_everybody_else_is_assembled_and_once(shared: Home) -> None:
    first = shared.assemble(TASK)
    assert users(first) == list(OTHERS) and first.failed == first.stale == []
    assert {user for user, why in first.skipped if "is a sharer" in why} == set(GIVERS)
    recipes = {one.user: one for one in shared.adapters()}
    assert set(recipes) == set(OTHERS) and all(one.bytes < 150 and one.is_recipe for one in recipes.values())
    assert all(abs(sum(share for _, share in one.top_sharers) - 1) < 0.3 for one in first.assembled)
    again = shared.assemble(TASK)
    assert again.assembled == [] and sorted(user for user, why in again.skipped if why == UP_TO_DATE) == list(OTHERS)
    assert {one.user: one for one in shared.adapters()} == recipes and not shared.doctor().wrong
    assert users(shared.assemble(TASK, top_k=2, users=["kara"])) == ["kara"]  # other settings, and a sharer who asks
    assert users(shared.assemble(TASK, users=["gina"])) == ["gina"]


def test_an_assembly_depends_on_nobody_elses(shared: Home) -> None:
    shared.assemble(TASK, users=["luca"])
    alone = shared.adapters("luca")[-1].recipe
    shared.assemble(TASK, users=["mona", "luca", "kara"], seed=1)
    assert shared.adapters("luca")[-1].recipe == alone and shared.adapters("kara")[-1].recipe != alone


def test_whose_records_changed_is_assembled_again_from_all_of_them(shared: Home, tmp_path: Path) -> None:
    shared.assemble(TASK)
    shared.add_history(write_rows(tmp_path / "more.jsonl", rows("luca", 3, first=50)), TASK)
    (report,) = shared.assemble(TASK).assembled
    assert (report.user, report.records) == ("luca", 9)
    assert shared.forget_record("mona", "mona-2").marked == 1
    (answer,) = ask(shared, "mona")
    assert answer.answer and answer.adapter  # as of an adapter: until there is another
    assert "recipes that are stale or behind 1" in " ".join(shared.doctor().next)
    (report,) = shared.assemble(TASK).assembled
    assert (report.user, report.records) == ("mona", 5) and len(shared.adapters("mona")) == 1


def test_own_training_comes_before_assembling_unless_asked_for(shared: Home) -> None:
    shared.assemble(TASK, users=["kara"])
    trained = shared.train(TASK, users=["kara", "luca"], **FAST).trained
    assert [one.parent for one in trained] == [None, None]  # nothing goes on from a recipe
    report = shared.assemble(TASK)
    assert users(report) == ["mona"] and dict(report.skipped)["kara"].startswith("has an adapter of their own")
    assert users(shared.assemble(TASK, users=["kara"])) == ["kara"] and shared.adapters("kara")[-1].is_recipe
    assert [one.method for one in shared.adapters("kara")] == ["recipe", "lora", "recipe"]
    assert shared.train(TASK, users=["kara"], **FAST).trained[0].parent is None


def test_people_the_base_has_learnt_from_are_left_out(agreed: Home) -> None:
    agreed.adapt("sorted", TASK, users=["kara"], epochs=1, batch_size=4, learning_rate=1e-3)
    share(agreed)
    report = agreed.assemble(TASK)
    assert users(report) == ["luca", "mona"] and "'sorted' has learnt from" in dict(report.skipped)["kara"]


def test_whom_nobody_knows_is_an_error_before_anybody_is_assembled(shared: Home) -> None:
    with pytest.raises(NotFoundError, match="no records of user 'nobody'"):
        shared.assemble(TASK, users=["kara", "nobody"])
    assert shared.adapters() == []
    shared.store.put_task(shared.task(TASK).model_copy(update={"name": "other"}))
    with pytest.raises(NotFoundError, match="no pool of task 'other'"):
        shared.assemble("other")
    with pytest.raises(NotFoundError, match="no base 'large'"):
        shared.assemble(TASK, base="large")


def test_settings_that_cannot_be_are_refused(shared: Home) -> None:
    for asked in ({"adapt_steps": 3, "combine": "factors"}, {"residual_rank": 1}):
        with pytest.raises(ConfigError):
            shared.assemble(TASK, **asked)
    with pytest.raises(PoolError, match=r"fewer sharers.*4 sharers, top_k 5"):
        shared.assemble(TASK, top_k=5)
    assert shared.adapters() == [] and users(shared.assemble(TASK, top_k=4)) == list(OTHERS)


def test_a_person_without_anything_to_learn_from_or_too_much_of_it_stops_nobody(shared: Home, tmp_path: Path) -> None:
    (long,) = rows("kara", 1, first=80)
    shared.add_history(write_rows(tmp_path / "long.jsonl", [long | {"text": "bananas " * 700}]), TASK)
    unanswered = Record("nora", "nora-0", {"text": "something"})
    shared.store.add_records(TASK, [History("nora", (unanswered,))])
    report = shared.assemble(TASK)
    assert users(report) == ["luca", "mona"]
    failed = {user: str(error) for user, error in report.failed}
    assert "'kara-80' of user 'kara' is longer" in failed["kara"] and "no record that can" in failed["nora"]
    assert "bananas" not in " ".join(failed.values())
    assert users(shared.assemble(TASK)) == [] and len(shared.assemble(TASK).failed) == 2


def test_progress_moves_within_a_group_and_ends_full(shared: Home) -> None:
    told = list[tuple[str, float, float]]()
    modules = len(shared.pools.open()[1].modules)
    shared.assemble(TASK, users=OTHERS, adapt_steps=2, progress=lambda *step: told.append(step[:3]))
    stages = {stage: [(done, total) for name, done, total in told if name == stage] for stage, _, _ in told}
    chosen, adapted = stages["assembling, modules"], stages["adapting, steps"]
    assert {total for _, total in chosen} == {3 * modules} and len({done for done, _ in chosen}) == modules + 1
    assert chosen == sorted(chosen) and chosen[-1] == (3 * modules, 3 * modules) and adapted[-1] == (6, 6)


def test_who_is_too_short_of_records_to_adapt_to_is_assembled(shared: Home, tmp_path: Path) -> None:
    shared.add_history(write_rows(tmp_path / "few.jsonl", rows("olga", 4)), TASK)
    report = shared.assemble(TASK, users=["olga", "kara"], adapt_steps=2)
    assert {one.user: one.kept is None for one in report.assembled} == {"olga": True, "kara": False}
    assert shared.adapters("olga")[0].steps == 0 and shared.adapters("kara")[0].steps == 2
    assert shared.assemble(TASK, users=["olga", "kara"], adapt_steps=2).assembled == []


def after_each(monkeypatch: pytest.MonkeyPatch, disturb: Callable[[str], Any]) -> None:
    """Something happens after each person's recipe is made, and before it is kept."""
    genuine = verb.assemble

    def disturbed(*args: Any, **more: Any) -> Iterator[Any]:
        for one in genuine(*args, **more):
            disturb(one.user)
            yield one

    monkeypatch.setattr(verb, "assemble", disturbed)


def test_a_recipe_of_a_sharer_who_withdrew_meanwhile_is_not_kept(shared: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    after_each(monkeypatch, lambda user: withdraw(shared.store, "gina") if user == "luca" else None)
    report = shared.assemble(TASK)
    assert users(report) == ["kara"]
    assert [user for user, _ in report.failed] == ["luca", "mona"]
    assert all("was withdrawn while a recipe" in str(error) for _, error in report.failed)
    monkeypatch.undo()
    assert {"luca", "mona"} <= set(users(shared.assemble(TASK, users=OTHERS))) and not shared.doctor().wrong
    assert [one.stale for one in shared.adapters()] == [None] * 3
    assert {one.pool for one in shared.adapters()} == {shared.pools.ls()[0].digest}


def test_a_withdrawal_waits_for_who_assembles_and_then_takes_its_recipes_too(
    shared: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, waits, told = threading.Event(), threading.Event(), list[Any]()

    def other() -> None:
        begun.wait(30)
        home = Home(shared.store.folder)
        told.append(home.pools.withdraw("gina", progress=lambda *_: waits.set()))
        home.store.database.close()

    def hold(user: str) -> None:
        begun.set()
        assert waits.wait(30)

    thread = threading.Thread(target=other)
    thread.start()
    after_each(monkeypatch, hold)
    first = {one.user: one.id for one in shared.assemble(TASK).assembled}
    thread.join(60)
    assert list(first) == list(OTHERS)
    (done,) = told
    assert len(done.affected) + done.untouched == 3 and done.again.failed == done.again.stale == []
    assert {one.pool for one in shared.latest_adapters().values()} == {shared.pools.ls()[0].digest}
    assert not shared.doctor().wrong


def test_consent_taken_back_meanwhile_ends_it_at_the_next_group(shared: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "AT_ONCE", 1)
    after_each(monkeypatch, lambda user: take_back_consent(shared.store, "gina"))
    with pytest.raises(PoolError, match=r"a sharer took their consent back.*see which users"):
        shared.assemble(TASK)
    assert [one.user for one in shared.adapters()] == ["kara"]
    with pytest.raises(PoolError, match="consent"):
        shared.assemble(TASK)
    (answer,) = ask(shared, "kara")
    assert answer.answer and answer.adapter is None and "took their consent back" in (answer.warning or "")


def test_records_forgotten_meanwhile_are_in_no_recipe(shared: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(user: str) -> None:
        if user == "kara":
            shared.forget_record("kara", "kara-1")
            shared.forget("mona")

    after_each(monkeypatch, forget)
    report = shared.assemble(TASK)
    assert users(report) == ["luca"] and [user for user, _ in report.failed] == ["kara"]
    assert ("mona", "forgotten during this run") in report.skipped and [one.user for one in shared.adapters()] == [
        "luca"
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, StoreError("The disk is full")])
def test_what_is_done_is_kept_when_it_ends_early(
    shared: Home, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(user: str) -> None:
        if user == "luca":
            raise error

    after_each(monkeypatch, end)
    with pytest.raises(BaseException, match=None if error is KeyboardInterrupt else "disk"):
        shared.assemble(TASK)
    assert [one.user for one in shared.adapters()] == ["kara"] and not shared.doctor().wrong
    monkeypatch.undo()
    report = shared.assemble(TASK)
    assert users(report) == ["luca", "mona"] and ("kara", UP_TO_DATE) in report.skipped


def test_ctrl_c_within_a_module_ends_it(shared: Home) -> None:
    def interrupt(stage: str, done: float, total: float, note: str = "") -> None:
        if done > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shared.assemble(TASK, progress=interrupt)
    assert shared.adapters() == [] and users(shared.assemble(TASK)) == list(OTHERS)


def test_a_newer_pool_is_taken_by_default_and_an_older_one_by_name(shared: Home) -> None:
    old = shared.pools.ls()[0].digest
    shared.assemble(TASK)
    new = share(shared, seed=3).pool.digest
    assert users(shared.assemble(TASK, users=["kara"])) == ["kara"]
    assert users(shared.assemble(TASK, users=["luca"], pool=new[:10], adapt_steps=2, residual_rank=1)) == ["luca"]
    assert {one.user: one.pool for one in shared.latest_adapters().values()} == {"kara": new, "luca": new, "mona": old}
    assert shared.assemble(TASK, users=["mona"], pool=old).assembled == []
    assert all(answer.answer and not answer.error for answer in ask(shared, *OTHERS))


def test_factors_and_residuals_are_kept_and_answer(shared: Home) -> None:
    shared.assemble(TASK, users=["kara"], combine="factors")
    shared.assemble(TASK, users=["luca"], adapt_steps=3, residual_rank=1)
    shared.assemble(TASK, users=["mona"])
    answers = ask(shared, "luca", "mona", "kara", "luca")
    assert all(one.answer and one.adapter and not one.warning for one in answers)
    assert answers == [ask(shared, one.query.user_id)[0] for one in answers]  # alone, as in company
