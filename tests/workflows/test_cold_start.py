"""The cold-start ladder: who stands on which rung, and that the verbs below it do the work."""

from pathlib import Path

import pytest

from ownlm.errors import ConfigError, NotFoundError
from ownlm.home import Home
from ownlm.workflows.cold_start import ADAPT_FROM, OWN_FROM, cold_start_plan, place, tier_for
from ownlm.workflows.options import TrainOptions
from ownlm.workflows.plan import train_plan
from ownlm.workflows.report import ColdStart, Placed, Tier
from ownlm.workflows.selection import FORGOTTEN, UP_TO_DATE
from tests.community import rows, small_home, write_rows

FAST = {"epochs": 1, "batch_size": 16}
FEW, MORE, SHARERS = "few", "more", ("ada", "bela", "ciro")


@pytest.fixture
def home(tmp_path: Path, tiny_base: Path) -> Home:
    sharers = [rows(user, 12) for user in SHARERS]
    return small_home(tmp_path, tiny_base, *sharers, rows(FEW, 4), rows(MORE, 5), rows("many", OWN_FROM))


def share(home: Home) -> None:
    for user in SHARERS:
        home.consent(user, True)
    home.pools.share("sorting", users=SHARERS, select="active", steps=1, gate_steps=1)


def placed(home: Home, pool: str | None = None, **asked: object) -> dict[str, Placed]:
    own = train_plan(home.store, home.task("sorting"), TrainOptions(task="sorting", **asked, **FAST))
    return {one.user: one for one in place(cold_start_plan(own, pool))}


def rungs(home: Home, **asked: object) -> dict[str, Tier]:
    return {user: one.tier for user, one in placed(home, **asked).items()}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("records", "sharer", "no_assembly", "rung"),
    [
        (0, False, None, "base"),
        (0, True, "no pool", "base"),
        (1, False, None, "assembled"),
        (ADAPT_FROM - 1, False, None, "assembled"),
        (ADAPT_FROM, False, None, "adapted"),
        (OWN_FROM - 1, False, None, "adapted"),
        (OWN_FROM, False, None, "own"),
        (10, True, None, "adapted"),
        (11, True, None, "own"),
        (1, False, "no pool", "own"),
        (OWN_FROM - 1, False, "no pool", "own"),
    ],
)
def test_the_rung_of_so_many_records(records: int, sharer: bool, no_assembly: str | None, rung: Tier) -> None:
    assert tier_for(records, sharer, no_assembly)[0] == rung


def test_the_ladder_places_only_the_selected(home: Home) -> None:
    share(home)
    dry = home.ladder("sorting", dry_run=True, top=2, **FAST)
    assert {one.user: one.tier for one in dry.placed} == {"ada": "own", "many": "own"}
    reason = "not among the top 2 by number of records"
    assert dry.training.skipped == [(user, reason) for user in ("bela", "ciro", FEW, MORE)]
    report = home.ladder("sorting", min_records=5, top=1, users=[FEW, MORE], **FAST)
    assert [one.user for one in report.assemblies.assembled] == [MORE] and not report.training.trained
    assert report.training.skipped == [(FEW, "fewer than 5 records")]
    assert home.ladder("sorting", min_records=99, **FAST).placed == []


def test_everybody_gets_what_their_records_are_enough_for_and_then_is_up_to_date(home: Home) -> None:
    share(home)
    report = home.ladder("sorting", **FAST)
    own = [*SHARERS, "many"]
    assert {one.user: (one.records, one.tier) for one in report.placed} == {
        **dict.fromkeys(SHARERS, (12, "own")), FEW: (4, "assembled"), MORE: (5, "adapted"), "many": (50, "own")
    }  # fmt: skip
    assert [one.user for one in report.assemblies.assembled] == [FEW, MORE]
    assert sorted(one.user for one in report.training.trained) == own
    kept = {one.user: one.kept for one in report.assemblies.assembled}
    assert kept[FEW] is None and kept[MORE] in ("base", "assembled", "adapted")
    assert {user: adapter.is_recipe for (_, user), adapter in home.latest_adapters().items()} == {
        **dict.fromkeys(own, False), FEW: True, MORE: True
    }  # fmt: skip
    again = home.ladder("sorting", **FAST)
    assert {one.user: one.tier for one in again.placed} == {one.user: one.tier for one in report.placed}
    assert again.assemblies.skipped == [(FEW, UP_TO_DATE), (MORE, UP_TO_DATE)]
    assert again.training.skipped == [(user, UP_TO_DATE) for user in own]
    assert not again.training.trained and not again.assemblies.assembled


def test_who_stands_higher_stays_unless_they_are_named(home: Home) -> None:
    home.train("sorting", users=[FEW], **FAST)
    share(home)
    home.assemble("sorting", users=[MORE], adapt_steps=1)
    assert rungs(home)[FEW] == "own" and placed(home)[FEW].why.startswith("stands there already; fewer than 5")
    assert rungs(home, users=[FEW]) == {FEW: "assembled"}
    home.forget_record(MORE, f"{MORE}-0")  # what has learnt from it is to be replaced
    assert rungs(home)[MORE] == "assembled"


def test_who_climbs_is_assembled_then_adapted_then_trained(home: Home) -> None:
    share(home)
    climbed = []
    for count in (0, 1, OWN_FROM - 5):
        if count:
            more = rows(FEW, count, first=4 if count == 1 else 5)
            home.add_history(write_rows(home.store.folder.parent / f"{count}.jsonl", more), "sorting")
        home.ladder("sorting", users=[FEW], **FAST)
        last = home.latest_adapters()["sorting", FEW]
        climbed.append((last.records, last.is_recipe and last.provenance["assembly"]["adapt_steps"] > 0, last.method))
    assert climbed == [(4, False, "recipe"), (5, True, "recipe"), (50, False, "lora")]


def test_without_a_pool_or_with_too_small_a_one_everybody_is_trained_and_told_so(home: Home) -> None:
    found = placed(home)
    assert {one.tier for one in found.values()} == {"own"} and "there is no pool" in found[MORE].why
    with pytest.raises(NotFoundError, match="no pool beef"):
        placed(home, pool="beef")
    home.consent("ada", True)
    home.pools.share("sorting", select="active", steps=1, gate_steps=1)
    assert "has 1 of the 3 sharers" in placed(home)[MORE].why and rungs(home)[FEW] == "own"
    report = home.ladder("sorting", users=[FEW], **FAST)
    assert [one.user for one in report.training.trained] == [FEW] and not report.assemblies.assembled


def test_only_records_that_can_be_learnt_from_count(home: Home) -> None:
    share(home)
    assert rungs(home, since="1004")[MORE] == "assembled" and rungs(home, since="1004")[FEW] == "base"
    assert rungs(home, recent=4)["many"] == "assembled"
    later = placed(home, since="9999")
    assert {(one.records, one.tier) for one in later.values()} == {(0, "base")}
    report = home.ladder("sorting", since="9999", **FAST)
    assert not report.training.trained and not report.assemblies.assembled


def test_outsiders_stay_with_the_base_unless_they_are_named(home: Home) -> None:
    home.adapt("adapted", "sorting", users=["many"], epochs=1, batch_size=16)
    assert rungs(home)["many"] == "base" and "has learnt from these records" in placed(home)["many"].why
    assert rungs(home, users=["many"]) == {"many": "own"}
    share(home)
    assert rungs(home)[FEW] == "assembled"  # a pool for this base
    assert rungs(home, base="tiny")[FEW] == "own"  # none for that one


def test_who_is_named_and_unknown_or_without_records_of_the_task(home: Home) -> None:
    with pytest.raises(NotFoundError, match="nobody"):
        home.ladder("sorting", users=[FEW, "nobody"], **FAST)
    assert home.adapters() == []
    home.add_history(
        write_rows(home.store.folder.parent / "text.jsonl", [{"user_id": "zoe", "text": "words"}]), "free-text"
    )
    report = home.ladder("sorting", users=["zoe"], **FAST)
    assert report.placed == [Placed("zoe", 0, "base", "no record to learn from")]


def test_somebody_forgotten_after_they_were_placed_is_told_of_and_the_others_go_on(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    share(home)
    load = home.load

    def meanwhile(*asked: object) -> object:  # the first to be assembled is being assembled
        if home.store.knows("sorting", "many"):
            home.forget("many")
        return load(*asked)  # type: ignore[arg-type]

    monkeypatch.setattr(home, "load", meanwhile)
    report = home.ladder("sorting", report=ColdStart(), **FAST)
    assert ("many", FORGOTTEN) in report.training.skipped
    assert sorted(one.user for one in report.training.trained) == list(SHARERS)


def test_a_setting_that_is_wrong_places_nobody(home: Home) -> None:
    report = ColdStart()
    with pytest.raises(ConfigError):
        home.ladder("sorting", report=report, epochs=0)
    assert report.placed == [] and home.adapters() == []
