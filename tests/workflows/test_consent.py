"""Consent through the home; and a home with a pool and recipes: trained in, looked at, forgotten from."""

import shutil
from pathlib import Path

import pytest

from ownlm.errors import ConfigError, NotFoundError, PoolError
from ownlm.home import Home
from ownlm.store.consents import Consent
from ownlm.store.pools import consents, replace_pool
from ownlm.workflows.options import TrainOptions
from ownlm.workflows.plan import train_plan
from ownlm.workflows.selection import UP_TO_DATE, candidates
from tests.community import rows, small_home, write_rows
from tests.sharing import put_pool, put_recipe, sharer_id

FAST = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2}


@pytest.fixture
def home(tmp_path: Path, tiny_base: Path) -> Home:
    return small_home(tmp_path, tiny_base, rows("ada", 4), rows("bela", 4))


def test_consent_is_told_given_and_taken_back(home: Home) -> None:
    assert home.consent("ada") == Consent(user="ada", shares=False) == home.consent("ada", False)
    given = home.consent("ada", True)
    assert given.shares and given.licence == "CC-BY-4.0" and given.since == consents(home.store)["ada"][1]
    assert home.consent("ada") == given and home.consent("bela") == Consent(user="bela", shares=False)
    assert home.consent("ada", True, "only for my team").licence == "only for my team"
    assert home.consent("ada", False) == Consent(user="ada", shares=False) == home.consent("ada", False)
    for share in (None, True, False):
        with pytest.raises(NotFoundError, match="no user 'nobody'"):
            home.consent("nobody", share)
    with pytest.raises(ConfigError, match="licence"):
        home.consent("ada", True, " ")


def test_who_took_consent_back_has_pieces_in_a_pool_until_they_are_withdrawn(home: Home) -> None:
    pool = put_pool(home, "ada", "bela")
    assert home.consent("ada", False) == Consent(user="ada", shares=False, pools=(pool.digest,))
    seen = home.doctor()
    assert not seen.wrong and [step for step in seen.next if "`ownlm pool withdraw ada`" in step]
    assert not [step for step in seen.next if "withdraw bela" in step]
    replace_pool(home.store, pool.digest, None, {}, {}, withdrawn=[sharer_id("ada"), sharer_id("bela")])
    assert home.consent("ada").pools == () and home.forget("ada").records == 4


def test_who_has_a_recipe_is_trained_with_fresh_weights(home: Home) -> None:
    home.train("sorting", users=["bela"], **FAST)
    put_recipe(home, "ada", put_pool(home, "bela"))
    plan = train_plan(home.store, home.task("sorting"), TrainOptions(task="sorting", **FAST))
    ada, bela = candidates(plan)
    assert (ada.last, ada.restarted, ada.skipped, bela.skipped) == (None, False, None, UP_TO_DATE)
    report = home.train("sorting", **FAST)
    assert [(one.user, one.parent) for one in report.trained] == [("ada", None)] and report.restarted == []
    assert [one.method for one in home.adapters("ada")] == ["recipe", "lora"] and not home.doctor().wrong
    assert [one.skipped for one in candidates(plan)] == [UP_TO_DATE] * 2


def test_what_is_no_recipe_is_neither_asked_nor_exported(home: Home, tmp_path: Path) -> None:
    put_recipe(home, "ada", put_pool(home, "bela"))
    with pytest.raises(PoolError, match=r"recipe is damaged.*assemble the user's adapter again"):
        home.export("ada", tmp_path / "out")
    with pytest.raises(PoolError, match="recipe is damaged"):
        home.ask("ada", "thing", "sorting")
    assert not (tmp_path / "out").exists()


def test_the_doctor_looks_at_pools_recipes_and_consents(home: Home) -> None:
    pool = put_pool(home, "bela")
    made = put_recipe(home, "ada", pool)
    home.train("sorting", users=["bela"], **FAST)
    seen = home.doctor()
    assert not seen.wrong and "up to date" in seen.next[0]
    assert (seen.home["recipes"], seen.home["pools"], seen.home["people_who_share"]) == (1, 1, 1)

    home.add_history(write_rows(home.store.folder.parent / "more.jsonl", rows("ada", 6)), "sorting")
    (step,) = home.doctor().next  # of three pieces that it was made of, the pool has one
    assert step == "`ownlm assemble --task sorting --top-k 1`: recipes that are stale or behind 1"
    elsewhere = home.store.folder.parent / "elsewhere"
    Path(pool.folder).rename(elsewhere)
    (finding,) = home.doctor().wrong
    assert f"pool {pool.digest[:12]} of task 'sorting' is not in" in finding.what and "ownlm share" in finding.hint
    elsewhere.rename(pool.folder)
    assert not home.doctor().wrong
    with home.store.database.writing() as db:
        db.exec_driver_sql("DELETE FROM sharers")
        db.exec_driver_sql("DELETE FROM pools")
        db.exec_driver_sql("INSERT INTO consents VALUES ('zoe', 'CC0', '2026')")
        db.exec_driver_sql("UPDATE adapters SET bytes = bytes + 1 WHERE method = 'recipe'")
    wrong = {finding.what: finding.hint for finding in home.doctor().wrong}
    assert wrong == {
        f"The recipe {made.id} of user 'ada' has weights of another size": "`ownlm assemble --task sorting` --user ada",
        f"The recipe {made.id} of user 'ada' is made of a pool that is not in the home":
            "`ownlm assemble --task sorting`",
        "User 'zoe' agreed to share, and has no records": "`ownlm users consent --no-share zoe`",
        "Pools that nothing names, left by a killed run: 1 folders":
            "the next `ownlm share` or `assemble` removes them",
    }  # fmt: skip


def test_a_stale_recipe_is_whole_and_waits_for_the_next(home: Home) -> None:
    pool = put_pool(home, "bela")
    put_recipe(home, "ada", pool)
    home.train("sorting", users=["bela"], **FAST)
    replace_pool(home.store, pool.digest, None, {}, {"a1": "bela withdrew"}, withdrawn=[sharer_id("bela")])
    shutil.rmtree(pool.folder)
    seen = home.doctor()
    assert not seen.wrong and seen.next == ["`ownlm assemble --task sorting`: recipes that are stale or behind 1"]
    put_recipe(home, "ada", put_pool(home, "bela", name="p2"), 2)
    assert [one.id for one in home.adapters("ada")] == ["a2"] and "up to date" in home.doctor().next[0]
