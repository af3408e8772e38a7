import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ownlm.errors import TaskError
from ownlm.history.record import History
from ownlm.history.task import load_task
from ownlm.prompt import example as module
from ownlm.prompt.example import Example, answer_text, first_words, history_examples, prompt_text, query_prompt
from ownlm.prompt.retrieval import words
from tests.history.files import NEWS, SECRET, history_of

CHOICE = load_task("LaMP_1")
TWEETS = load_task("LaMP_7")


def news(text: str, category: str = "arts", **more: str) -> dict[str, str]:
    return {"text": text, "category": category, **more}


PERSON = history_of(
    news("rain on the roof", "arts", title="Rain"),
    news("a vote in the house", "politics"),
    {"text": "rain and a vote"},
    news("rain on the house"),
)


def test_the_layout_of_a_prompt() -> None:
    assert history_examples(NEWS, PERSON, rag=2)[-1] == Example(
        "r3",
        "File it under one of: arts, politics.\n"
        "\n"
        "Earlier, by the same person:\n"
        "title: Rain\n"
        "article: rain on the roof\n"
        "category: arts\n"
        "\n"
        "article: a vote in the house\n"
        "category: politics\n"
        "\n"
        "article: rain on the house\n"
        "category:",
        " arts",
        ("r0", "r1"),
    )


def test_a_prompt_without_earlier_records() -> None:
    expected = "File it under one of: arts, politics.\n\ntitle: T\narticle: x {y}\ncategory:"
    assert prompt_text(NEWS, {"title": "T", "text": "x {y}"}) == expected
    assert query_prompt(NEWS, {"title": "T", "text": "x {y}"}, History("u", ()), rag=3) == (expected, ())
    assert query_prompt(NEWS, {"title": "T", "text": "x {y}"}, PERSON, rag=0) == (expected, ())


def test_records_without_an_answer_are_shown_but_not_learnt() -> None:
    assert [example.record_id for example in history_examples(NEWS, PERSON)] == ["r0", "r1", "r3"]
    prompt, retrieved = query_prompt(NEWS, {"text": "rain vote"}, PERSON, rag=1)
    assert retrieved == ("r2",)
    assert "Earlier, by the same person:\narticle: rain and a vote\n\narticle: rain vote\n" in prompt


def test_a_query_sees_the_whole_history_best_first() -> None:
    assert query_prompt(NEWS, {"text": "house"}, PERSON, rag=9)[1] == ("r3", "r1", "r2", "r0")


def test_answers_are_searched_too_and_instructions_are_not() -> None:
    person = history_of(news("x", "file"), news("y", "politics"), news("z", "arts"))
    assert query_prompt(NEWS, {"text": "politics"}, person, rag=1)[1] == ("r1",)
    assert query_prompt(NEWS, {"text": "under one"}, person, rag=1)[1] == ("r2",)  # nothing matches: the latest


@pytest.mark.parametrize("recent", [1, 2, 3, 9])
def test_recent_records_only(recent: int) -> None:
    examples = history_examples(NEWS, PERSON, rag=1)
    assert history_examples(NEWS, PERSON, rag=1, recent=recent) == examples[-recent:]


def test_inputs_may_be_missing_altogether() -> None:
    person = history_of({"text": "rain"}, {"text": "sun", "source": " "}, {"text": "snow", "source": "rain"})
    examples = history_examples(TWEETS, person, rag=1)
    assert [example.prompt.split("\n\n", 1)[1] for example in examples] == [
        "tweet:",
        "Earlier, by the same person:\ntweet: rain\n\ntweet:",
        "Earlier, by the same person:\ntweet: rain\n\nmessage: rain\ntweet:",
    ]
    assert [example.answer for example in examples] == [" rain", " sun", " snow"]


def test_a_required_field_must_be_there() -> None:
    for fields in ({"title": SECRET}, {"title": SECRET, "text": " "}):
        with pytest.raises(TaskError, match="lacks the field 'text'") as caught:
            prompt_text(NEWS, fields)
        assert SECRET not in str(caught.value)


def test_first_words() -> None:
    text = " one  two\nthree "
    assert [first_words(text, count) for count in (1, 2, 3, 4)] == ["one", "one  two", "one  two\nthree", text.strip()]


def test_fields_are_cut_on_copies() -> None:
    task = load_task("LaMP_4")
    person = history_of({"text": "a b c d", "title": "t u v w"}, {"text": "a b c", "title": "x y z"})
    before = copy.deepcopy(person)
    example = history_examples(task, person, rag=1, max_words=2, max_words_retrieved=3)[1]
    assert example.prompt.endswith("article: a b c\nheadline: t u v\n\narticle: a b\nheadline:")
    assert example.answer == " x y"
    prompt, _ = query_prompt(task, {"text": "a z"}, person, rag=1, max_words=1, max_words_retrieved=2)
    assert prompt.endswith("article: a b\nheadline: x y\n\narticle: a\nheadline:")
    assert person == before


def test_labels_are_never_cut() -> None:
    task = NEWS.model_copy(update={"labels": ("culture & arts", "politics")})
    person = history_of(news("rain", "culture & arts"), news("rain", "culture & arts"))
    example = history_examples(task, person, rag=1, max_words=1, max_words_retrieved=1)[1]
    assert example.answer == answer_text(task, person.records[1].fields) == " culture & arts"
    assert "category: culture & arts\n" in example.prompt


# Two options


def paper(title: str, citation: str | None = None, other: str | None = None) -> dict[str, str]:
    fields = {"title": title, "citation": citation, "other": other}
    return {name: value for name, value in fields.items() if value is not None}


def options(example: Example) -> dict[str, str]:
    asked = example.prompt.rsplit("\n\n", 1)[1].splitlines()
    return {line[:3]: line[5:] for line in asked if line.startswith("[")}


def test_an_example_shows_both_options_and_names_the_right_one() -> None:
    person = history_of(*(paper(f"T{number}", f"C{number}", f"O{number}") for number in range(40)))
    examples = history_examples(CHOICE, person)
    assert examples[3].prompt.rsplit("\n\n", 1)[1].splitlines()[0] == "paper: T3"
    for number, example in enumerate(examples):
        shown = options(example)
        assert shown[example.answer.strip()] == f"C{number}"
        assert set(shown.values()) == {f"C{number}", f"O{number}"}
    assert 10 < sum(example.answer == " [1]" for example in examples) < 30
    assert examples == history_examples(CHOICE, person)


def test_a_wrong_option_is_found_among_earlier_records() -> None:
    person = history_of(
        paper("T0", "C0"), paper("T1"), paper("T2", "C0"), paper("T3", "C3"), paper("T4", "C4"), paper("T5", "C3", "C3")
    )
    examples = history_examples(CHOICE, person, rag=4)
    assert [example.record_id for example in examples] == ["r3", "r4", "r5"]
    for example, right, wrong in zip(examples, ["C3", "C4", "C3"], [{"C0"}, {"C0", "C3"}, {"C0", "C4"}], strict=True):
        shown = options(example)
        assert shown.pop(example.answer.strip()) == right
        (found,) = shown.values()
        assert found in wrong
        assert f"cited: {found}" not in example.prompt  # nothing above gives the answer away


def test_what_is_shown_of_earlier_choices() -> None:
    person = history_of(paper("Rain", "Clouds", "Sun"), paper("Snow"))
    fields = {"title": "Rain and snow", "option_1": "A", "option_2": "B"}
    prompt, retrieved = query_prompt(CHOICE, fields, person, rag=2)
    assert set(retrieved) == {"r0", "r1"}
    assert "\npaper: Rain\ncited: Clouds\n\n" in prompt and "\npaper: Snow\n\n" in prompt and "Sun" not in prompt
    assert prompt.endswith("\n\npaper: Rain and snow\n[1]: A\n[2]: B\ncited:")


def test_options_are_not_searched_for() -> None:
    person = history_of(paper("Rain", "Clouds"), paper("Snow", "Ice"), paper("Sun", "Stars"))
    fields = {"title": "More snow", "option_1": "Clouds", "option_2": "Stars"}
    assert query_prompt(CHOICE, fields, person, rag=1)[1] == ("r1",)


# Properties

some_words = st.lists(st.sampled_from(["rain", "sun", "snow", "vote", "house"]), max_size=5).map(" ".join)
records = st.lists(st.tuples(some_words, some_words, st.booleans()), min_size=1, max_size=8)


def marked(content: list[tuple[str, str, bool]], choice: bool) -> History:
    """A history in which every field of every record holds a mark of its own."""
    fields = []
    for place, (one, other, answered) in enumerate(content):
        right = {"citation" if choice else "category": f"{other} answer{place}x"} if answered else {}
        fields.append({"title": f"{one} input{place}x", "text": f"{one} input{place}x", **right})
    return history_of(*fields)


@settings(max_examples=100, deadline=None)
@given(records, st.integers(0, 4), st.none() | st.integers(1, 4), st.booleans())
def test_no_later_record_reaches_a_prompt(
    content: list[tuple[str, str, bool]], rag: int, recent: int | None, choice: bool
) -> None:
    task, person = CHOICE if choice else NEWS, marked(content, choice)
    before = copy.deepcopy(person)
    examples = history_examples(task, person, rag=rag, recent=recent)
    assert person == before
    places = [int(example.record_id[1:]) for example in examples]
    assert places == sorted(places) and (recent is None or len(places) <= recent)
    for place, example in zip(places, examples, strict=True):
        assert not any(f"{kind}{later}x" in example.prompt for kind in ("input", "answer") for later in
                       range(place + 1, len(content)))  # fmt: skip
        assert (f"answer{place}x" in example.prompt) == choice  # of a choice, both options are shown
        assert f"input{place}x" in example.prompt
        earlier = [int(key[1:]) for key in example.retrieved]
        assert all(one < place for one in earlier) and len(set(earlier)) == len(earlier)
        assert choice or len(earlier) == min(rag, place)
        assert all(f"input{one}x" in example.prompt for one in earlier)


@settings(max_examples=60, deadline=None)
@given(records, st.integers(0, 4), st.booleans(), st.data())
def test_what_comes_later_changes_nothing(
    content: list[tuple[str, str, bool]], rag: int, choice: bool, data: st.DataObject
) -> None:
    task, person = CHOICE if choice else NEWS, marked(content, choice)
    count = data.draw(st.integers(0, len(person)))
    until = History("u", person.records[:count])
    examples = [each for each in history_examples(task, person, rag=rag) if int(each.record_id[1:]) < count]
    assert history_examples(task, until, rag=rag) == examples


def test_each_text_is_split_into_words_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many later records it is compared with: else a long history takes too long."""
    person, split = history_of(*(news(f"w{n} w{n + 1}") for n in range(40))), list[str]()
    monkeypatch.setattr(module, "words", lambda text: split.append(text) or words(text))
    assert len(history_examples(NEWS, person, rag=4)) == 40
    assert len(split) == 2 * 40  # as a document, and as a query
