# ruff: noqa: RUF001
import math
from collections.abc import Sequence
from functools import cache
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, root_mean_squared_error

from ownlm.bench.metrics import metric, metrics_of, rouge_words
from ownlm.errors import ConfigError, DataError
from ownlm.history.task import Metric, load_task

LABELS = ("arts", "u.s. news", "Sport", "política", "天气")
RATINGS = ("1", "2", "3", "4", "5")

odd = st.one_of(st.sampled_from(["", " ", "ARTS", "arts, Sport", "news", "0"]), st.text(max_size=6))
said = st.one_of(st.sampled_from(LABELS), st.sampled_from(LABELS).map(" {}\n".format), odd)
answered = st.lists(st.tuples(said, st.sampled_from(LABELS)), min_size=1, max_size=30)
numbers = st.one_of(st.integers(-9, 9).map(str), st.floats(-1e9, 1e9).map(str), st.just(" 4 \n"))
unreadable = st.sampled_from(["", " ", "nan", "NaN", "inf", "-inf", "1e999", "four", "4 stars", "3/5", "1,5", "★★★"])
rated = st.lists(st.tuples(st.one_of(numbers, unreadable), st.sampled_from(RATINGS)), min_size=1, max_size=20)
texts = st.text(st.sampled_from("aab c  Déé½ß’.-\n"), max_size=30)
written = st.lists(st.tuples(texts, texts), min_size=1, max_size=10)


def value(name: str, pairs: Sequence[tuple[str, str]], labels: Sequence[str] = ()) -> float:
    one = metric(name)
    term_QS = one.terms(*zip(*pairs, strict=True), labels)
    assert term_QS.shape[0] == len(pairs) and term_QS.dtype == np.float64
    return float(one.finish(term_QS.sum(0), len(pairs)))


@cache
def scorer(name: str) -> RougeScorer:
    return RougeScorer([name], use_stemmer=False)


@settings(max_examples=50)  # scikit-learn takes its time over texts
@given(answered)
def test_labels_are_judged_as_by_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    predictions, golds = [said.strip() for said, _ in pairs], [gold for _, gold in pairs]
    assert value("accuracy", pairs, LABELS) == pytest.approx(accuracy_score(golds, predictions), abs=1e-12)
    expected = f1_score(golds, predictions, labels=LABELS, average="macro", zero_division=0)
    assert value("f1_macro", pairs, LABELS) == pytest.approx(expected, abs=1e-12)


@given(rated)
def test_ratings_are_judged_as_by_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    golds, ratings = [float(gold) for _, gold in pairs], []
    for said, gold in pairs:
        try:
            rating = float(said)
        except ValueError:
            rating = math.nan
        ratings.append(rating if math.isfinite(rating) else 1.0 if abs(1 - float(gold)) > abs(5 - float(gold)) else 5.0)
    assert value("mae", pairs, RATINGS) == pytest.approx(mean_absolute_error(golds, ratings), rel=1e-12)
    assert value("rmse", pairs, RATINGS) == pytest.approx(root_mean_squared_error(golds, ratings), rel=1e-12)


@pytest.mark.parametrize("name", ["rouge1", "rougeL"])
@given(pairs=written)
def test_texts_are_judged_as_by_rouge_score(name: str, pairs: list[tuple[str, str]]) -> None:
    pairs = [(f"{said} a", f"{gold} b") for said, gold in pairs]  # of a text without a-z, other letters count
    expected = [scorer(name).score(gold, said)[name].fmeasure for said, gold in pairs]
    assert value(name, pairs) == pytest.approx(np.mean(expected), abs=1e-12)


@given(st.text(st.characters(max_codepoint=127)), st.text(st.characters(max_codepoint=127)))
def test_ascii_texts_are_judged_as_by_rouge_score(said: str, gold: str) -> None:
    for name in ("rouge1", "rougeL"):
        assert value(name, [(said, gold)]) == scorer(name).score(gold.strip(), said.strip())[name].fmeasure


# A text; another, of the same script; ROUGE-1 and ROUGE-L of the two, by hand: 2 matches / (words of both).
SCRIPTS = [
    ("昨日は雨が降った", "昨日は雪が降った", 14 / 16, 14 / 16),
    ("雨が降る", "雨降る", 6 / 7, 6 / 7),
    ("カタカナ", "ナカタカ", 1, 6 / 8),
    ("ＡＩとﾃﾞｰﾀ", "AIとデータ", 1, 1),
    ("今天下雨，很冷", "今天下雪，很冷", 10 / 12, 10 / 12),
    ("GPT-4の論文", "GPT-4 論文", 8 / 9, 8 / 9),
    ("葛󠄀城", "葛城", 1, 1),
    ("Сегодня идёт дождь", "дождь идёт", 4 / 5, 2 / 5),
    ("и\u0306од", "йод", 1, 1),
    ("Об’єкт готовий", "об’єкт не готовий", 6 / 7, 6 / 7),
    ("ΔΕΛΤΑ ΟΔΟΣ", "δέλτα οδος", 2 / 4, 2 / 4),
    ("שלום עולם", "שלום לכולם", 2 / 4, 2 / 4),
    ("\u200fשלום\u200e", "שלום", 1, 1),
    ("الطقس ممطر اليوم", "الطقس مشمس اليوم", 4 / 6, 4 / 6),
    ("می\u200cخواهم", "می خواهم", 1, 1),
    ("हिन्दी भाषा", "हिन्दू भाषा", 2 / 4, 2 / 4),
    ("বাংলা", "বাংলা", 1, 1),
    ("தமிழ் மொழி", "தமிழ்", 2 / 3, 2 / 3),
    ("สวัสดี", "สวัดี", 6 / 7, 6 / 7),
    ("ສະບາຍດີ", "ສະບາຍດີ", 1, 1),
    ("សួស្តី", "សួស្តី", 1, 1),
    ("မင်္ဂလာပါ", "မင်္ဂလာပါ", 1, 1),
    ("오늘은 비가 온다", "오늘은 눈이 온다", 4 / 6, 4 / 6),
    ("\u1112\u1161\u11ab국", "한국", 1, 1),
    ("ქართული ენა", "ენა", 2 / 3, 2 / 3),
    ("አማርኛ", "አማርኛ", 1, 1),
    ("Hayeren հայերեն", "հայերեն", 2 / 3, 2 / 3),
    ("cafe\u0301", "café", 1, 1),
    ("Vie\u0302\u0323t Nam", "Việt Nam", 1, 1),
    ("Żółć", "Żółć", 1, 1),
    ("Żółć", "Łąka", 0, 0),
    ("👍🎉", "👍", 2 / 3, 2 / 3),
    ("👍", "👎", 0, 0),
    ("👍", "Great", 0, 0),
    ("", "", 0, 0),
    ("...", "...", 0, 0),
    ("。", "。", 0, 0),
]


@pytest.mark.parametrize(("said", "gold", "rouge1", "rouge_l"), SCRIPTS)
def test_texts_of_every_script_are_judged(said: str, gold: str, rouge1: float, rouge_l: float) -> None:
    for one, other in ((said, gold), (gold, said)):
        assert value("rouge1", [(one, other)]) == pytest.approx(rouge1)
        assert value("rougeL", [(one, other)]) == pytest.approx(rouge_l)
    assert value("rougeL", [(said, said)]) == (1 if rouge_words(said) else 0)


@pytest.mark.parametrize("name", get_args(Metric))
@given(data=st.data())
def test_terms_sum_up_whatever_the_grouping(name: str, data: st.DataObject) -> None:
    labels: Sequence[str] = RATINGS if name in ("mae", "rmse") else () if name.startswith("rouge") else LABELS
    pairs = data.draw(rated if labels is RATINGS else answered if labels else written)
    parts = data.draw(st.lists(st.integers(0, 3), min_size=len(pairs), max_size=len(pairs)))
    one, sums, count = metric(name), 0.0, 0
    for part in sorted(set(parts)):
        group = [pair for pair, place in zip(pairs, parts, strict=True) if place == part]
        sums = sums + one.terms(*zip(*group, strict=True), labels).sum(0)
        count += len(group)
    assert float(one.finish(np.asarray(sums), count)) == pytest.approx(value(name, pairs, labels), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", get_args(Metric))
def test_many_sums_are_finished_at_once(name: str) -> None:
    labels = RATINGS if name in ("mae", "rmse") else ()
    pairs = [("4", "5"), ("2", "2"), ("x", "1"), ("3", "4")]
    one = metric(name)
    term_QS = one.terms(*zip(*pairs, strict=True), labels or RATINGS)
    some = np.stack([term_QS[:2].sum(0), term_QS[2:].sum(0), term_QS.sum(0)])
    values = one.finish(some, np.array([2.0, 2.0, 4.0]))
    expected = [value(name, part, labels or RATINGS) for part in (pairs[:2], pairs[2:], pairs)]
    assert values.tolist() == pytest.approx(expected, abs=1e-12)
    assert one.higher_is_better == (name not in ("mae", "rmse"))


def test_an_unreadable_rating_is_as_wrong_as_can_be() -> None:
    for said in ("nan", "-inf", "", "five"):
        assert [value("mae", [(said, gold)], RATINGS) for gold in RATINGS] == [4, 3, 2, 3, 4]
    assert value("rmse", [("nan", "2"), ("2", "2")], ("4", "2")) == pytest.approx(math.sqrt(2))
    assert value("mae", [("9" * 200, "5")], RATINGS) == 4  # its square would be infinite


def test_an_absent_label_counts_and_case_does() -> None:
    assert value("f1_macro", [("arts", "arts")], LABELS) == pytest.approx(1 / 5)
    assert value("accuracy", [("sport", "Sport"), ("arts\n", "arts")], LABELS) == 0.5
    assert value("accuracy", [(" as I see it", "as I see it "), ("", "x")]) == 0.5  # a task without labels


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ConfigError, match="no metric 'bleu'"):
        metric("bleu")
    with pytest.raises(ConfigError, match="labels"):
        value("f1_macro", [("a", "b")])
    for name in ("mae", "rmse"):
        for labels in ((), ("1", "best")):
            with pytest.raises(ConfigError, match="numbers"):
                value(name, [("1", "1")], labels)
        with pytest.raises(DataError, match="no number") as caught:
            value(name, [("1", "Sssecret")], RATINGS)
        assert "Sssecret" not in str(caught.value)
    for name in ("accuracy", "f1_macro"):
        with pytest.raises(DataError, match="1 of 2 right answers") as caught:
            value(name, [("Sssecret", "Sssecret"), ("arts", "arts")], LABELS)
        assert "Sssecret" not in str(caught.value)


def test_a_task_without_metrics_gets_some() -> None:
    assert metrics_of(load_task("LaMP_3")) == ("mae", "rmse")
    assert metrics_of(load_task("LaMP_1").model_copy(update={"metrics": ()})) == ("accuracy", "f1_macro")
    assert metrics_of(load_task("LaMP_4").model_copy(update={"metrics": ()})) == ("rouge1", "rougeL")
