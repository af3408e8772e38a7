"""What plain text is learnt of a record."""

from ownlm.bench.case import Case
from ownlm.bench.methods.own import texts_of
from ownlm.history.record import History, Record
from ownlm.history.task import load_task
from ownlm.home import Home
from tests.bench.methods.cases import TRAIN, ask


def test_texts_are_answers_inputs_or_both(case: Case) -> None:
    told = Record("kara", "a", {"text": "rain again", "folder": "bin"}, "7")
    history = History("kara", (told, Record("kara", "b", {"text": "sun", "folder": " "})))
    said = {format: texts_of(case.task, history, format).records for format in ("answers", "inputs", "text")}
    assert said["answers"] == (Record("kara", "a", {"text": "bin"}, "7"),)
    assert [one.fields["text"] for one in said["inputs"]] == ["rain again", "sun"]
    assert [one.fields["text"] for one in said["text"]] == ["rain again bin", "sun"]


def test_of_two_options_the_right_one_is_the_answer() -> None:
    task = load_task("LaMP_1")
    assert task.options
    record = Record("kara", "a", {"title": "On rain", task.options.right: "On clouds"})
    (text,) = texts_of(task, History("kara", (record,)), "answers").records
    assert text.fields == {"text": "On clouds"}


def test_an_adapter_of_one_format_does_not_answer_for_another(case: Case) -> None:
    for format in ("answers", "inputs"):
        ask(case, "own", case.data.queries[:3], format=format, **TRAIN)
    homes = [Home(path) for path in (case.folder / "stages").glob("own-*")]
    of_text = [home for home in homes if home.histories("free-text")]
    assert len(of_text) >= 2 and all(len(home.adapters()) == len(case.users) for home in of_text)
