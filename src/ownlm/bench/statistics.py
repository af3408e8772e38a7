"""Bootstrap confidence intervals over whole users, since the answers to one user are correlated.

Draws of few users differ too little from each other: their spread is that by n, not n - 1, and their quantiles are
the normal's, not Student's. So tails are stretched:

    stretch = t_.975(U - 1) / 1.96 * sqrt(U / (U - 1))          1.58 for 5 users, 1.17 for 12, 1.04 for 44

Q queries, S sums, U users, D draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

from ownlm.bench.metrics import Array, Metric
from ownlm.errors import DataError

DRAWS: Final = 10_000
FEWEST: Final = 5  # users for an interval: fewer may agree by chance
_TAILS: Final = (0.025, 0.975)  # quantiles of a 95% interval
_POWER: Final = 0.8  # for a detectable difference
_CHUNK: Final = 1 << 21  # counts drawn or added in one step


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric's value with its 95% interval; no interval with fewer than `FEWEST` resampled units."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """A method's metric minus the baseline's, with its 95% interval; None with fewer than `FEWEST` resampled units.

    Attributes:
        detectable: The true difference that data of this size would tell from zero four times out of five; 0 where no
            answers score differently, None without an interval.
    """

    value: float
    low: float | None
    high: float | None
    detectable: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Resampling:
    """Bootstrap draws of whole users, each with all of their queries; all methods share the same draws.

    Attributes:
        user_Q: User of each query.
        count_DU: How often each draw holds each user.
        by: "user"; "query" with one user alone: the intervals are then about that user.
    """

    user_Q: NDArray[np.intp]
    count_DU: NDArray[np.uint8] = field(repr=False)
    by: Literal["user", "query"] = "user"

    @classmethod
    def of(cls, users: Sequence[str], draws: int = DRAWS, seed: int = 0) -> "Resampling":
        """Makes bootstrap draws from each query's user; with one user alone, single queries are drawn.

        Args:
            users: User of each query.

        Raises:
            DataError: There are no queries.

        >>> twice = Resampling.of(["ada", "ada", "bela"], draws=4)
        >>> twice.count_DU.sum(1).tolist()
        [2, 2, 2, 2]
        """
        if not users:
            raise DataError("There are no queries to judge")
        place = {user: number for number, user in enumerate(sorted(set(users)))}
        user_Q = np.array([place[user] for user in users], np.intp)
        if len(place) == 1:
            return cls(np.arange(len(users)), _drawn(len(users), draws, seed), "query")
        return cls(user_Q, _drawn(len(place), draws, seed))

    def estimate(self, metric: Metric, seeds: Sequence[Array]) -> Estimate:
        """Returns a method's metric, averaged over seeds, with a 95% bootstrap interval.

            [v + s q_.025(v* - mean v*),  v + s q_.975(v* - mean v*)]      v* the value in each draw, s the stretch

        The bias of the draws is taken out. It is zero for a mean. Macro-F1 falls with each rare label that a draw
        misses: its plain percentiles are too low, and cover less.

        Args:
            seeds: Terms of the method, term_QS, for each seed.

        Source: ours; percentile bootstrap over clusters (Efron and Tibshirani 1993, chapter 13), centred, and widened
            for few as Hesterberg (2015, arXiv 1411.5279) shows it to be needed.
        """
        value, drawn_D = self._value(metric, seeds), self._drawn_values(metric, seeds)
        if self._drawn_from < FEWEST:
            return Estimate(value, None, None)
        low, high = self._interval(value, drawn_D)
        return Estimate(value, max(low, 0.0), min(high, metric.highest))

    def difference(self, metric: Metric, seeds: Sequence[Array], baseline: Sequence[Array]) -> Difference:
        """Returns a method's metric minus the baseline's, with a 95% interval from the same bootstrap draws.

        Args:
            seeds: term_QS for each seed of the method.
            baseline: term_QS for each seed of the baseline.

        Source: ours; as `estimate`, and wide enough to hold the plain percentiles too. Else one answer of one user
            would count: where many draws miss that user, the quantile is 0, and any noise of the mean moves it off.
        """
        value = self._value(metric, seeds) - self._value(metric, baseline)
        drawn_D = self._drawn_values(metric, seeds) - self._drawn_values(metric, baseline)
        spread = float(drawn_D.std(ddof=1)) if len(drawn_D) > 1 else 0.0
        if self._drawn_from < FEWEST:
            return Difference(value, None, None, None if value or spread else 0.0)
        (low, high), (least, most) = self._interval(value, drawn_D), np.quantile(drawn_D, _TAILS)
        low, high = max(min(low, float(least)), -metric.highest), min(max(high, float(most)), metric.highest)
        return Difference(value, low, high, self._detected * spread)

    @property
    def _drawn_from(self) -> int:
        """Number of users, or of queries of the one user."""
        return int(self.count_DU.shape[1])

    @property
    def _detected(self) -> float:
        """Standard deviations of draws that lie outside the interval of 95% in four of five repetitions."""
        freedom = self._drawn_from - 1
        return float(student.ppf(_TAILS[1], freedom) + student.ppf(_POWER, freedom)) * self._unbiased

    @property
    def _unbiased(self) -> float:
        return float(np.sqrt(self._drawn_from / (self._drawn_from - 1)))

    def _interval(self, value: float, drawn_D: Array) -> tuple[float, float]:
        stretch = student.ppf(_TAILS[1], self._drawn_from - 1) / norm.ppf(_TAILS[1]) * self._unbiased
        low, high = stretch * (np.quantile(drawn_D, _TAILS) - drawn_D.mean())
        return value + min(float(low), 0.0), value + max(float(high), 0.0)

    def _value(self, metric: Metric, seeds: Sequence[Array]) -> float:
        """The mean over seeds of the value on the queries themselves."""
        queries = len(self.user_Q)
        return float(np.mean([metric.finish(self._checked(term_QS).sum(0), queries) for term_QS in seeds]))

    def _drawn_values(self, metric: Metric, seeds: Sequence[Array]) -> Array:
        """The value in each draw: value_D."""
        return np.asarray(np.mean([self._drawn_value(metric, term_QS) for term_QS in seeds], axis=0))

    def _drawn_value(self, metric: Metric, term_QS: Array) -> Array:
        draws, users = self.count_DU.shape
        sum_US = np.zeros((users, term_QS.shape[1] + 1))
        np.add.at(sum_US, self.user_Q, np.pad(term_QS, [(0, 0), (0, 1)], constant_values=1))  # and their number
        value_D, step = np.empty(draws), max(1, _CHUNK // users)
        for first in range(0, draws, step):
            sum_DS = self.count_DU[first : first + step].astype(np.float64) @ sum_US
            value_D[first : first + step] = metric.finish(sum_DS[:, :-1], sum_DS[:, -1])
        return value_D

    def _checked(self, term_QS: Array) -> Array:
        if term_QS.ndim != 2 or len(term_QS) != len(self.user_Q):
            raise DataError(
                "The answers do not fit the queries",
                got=f"terms of shape {list(term_QS.shape)}",
                expected=f"a row for each of {len(self.user_Q)} queries",
            )
        return term_QS


def _drawn(users: int, draws: int, seed: int) -> NDArray[np.uint8]:
    """How often each of U users is among U drawn with replacement. No count comes near 256."""
    random, step = np.random.default_rng(seed), max(1, _CHUNK // users)
    count_DU = np.empty((draws, users), np.uint8)
    for first in range(0, draws, step):
        chunk_DU = count_DU[first : first + step]
        place_DU = random.integers(0, users, size=chunk_DU.shape)
        place_DU += np.arange(len(chunk_DU))[:, None] * users
        chunk_DU[:] = np.bincount(place_DU.ravel(), minlength=chunk_DU.size).reshape(chunk_DU.shape)
    return count_DU
