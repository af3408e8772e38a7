"""The same people are chosen whatever the order of candidates, and only such as have enough records."""

from collections.abc import Callable, Sequence
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ownlm.errors import ConfigError, DataError
from ownlm.perpcs.sharers import MIN_RECORDS, Candidate, choose_sharers

HOWS = ("clustered", "active", "random")
people = st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(lambda r: max(r) > MIN_RECORDS)


def candidates(records: Sequence[int]) -> list[Candidate]:
    return [Candidate(f"user {number:02}", count) for number, count in enumerate(records)]


def scattered(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))


def embedder(known: Sequence[Candidate], emb_UD: torch.Tensor) -> Callable[[list[str]], torch.Tensor]:
    """Gives each candidate's row."""
    rows = {one.user: row for one, row in zip(known, emb_UD, strict=True)}
    return lambda users: torch.stack([rows[user] for user in users])


@settings(max_examples=40)
@given(people, st.integers(1, 8), st.integers(-3, 2**40), st.sampled_from(HOWS), st.randoms())
def test_the_order_of_candidates_changes_nothing(
    records: list[int], count: int, seed: int, how: str, random: Random
) -> None:
    known = candidates(records)
    embed = embedder(known, scattered(len(records), seed))
    chosen = choose_sharers(how, known, count, seed, embed)
    assert choose_sharers(how, random.sample(known, len(known)), count, seed, embed) == chosen
    by_user = {one.user: one.records for one in known}
    able = [user for user, has in by_user.items() if has > MIN_RECORDS]
    assert len(chosen) == len(set(chosen)) == min(count, len(able)) and set(chosen) <= set(able)
    assert chosen == sorted(chosen, key=lambda user: (-by_user[user], user))


def test_the_most_active_of_each_cluster_is_chosen() -> None:
    known = [
        *(Candidate("a1", 12), Candidate("a2", 30), Candidate("a3", 30)),  # a tie
        *(Candidate("b1", 99), Candidate("b2", 98)),
        *(Candidate("c1", 10), Candidate("c2", 3)),  # nobody with enough records
        *(Candidate("d1", 11), Candidate("d2", 10)),
    ]
    middles = {"a": (0, 0), "b": (50, 0), "c": (0, 50), "d": (50, 50)}
    embed = embedder(known, torch.tensor([middles[one.user[0]] for one in known]) + scattered(len(known), 0)[:, :2])
    for seed in (-1, 0, 1, 2**40):
        assert choose_sharers("clustered", known, 3, seed, embed) == ["b1", "a2", "d1"]
    assert choose_sharers("active", known, 4, 0) == ["b1", "b2", "a2", "a3"]
    # with room for everybody nobody is left out, though two share a cluster, and nothing is embedded
    assert choose_sharers("clustered", known, 6, 0) == ["b1", "b2", "a2", "a3", "a1", "d1"]


def test_people_with_few_records_shape_no_cluster() -> None:
    known = [Candidate("a", 50), Candidate("b", 40), Candidate("c", 30), *(Candidate(f"few {n}", 1) for n in range(30))]
    embed = embedder(known, torch.tensor([[0.0], [1.0], [4.0], *[[90.0]] * 30]))
    assert choose_sharers("clustered", known, 2, 0, embed) == ["a", "c"]  # the few would be a cluster of their own


def test_clusters_that_could_lie_otherwise_are_the_same_in_any_order() -> None:
    known, random = candidates([20 + n % 7 for n in range(80)]), Random(0)
    embed = embedder(known, scattered(80, 0))
    chosen = choose_sharers("clustered", known, 20, 0, embed)
    assert chosen != choose_sharers("clustered", known, 20, 1, embed)  # there are many ways to part them
    for _ in range(4):
        assert choose_sharers("clustered", random.sample(known, 80), 20, 0, embed) == chosen


@pytest.mark.filterwarnings("error")
def test_as_many_clusters_as_different_histories() -> None:
    known, emb_UD = candidates([20, 21, 22, 23, 24]), torch.tensor([[0.0], [0.0], [0.0], [7.0], [7.0]])
    for embed in (embedder(known, emb_UD), embedder(known, emb_UD.bfloat16())):
        assert choose_sharers("clustered", known, 4, 0, embed) == ["user 04", "user 02"]


def test_the_draw_is_the_seeds_and_gives_everybody_a_chance() -> None:
    known = candidates([20 + n for n in range(10)])
    draws = [choose_sharers("random", known, 3, seed) for seed in range(60)]
    assert draws == [choose_sharers("random", known, 3, seed) for seed in range(60)]
    assert {user for draw in draws for user in draw} == {one.user for one in known}
    assert len(set(map(tuple, draws))) > 30


@pytest.mark.parametrize("how", HOWS)
def test_nobody_with_enough_records(how: str) -> None:
    known = [Candidate("ada", 10), Candidate("bela", 4), *(Candidate(f"u{n:02}", 2) for n in range(20))]
    with pytest.raises(DataError, match=r"ada \(10\), bela \(4\), u00 \(2\).* 12 more users.*more than 10 records"):
        choose_sharers(how, known, 5, 0, embedder(known, scattered(22, 0)))
    with pytest.raises(DataError, match="no user to select"):
        choose_sharers(how, [], 5, 0)


def test_bad_input_is_refused() -> None:
    known = candidates([20, 30])
    with pytest.raises(ConfigError, match="at least 1"):
        choose_sharers("active", known, 0, 0)
    with pytest.raises(ConfigError, match="without embeddings"):
        choose_sharers("clustered", known, 1, 0)
    with pytest.raises(DataError, match="a row for each of 2"):
        choose_sharers("clustered", known, 1, 0, lambda users: torch.zeros(3, 2))
    with pytest.raises(DataError, match="'user 01' has an embedding that is not finite"):
        choose_sharers("clustered", known, 1, 0, embedder(known, torch.tensor([[0.0, 1.0], [float("nan"), 0.0]])))
