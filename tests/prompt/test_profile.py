import copy

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ownlm.errors import TaskError
from ownlm.history.record import Record
from ownlm.history.task import load_task
from ownlm.prompt.profile import answered, cleaned, counted, request
from tests.history.files import NEWS, history_of

CHOICE = load_task("LaMP_1")
TITLES = load_task("LaMP_4")
TWEETS = load_task("LaMP_7")


def filed(*categories: str) -> list[Record]:
    return answered(NEWS, history_of(*({"text": "x", "category": each} for each in categories)))


def test_records_without_an_answer_tell_nothing() -> None:
    history = history_of(
        {"text": "a", "title": "A"}, {"text": "b"}, {"text": "c", "title": " "}, {"text": "d", "title": "D"}
    )
    assert [record.id for record in answered(TITLES, history)] == ["r0", "r3"]
    papers = history_of({"title": "T", "citation": "C"}, {"title": "U"}, {"title": "V", "other": "O"})
    assert [record.id for record in answered(CHOICE, papers)] == ["r0"]


def test_the_wording_of_a_request() -> None:
    history = history_of(
        {"title": "Rain", "text": "rain {x}", "category": "arts"}, {"text": "a vote", "category": "politics"}
    )
    assert request(NEWS, history.records) == (
        'Below are records of one person. The line "category:" is what this person chose.\n'
        "\n"
        "title: Rain\n"
        "article: rain {x}\n"
        "category: arts\n"
        "\n"
        "article: a vote\n"
        "category: politics\n"
        "\n"
        "Describe this person in two short sentences: what they deal with, and what they choose when. "
        "Name only what the records have in common."
    )
    text = request(TITLES, history_of({"text": "a", "title": "A"}).records)
    assert 'The line "headline:" is what this person wrote.' in text and "in what style" in text


def test_what_a_request_shows_of_optional_inputs_and_of_options() -> None:
    assert "\n\ntweet: hi\n\n" in request(TWEETS, history_of({"text": "hi"}).records)
    shown = request(CHOICE, history_of({"title": "T", "citation": "C", "other": "O"}).records)
    assert "\n\npaper: T\ncited: C\n\n" in shown and "O" not in shown.replace("Only", "")


def test_fields_are_cut_on_copies() -> None:
    history = history_of({"text": "w " * 61 + "END", "title": "t " * 61 + "END"}, {"text": "字" * 700, "title": "T"})
    before = copy.deepcopy(history)
    text = request(TITLES, history.records)
    assert "w " * 59 + "w\n" in text and "t " * 59 + "t\n" in text and "END" not in text
    assert "字" * 600 in text and "字" * 601 not in text
    assert history == before


@given(st.integers(1, 12), st.integers(0, 12))
def test_a_request_shows_the_given_records_and_no_others(count: int, first: int) -> None:
    history = history_of(*({"text": f"in{place}x", "title": f"out{place}x"} for place in range(count)))
    text = request(TITLES, history.records[first:])
    for place in range(count):
        assert (f"in{place}x" in text) == (f"out{place}x" in text) == (place >= first)


# Counted


def test_a_counted_profile() -> None:
    politics = filed(*["politics"] * 41, *["world"] * 20, *["arts"] * 39)
    task = NEWS.model_copy(update={"labels": ("arts", "politics", "world")})
    assert counted(task, politics) == "Most often politics (41 of 100 records), then arts (39), world (20)."
    assert counted(NEWS, filed("arts")) == "Most often arts (1 of 1 records)."


def test_at_most_a_handful_of_labels_is_named_and_ties_have_an_order() -> None:
    task = NEWS.model_copy(update={"labels": tuple("gfedcba")})
    text = counted(task, filed(*"gfedcbaab"))
    assert text == "Most often a (2 of 9 records), then b (2), c (1), d (1), e (1)."
    assert text == counted(task, filed(*"baabcdefg"))


def test_what_is_no_label_is_not_counted() -> None:
    assert counted(NEWS, filed("arts", "no such label")) == "Most often arts (1 of 2 records)."
    assert counted(NEWS, filed("no such label")) == ""


@pytest.mark.parametrize("task", [TITLES, TWEETS, CHOICE], ids=lambda task: task.name)
def test_only_labels_can_be_counted(task) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TaskError, match="no labels"):
        counted(task, [])


@given(st.lists(st.sampled_from(["arts", "politics"]), min_size=1, max_size=30), st.randoms())
def test_counting_has_no_order(categories: list[str], random) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(categories)
    random.shuffle(shuffled)
    assert counted(NEWS, filed(*categories)) == counted(NEWS, filed(*shuffled))


# Cleaning


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("  Writes\n\nabout\train. ", "Writes about rain."),
        ("Writes about rain. And about", "Writes about rain."),
        ('Says "no." And he', 'Says "no."'),
        ("Yes. " + "and so on " * 9, "Yes. " + " ".join(["and so on"] * 9)),
        ("Likes 1. rain 2. snow", "Likes 1. rain 2. snow"),
        ("1. rain", "1. rain"),
        ("A is so. B is so. A is so. B is", "A is so. B is so."),
        ("<think>He says.\nWell.</think>\n\nWrites.", "Writes."),
        ("<think>He says. Well.", ""),
        ("a\x00b\x1b[31m\x7fc\u2028d", "a b [31m c d"),
        ("a\ud800b \u202eright\u202c co\u00adop \u200d", "a b right coop \u200d"),
        ("雨が好きです。雨が好きです。雪", "雨が好きです。"),
        ("", ""),
        (" \n\x00\u200b", ""),
        ("... --- !", ""),
    ],
)
def test_what_is_kept_of_an_answer(said: str, kept: str) -> None:
    assert cleaned(said) == kept


def test_a_long_answer_is_cut_where_a_sentence_ends() -> None:
    sentence = "Some words that say something new, number{}."
    text = " ".join(sentence.format("e" * n) for n in range(40))
    assert 40 < len(cleaned(text).split()) <= 100 and cleaned(text).endswith(".") and text.startswith(cleaned(text))
    assert len(cleaned("word " * 500).split()) == 100
    assert len(cleaned("x" * 10**6)) == 1000
    assert cleaned("<think>" + "x" * 10**6 + "</think>Writes.") == "Writes."


@given(st.text(st.characters() | st.sampled_from(" .!\n\x00\u200b1aA"), max_size=3000))
@example(":? 0")
@example("." * 1500 + " a")
def test_an_answer_becomes_one_harmless_paragraph(said: str) -> None:
    text = cleaned(said)
    text.encode()  # no half of a character
    assert text == " ".join(text.split()) and len(text.split()) <= 100 and len(text) <= 1000
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in text)
    assert text == "" or any(letter.isalnum() for letter in text)
