"""Metrics as LaMP defines them, each a function of sums over queries, so that resampling only adds.

Q queries, S sums, L labels; `...` is empty, or draws.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, get_args
from unicodedata import category

import numpy as np
from numpy.typing import NDArray

from ownlm.errors import ConfigError, DataError
from ownlm.history.task import Metric as MetricName
from ownlm.history.task import Task
from ownlm.prompt.words import segmented

Array = NDArray[np.float64]

_LARGEST: Final = 1e100  # largest rating: squares of larger ones overflow
# Letters and numbers of Latin text that rouge_score drops: accented, letter-like symbols, superscripts, fractions.
_DROPPED: Final = (
    "_\u00aa-\u02ff\u1d00-\u1dbf\u1e00-\u1eff\u2070-\u218f\u2460-\u24ff\u2776-\u2793\u2c60-\u2c7f\ua720-\ua7ff"
    "\uab30-\uab6f\ufb00-\ufb06\U0001d400-\U0001d7ff\U0001f100-\U0001f1ff"
)
_ROUGE_WORD: Final = re.compile(rf"[a-z0-9]+|(?![a-z0-9{_DROPPED}])\w[^a-z0-9{_DROPPED}]*")


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: sums over queries, and the value made of them.

        value = finish(sum over queries of term_QS, Q)

    Attributes:
        name: Name, as in `Task.metrics`.
        higher_is_better: Whether higher values are better.
        terms: Terms of each query, (predictions, golds, labels) -> term_QS. Raises a ConfigError where the labels do
            not fit the metric, and a DataError where a gold answer does not fit the labels.
        finish: Value of the sums, (sum_...S, count_...) -> value_...
        highest: Upper bound of the value; the lower bound is 0.
    """

    name: str
    higher_is_better: bool
    terms: Callable[[Sequence[str], Sequence[str], Sequence[str]], Array]
    finish: Callable[[Array, Array | float], Array]
    highest: float = 1.0


def metric(name: str) -> Metric:
    """The metric of that name.

    - accuracy: the share of answers that are the right label; where a task has no labels, the right text.
    - f1_macro: the mean over all labels of 2 TP / (2 TP + FP + FN), 0 for a label that is neither right nor predicted.
      An answer that is no label counts as wrong, in no class.
    - mae, rmse: of numbers. An answer that is no finite number is as wrong as a label can be: it counts as the lowest
      or the highest of them, whichever is farther from the truth.
    - rouge1, rougeL: the mean F-measure by `rouge_score`, without stemming, over the words of `rouge_words`.

    Blanks around answers do not count; case does, but for ROUGE.

    Raises:
        ConfigError: There is no such metric.

    Source: LaMP (arXiv 2304.11406), its released evaluation. Differs: "nan" and "inf", which Python reads as numbers,
    are no ratings; a gold answer that is no label is an error, in LaMP it equals every answer that is no label.

    >>> accuracy = metric("accuracy")
    >>> term_QS = accuracy.terms(["sun ", "rain"], ["sun", "sun"], ["sun", "rain"])
    >>> float(accuracy.finish(term_QS.sum(0), len(term_QS)))
    0.5
    """
    if name not in _METRICS:
        raise ConfigError(f"There is no metric {name!r}", expected=f"one of {', '.join(_METRICS)}")
    return _METRICS[name]


def metrics_of(task: Task) -> tuple[str, ...]:
    """The metrics of a task: those it names, else defaults for labels or for text."""
    return task.metrics or (("accuracy", "f1_macro") if task.labels else ("rouge1", "rougeL"))


def unreadable(predictions: Sequence[str], labels: Sequence[str]) -> int:
    """The number of answers that are no label; for labels that are numbers, that are no number.

    >>> unreadable(["sun ", "sunny"], ["sun", "rain"]), unreadable(["4.0", "9", "five", ""], ["1", "5"])
    (1, 2)
    """
    if not labels:
        return 0
    known = {label.strip() for label in labels}
    if any(_number(label) is None for label in labels):
        return sum(said.strip() not in known for said in predictions)
    return sum(_number(said) is None for said in predictions)


def _accuracy(predictions: Sequence[str], golds: Sequence[str], labels: Sequence[str]) -> Array:
    if labels:
        _places(golds, labels)
    pairs = zip(predictions, golds, strict=True)
    return np.array([[said.strip() == gold.strip()] for said, gold in pairs], np.float64).reshape(-1, 1)


def _f1_counts(predictions: Sequence[str], golds: Sequence[str], labels: Sequence[str]) -> Array:
    """TP, FP and FN of each query for each label."""
    if not labels:
        raise ConfigError("The metric f1_macro needs a task with labels", hint="leave it out of the task's metrics")
    gold_Q = _places(golds, labels)
    place = {label.strip(): number for number, label in enumerate(labels)}
    said_Q = np.array([place.get(said.strip(), -1) for said in predictions], np.intp)
    right_Q, known_Q, query_Q = said_Q == gold_Q, said_Q >= 0, np.arange(len(gold_Q))
    count_Q3L = np.zeros((len(gold_Q), 3, len(labels)))
    count_Q3L[query_Q[right_Q], 0, gold_Q[right_Q]] = 1
    count_Q3L[query_Q[known_Q & ~right_Q], 1, said_Q[known_Q & ~right_Q]] = 1
    count_Q3L[query_Q[~right_Q], 2, gold_Q[~right_Q]] = 1
    return count_Q3L.reshape(len(gold_Q), -1)


def _places(golds: Sequence[str], labels: Sequence[str]) -> NDArray[np.intp]:
    """The index of each right answer among the labels."""
    place = {label.strip(): number for number, label in enumerate(labels)}
    place_Q = np.array([place.get(gold.strip(), -1) for gold in golds], np.intp)
    if unknown := int((place_Q < 0).sum()):
        raise DataError(
            f"{unknown:,} of {len(golds):,} right answers are none of the task's {len(labels)} labels",
            hint="take the labels of these data: a task file that lists them, or the data that carry them",
        )
    return place_Q


def _macro_f1(sum_S: Array, count: Array | float) -> Array:
    tp_L, fp_L, fn_L = np.moveaxis(sum_S.reshape(*sum_S.shape[:-1], 3, -1), -2, 0)
    over_L = 2 * tp_L + fp_L + fn_L
    f1_L: Array = np.divide(2 * tp_L, over_L, out=np.zeros_like(over_L), where=over_L > 0)
    return np.asarray(f1_L.mean(-1))


def _errors(predictions: Sequence[str], golds: Sequence[str], labels: Sequence[str], power: int) -> Array:
    """The error of each rating, to a power."""
    lowest, highest = _scale(labels)
    error_Q = []
    for said, gold in zip(predictions, golds, strict=True):
        truth, rating = _number(gold), _number(said)
        if truth is None:
            raise DataError(
                "A right answer is no number", expected="ratings", hint="metrics mae and rmse are for ratings"
            )
        worst = max(truth - lowest, highest - truth)
        error_Q.append(worst if rating is None else abs(rating - truth))
    return np.array(error_Q, np.float64)[:, None] ** power


def _scale(labels: Sequence[str]) -> tuple[float, float]:
    """The lowest and the highest rating."""
    ratings = [rating for label in labels if (rating := _number(label)) is not None]
    if not ratings or len(ratings) < len(labels):
        raise ConfigError(
            "The metrics mae and rmse need a task with labels that are numbers",
            hint="leave them out of the task's metrics, or write its ratings as labels",
        )
    return min(ratings), max(ratings)


def _number(text: str) -> float | None:
    """The number in a text; None for texts that are no rating.

    >>> _number(" 4.0"), _number("four"), _number("nan"), _number("-inf")
    (4.0, None, None, None)
    """
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) <= _LARGEST else None


def rouge_words(text: str) -> list[str]:
    """The words of a text for ROUGE, in lower case and in Unicode's composed form (NFC).

    - Latin script: `rouge_score`'s own words, runs of a-z and 0-9, so that figures compare with published ones.
    - Scripts without blanks between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese...): single characters.
    - Other scripts: runs of letters, digits and combining marks.

    In a text with none of these, such as emoji alone, each word or symbol outside ASCII counts.

    Source: ours; `rouge_score` drops all but a-z and 0-9, so identical Japanese texts score 0.

    >>> rouge_words("Café, GPT-4の論文; Привет!")
    ['caf', 'gpt', '4', 'の', '論', '文', 'привет']
    """
    words = [part for parts in segmented(text) for part in parts]
    found = [word for part in words for word in _ROUGE_WORD.findall(part)]
    if found or text.isascii():
        return found
    return [word for word in words if word.strip("_")] or [char for char in text if category(char)[0] == "S"]


class _RougeTokenizer:
    def tokenize(self, text: str) -> list[str]:
        return rouge_words(text)


def _rouge(predictions: Sequence[str], golds: Sequence[str], labels: Sequence[str], kind: str) -> Array:
    from rouge_score.rouge_scorer import RougeScorer  # slow to import

    scorer = RougeScorer([kind], tokenizer=_RougeTokenizer())
    pairs = zip(predictions, golds, strict=True)
    scores = [scorer.score(gold.strip(), said.strip())[kind].fmeasure for said, gold in pairs]
    return np.array(scores, np.float64).reshape(-1, 1)


def _mean(sum_S: Array, count: Array | float) -> Array:
    return np.asarray(sum_S[..., 0] / count)


def _root_mean(sum_S: Array, count: Array | float) -> Array:
    return np.asarray(np.sqrt(sum_S[..., 0] / count))


_METRICS: Final[dict[str, Metric]] = {
    one.name: one
    for one in (
        Metric("accuracy", True, _accuracy, _mean),
        Metric("f1_macro", True, _f1_counts, _macro_f1),
        Metric("mae", False, partial(_errors, power=1), _mean, math.inf),
        Metric("rmse", False, partial(_errors, power=2), _root_mean, math.inf),
        Metric("rouge1", True, partial(_rouge, kind="rouge1"), _mean),
        Metric("rougeL", True, partial(_rouge, kind="rougeL"), _mean),
    )
}
assert _METRICS.keys() == set(get_args(MetricName))
