# ruff: noqa: RUF001
import logging
import re
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25Plus

from ownlm.prompt.retrieval import rank, retrieve, words

documents = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=8), min_size=1, max_size=12)
queries = st.lists(st.sampled_from("abcdxy"), min_size=1, max_size=6)


@settings(max_examples=300, deadline=None)
@given(queries, documents)
def test_order_is_rank_bm25s(query: list[str], corpus: list[list[str]]) -> None:
    order = rank(query, corpus, len(corpus))
    assert sorted(order) == list(range(len(corpus)))
    if not any(corpus):
        assert order == sorted(order, reverse=True)
        return
    scores = BM25Plus(corpus).get_scores(query)
    for better, worse in pairwise(order):
        if abs(scores[better] - scores[worse]) < 1e-8:
            assert better > worse  # a tie goes to the later one
        else:
            assert scores[better] > scores[worse]
    assert rank(query, corpus, 3) == order[:3]


def test_long_texts_rank_as_rank_bm25_ranks_them() -> None:
    random = Random(0)
    names = [f"w{number}" for number in range(400)]
    corpus = [random.choices(names, k=random.randint(5, 120)) for _ in range(60)]
    for query in corpus[:20]:
        scores = BM25Plus(corpus).get_scores(query)
        assert rank(query, corpus, 60) == sorted(range(60), key=lambda index: (-scores[index].round(9), -index))


def test_the_best_comes_first() -> None:
    texts = ["The rain again", "Sun, and more sun", "RAIN! Rain?", "snow"]
    assert retrieve("rain", texts, 2) == [2, 0]
    assert retrieve("sun or snow", texts, 2) == [3, 1]


@pytest.mark.parametrize("query", ["", "?!", "unknown words"])
def test_what_matches_nothing_gets_the_latest(query: str) -> None:
    assert retrieve(query, ["rain", "sun", "snow"], 2) == [2, 1]
    assert retrieve(query, ["", "?"], 2) == [1, 0]


def test_sums_that_differ_by_rounding_alone_are_ties() -> None:
    corpus = [list(text) for text in ("fccf", "caca", "decf", "fbeb", "feec", "fecd", "bfdc")]
    order = rank(list("ebfef"), corpus, 7)
    assert order.index(6) < order.index(2)  # e counts twice, and ln(8 / 4) twice is ln(8 / 2): equal, but 1e-15 apart


def test_few_documents_and_none() -> None:
    assert retrieve("rain", ["sun", "rain"], 9) == [1, 0]
    assert retrieve("rain", [], 3) == retrieve("rain", ["rain"], 0) == []


def test_words_are_lower_case_and_of_any_script() -> None:
    assert words("Ärger_1, été—ΔΈΛΤΑ 東京!") == ["ärger_1", "été", "δέλτα", "東", "京", "東京"]


@given(st.text(st.characters(max_codepoint=0x2FF, exclude_characters="\u0130")))
def test_words_of_latin_text_are_runs_of_letters_and_digits(text: str) -> None:
    assert words(text) == re.findall(r"\w+", text.lower())


@pytest.mark.parametrize(
    ("query", "wanted", "others"),
    [
        ("明日の天気は？", "今日の天気は雨です。", ["猫を飼っています。", "電車が遅れた。"]),
        ("雨", "今日は雨が降る。", ["今日は雪が降る。", "猫がいる。"]),
        ("大学東京", "東京大学の入試", ["京都の寺", "学大東"]),
        ("ﾃﾞｰﾀ", "データを消す", ["絵を描く", "ＡＩを使う"]),
        ("天气怎么样", "昨天的天气很好", ["我养了一只猫", "火车晚点了"]),
        ("ข้าวผัด", "วันนี้กินข้าวผัดไก่", ["แมวนอนหลับ", "รถไฟมาช้า"]),
        ("ລາວ", "ພາສາລາວມ່ວນ", ["ແມວ", "ໝາ"]),
        ("ខ្មែរ", "ភាសាខ្មែរ", ["ឆ្មា", "ឆ្កែ"]),
        ("မြန်မာ", "ဒါကမြန်မာစာ", ["ကြောင်", "ခွေး"]),
        ("हिन्दी", "मुझे हिन्दी पसंद है", ["हद दूर है", "नहीं"]),
        ("שלום", "אמר שלום לכולם", ["חתול ישן", "רכבת"]),
        ("йод", "и\u0306од в аптеке", ["од", "кошка"]),
        ("cafe\u0301", "the café", ["a cafe", "cafes"]),
        ("istanbul", "İSTANBUL", ["stanbul", "i"]),
        ("비가", "오늘은 비가 온다", ["고양이가 잔다", "기차"]),
    ],
)
def test_records_of_every_script_are_found(query: str, wanted: str, others: list[str]) -> None:
    assert retrieve(query, [wanted, *others], 1) == [0]  # what matches nothing would get the latest


def test_it_is_quiet(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    retrieve("rain", ["rain", "sun"], 1)
    retrieve("", ["rain", "sun"], 1)
    assert capfd.readouterr() == ("", "") and caplog.records == []
