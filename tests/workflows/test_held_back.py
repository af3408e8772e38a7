"""Results on held-back records: measured beside training, which they do not change."""

from pathlib import Path

import pytest

from ownlm.home import Home
from ownlm.workflows.adapters import HeldBack, Worth, worth_of
from ownlm.workflows.train import LEAST, LEAST_IN_ALL
from tests.community import home_on, rows, small_home, write_rows

FAST = {"epochs": 12, "batch_size": 4, "learning_rate": 2e-2}


@pytest.fixture
def home(tmp_path: Path, tiny_base: Path) -> Home:
    ada = [row | {"folder": "bin"} for row in rows("ada", 20)]
    return small_home(tmp_path, tiny_base, ada, rows("few", LEAST_IN_ALL - 1))


def more(home: Home, folder: Path, count: int, upto: int) -> None:
    ada = [row | {"folder": "bin"} for row in rows("ada", count, first=upto)]
    home.add_history(write_rows(folder / "more.jsonl", ada), "sorting")


def test_a_regular_user_is_judged_by_records_that_a_trial_had_not_seen(home: Home, tmp_path: Path) -> None:
    report = home.train("sorting", held_back=True, **FAST)
    ada = home.latest_adapters()["sorting", "ada"]
    measured = ada.provenance["held_back"]
    assert (measured["how"], measured["records"]) == ("trial", LEAST)
    assert measured["adapter"] < measured["base"] and measured["low"] > 0
    known = worth_of(ada)
    assert (known.verdict, known.records) == ("better", LEAST) and f"{measured['adapter']:.3f} with it" in known.words
    assert {one.user: one.verdict for one in report.trained} == {"ada": "better", "few": None}
    assert "held_back" not in home.latest_adapters()["sorting", "few"].provenance

    more(home, tmp_path, 6, upto=20)
    home.train("sorting", held_back=True, **FAST)
    later = home.latest_adapters()["sorting", "ada"]
    measured = later.provenance["held_back"]
    assert later.parent == ada.id and (measured["how"], measured["records"]) == ("last", 6)
    assert worth_of(later).verdict == "better"


def test_adapters_are_the_same_whether_it_is_measured_or_not(home: Home, tmp_path: Path, tiny_base: Path) -> None:
    other = home_on(tiny_base, tmp_path / "other")
    other.add_history(tmp_path / "people.jsonl", str(tmp_path / "sorting.toml"))
    home.train("sorting", users=["ada"], held_back=True, **FAST)
    other.train("sorting", users=["ada"], **FAST)
    one, two = (each.latest_adapters()["sorting", "ada"] for each in (home, other))
    assert home.store.weights(one) == other.store.weights(two) and one.key == two.key
    assert one.loss_last == two.loss_last and "held_back" not in two.provenance


def test_the_interval_is_students(home: Home) -> None:
    from scipy.stats import ttest_rel

    base, adapter = [2.0, 1.0, 3.0, 2.5, 1.5], [1.0, 1.2, 1.9, 2.0, 1.1]
    told = HeldBack.of("trial", base, adapter)
    wanted = ttest_rel(base, adapter).confidence_interval(0.95)
    assert (told.low, told.high) == pytest.approx((wanted.low, wanted.high), abs=1e-4)
    assert (told.base, told.adapter, told.gain) == pytest.approx((2.0, 1.44, 0.56), abs=1e-4)


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.1, 0.9, "better"), (-0.9, -0.1, "worse"), (-0.1, 0.9, "unclear")]
)
def test_a_verdict_needs_an_interval_on_one_side(low: float, high: float, verdict: str, home: Home) -> None:
    from ownlm.workflows.adapters import worth

    measured = {"how": "trial", "records": 8, "base": 2.0, "adapter": 1.5, "gain": 0.5, "low": low, "high": high}
    known = worth(4, 7.9, 7.8, {"held_back": measured})  # what was held back goes before few steps
    assert (known.verdict, known.records) == (verdict, 8)


def test_without_held_back_records_there_is_no_verdict_but_of_training_that_hardly_moved() -> None:
    from ownlm.workflows.adapters import worth

    assert worth(4, 0.95, 0.07, {}).verdict is None and "not tried" in worth(4, 0.95, 0.07, {}).words
    assert worth(4, 7.9, 7.3, {}).verdict == "little"
    assert worth(400, 7.9, 7.3, {}).verdict is None
    assert worth(4, 7.9, 7.3, {}, parent="an id").verdict is None
    assert worth(0, None, None, {}) == Worth()
    chosen = worth(9, 2.0, 1.0, {"held_back_losses": {"base": 2.0, "adapted": 1.0}, "kept": "adapted"})
    assert chosen.verdict is None and "chosen by" in chosen.words
