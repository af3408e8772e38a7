import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from ownlm.bench.metrics import Array, metric
from ownlm.bench.statistics import Estimate, Resampling
from ownlm.errors import DataError

ACCURACY, MAE, F1 = metric("accuracy"), metric("mae"), metric("f1_macro")
LABELS = [f"label {n}" for n in range(15)]


def users(people: int, each: int = 1) -> list[str]:
    return [f"u{person}" for person in range(people) for _ in range(each)]


def right(values: object) -> Array:
    return np.asarray(values, np.float64)[:, None]


def some(queries: int, share: float, seed: int) -> Array:
    return right(np.random.default_rng(seed).random(queries) < share)


def answers(queries: int, share: float, seed: int) -> Array:
    """Terms of macro-F1."""
    random = np.random.default_rng(seed)
    golds = random.choice(LABELS, queries)
    said = np.where(random.random(queries) < share, golds, random.choice(LABELS, queries))
    return F1.terms(said.tolist(), golds.tolist(), LABELS)


def stretched(interval: tuple[float, float], value: float, people: int) -> list[float]:
    """A plain percentile interval, as wide as Student's t asks for."""
    factor = scipy.stats.t.ppf(0.975, people - 1) / 1.959964 * (people / (people - 1)) ** 0.5
    return [value + factor * (bound - value) for bound in interval]


@pytest.mark.parametrize("people", [5, 8])
def test_nineteen_of_twenty_intervals_hold_the_truth(people: int) -> None:
    """Two methods that are equally good, people who are not: where there is no difference, one in twenty is marked."""
    random = np.random.default_rng(people)
    draws = Resampling.of(users(people, 3), draws=800)

    def said() -> Array:
        return right(random.random(3 * people) < random.beta(2, 2, people).repeat(3))

    differences = [draws.difference(ACCURACY, [said()], [said()]) for _ in range(400)]
    marked = sum(not one.low <= 0 <= one.high for one in differences)
    assert 0.02 < marked / 400 < 0.07  # plain percentiles mark .148 of 5 people, and .080 of 8


def test_of_fewer_than_five_people_there_is_no_interval() -> None:
    draws, one, other = Resampling.of(users(4, 2)), right([1] * 8), right([0] * 8)
    assert draws.estimate(ACCURACY, [one]) == Estimate(1, None, None)
    difference = draws.difference(ACCURACY, [one], [other])
    assert (difference.value, difference.low, difference.high) == (1, None, None)
    assert Resampling.of(["ada"] * 5).estimate(ACCURACY, [right([1] * 5)]) == Estimate(1, 1, 1)  # of five queries


@pytest.mark.parametrize("errors", [False, True])
def test_the_interval_is_scipys_where_each_user_asks_once(errors: bool) -> None:
    random = np.random.default_rng(5)
    value_Q = random.exponential(size=200) if errors else random.random(200) < 0.7
    estimate = Resampling.of(users(200)).estimate(MAE if errors else ACCURACY, [right(value_Q)])
    sample, how = (np.asarray(value_Q, np.float64),), {"n_resamples": 20_000, "method": "percentile", "rng": random}
    expected = scipy.stats.bootstrap(sample, np.mean, **how)
    assert estimate.value == pytest.approx(value_Q.mean(), abs=1e-12)
    noise = 0.1 * expected.standard_error  # some standard errors of a quantile of so many draws
    wide = stretched(expected.confidence_interval, estimate.value, 200)
    assert [estimate.low, estimate.high] == pytest.approx(wide, abs=noise)


def test_a_difference_is_paired_and_scipys() -> None:
    random = np.random.default_rng(6)
    shared_Q = random.exponential(size=300)  # what is hard for one method is so for the other
    one, other = (right(shared_Q + random.normal(size=300) / 4) for _ in range(2))
    difference = Resampling.of(users(300)).difference(MAE, [one], [other])
    sample = (one[:, 0] - other[:, 0],)
    expected = scipy.stats.bootstrap(sample, np.mean, n_resamples=20_000, method="percentile", rng=random)
    assert difference.value == pytest.approx(sample[0].mean(), abs=1e-12)
    noise = 0.1 * expected.standard_error
    wide = stretched(expected.confidence_interval, difference.value, 300)
    assert [difference.low, difference.high] == pytest.approx(wide, abs=noise)
    assert difference.detectable == pytest.approx(2.815 * expected.standard_error, rel=0.03)


def test_the_draws_of_whole_people_are_a_naive_loops() -> None:
    of, term_QS = users(6, 3), answers(18, 0.5, 3)
    resampling = Resampling.of(of, draws=50)
    estimate = resampling.estimate(F1, [term_QS])
    values = []
    for count_U in resampling.count_DU:
        picked = [q for user in range(6) for _ in range(count_U[user]) for q in range(3 * user, 3 * user + 3)]
        assert len(picked) == 18
        values.append(float(F1.finish(term_QS[picked].sum(0), 18)))
    low, high = estimate.value + np.quantile(values, [0.025, 0.975]) - np.mean(values)
    wide = stretched((low, high), estimate.value, 6)
    assert [estimate.low, estimate.high] == pytest.approx(wide, abs=1e-6)


def test_every_person_is_drawn_as_often() -> None:
    count_DU = Resampling.of(users(40)).count_DU
    assert (count_DU.sum(1) == 40).all()
    assert count_DU.mean(0) == pytest.approx(np.ones(40), abs=0.06)  # six standard errors
    assert count_DU.astype(float).var(0) == pytest.approx(np.full(40, 1 - 1 / 40), abs=0.15)


def test_intervals_are_wider_where_a_users_queries_agree() -> None:
    person = some(100, 0.6, 4)
    alike, apart = np.repeat(person, 10, axis=0), np.tile(person, (10, 1))
    wide, narrow = (Resampling.of(users(100, 10)).estimate(ACCURACY, [term]) for term in (alike, apart))
    alone = Resampling.of(users(1000)).estimate(ACCURACY, [alike])
    assert wide.value == narrow.value == alone.value
    assert wide.high - wide.low > 2.5 * (alone.high - alone.low)
    once = Resampling.of(users(100)).estimate(ACCURACY, [person])
    assert (wide.low, wide.high) == pytest.approx((once.low, once.high), abs=1e-9)


@pytest.mark.parametrize("one", [ACCURACY, F1])
def test_a_method_less_itself_is_exactly_nothing(one: object) -> None:
    term_QS = some(60, 0.5, 1) if one is ACCURACY else answers(60, 0.5, 1)
    difference = Resampling.of(users(20, 3)).difference(one, [term_QS, term_QS], [term_QS])  # type: ignore[arg-type]
    assert (difference.value, difference.low, difference.high, difference.detectable) == (0, 0, 0, 0)


def test_seeds_are_averaged() -> None:
    resampling, terms = Resampling.of(users(50, 2)), [some(100, share, 1) for share in (0.4, 0.9)]
    one, other = (resampling.estimate(ACCURACY, [term]) for term in terms)
    both = resampling.estimate(ACCURACY, terms)
    assert both.value == pytest.approx((one.value + other.value) / 2, abs=1e-12)
    assert one.value < both.low < both.high < other.value
    assert resampling.estimate(ACCURACY, terms[::-1]).value == both.value


def test_the_order_of_queries_is_irrelevant_and_the_seed_is_not() -> None:
    of, term_QS = users(30, 4), answers(120, 0.6, 8)
    place_Q = np.random.default_rng(0).permutation(120)
    mixed = Resampling.of([of[place] for place in place_Q]).estimate(F1, [term_QS[place_Q]])
    once, again = (Resampling.of(of).estimate(F1, [term_QS]) for _ in range(2))
    assert once == again == mixed
    assert Resampling.of(of, seed=1).estimate(F1, [term_QS]) != once


def test_macro_f1s_draws_are_too_low_and_the_interval_is_not() -> None:
    """A label that only one person uses is missed by a third of the draws."""
    of, golds = users(15, 4), [label for label in LABELS for _ in range(4)]
    said = [gold if place % 4 else LABELS[0] for place, gold in enumerate(golds)]
    term_QS = F1.terms(said, golds, LABELS)
    resampling = Resampling.of(of)
    estimate, drawn_D = resampling.estimate(F1, [term_QS]), resampling._drawn_values(F1, [term_QS])
    assert np.quantile(drawn_D, 0.975) < estimate.value < estimate.high
    assert estimate.low < estimate.value


@given(st.lists(st.tuples(st.sampled_from("abcdefg"), st.booleans()), min_size=1, max_size=30))
def test_the_value_lies_in_its_interval_and_that_in_its_range(pairs: list[tuple[str, bool]]) -> None:
    resampling = Resampling.of([user for user, _ in pairs], draws=20)
    for one in (ACCURACY, metric("rmse")):
        estimate = resampling.estimate(one, [right([hit for _, hit in pairs])])
        if estimate.low is None:
            assert len({user for user, _ in pairs}) < 5
            continue
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1 + (one is not ACCURACY)


def test_one_users_queries_are_drawn_one_by_one() -> None:
    term_QS = some(40, 0.5, 2)
    alone = Resampling.of(["ada"] * 40)
    assert (alone.by, Resampling.of(["ada", "bela"]).by) == ("query", "user")
    assert alone.estimate(ACCURACY, [term_QS]) == Resampling.of([f"{n:02}" for n in range(40)]).estimate(
        ACCURACY, [term_QS]
    )
    assert Resampling.of(["ada"]).estimate(ACCURACY, [right([1])]) == Estimate(1, None, None)


def test_nothing_to_judge_and_answers_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="no queries"):
        Resampling.of([])
    for wrong in (right([1, 1]), np.ones(3)):
        with pytest.raises(DataError, match="do not fit"):
            Resampling.of(users(3)).estimate(ACCURACY, [wrong])


def test_many_people_are_drawn_in_chunks() -> None:
    of, term_QS = users(2500, 2), answers(5000, 0.6, 9)
    resampling = Resampling.of(of)
    assert resampling.count_DU.nbytes == 25_000_000
    estimate = resampling.estimate(F1, [term_QS])
    assert 0.01 < estimate.high - estimate.low < 0.04


@pytest.mark.parametrize("people", [6, 16, 22, 40])
def test_one_answer_of_one_person_tells_nothing(people: int) -> None:
    term_QS = np.zeros((5 * people, 1))
    other_QS = term_QS.copy()
    other_QS[0] = 1
    accuracy, draws = metric("accuracy"), Resampling.of([f"u{n // 5}" for n in range(5 * people)])
    assert draws.difference(accuracy, [other_QS], [term_QS]).low <= 0
    assert draws.difference(accuracy, [term_QS], [other_QS]).high >= 0
