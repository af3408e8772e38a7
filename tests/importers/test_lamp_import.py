import copy
import json
from pathlib import Path
from typing import Any

import pytest

from ownlm.errors import DataError, NotFoundError
from ownlm.history.readers import read_dataset, read_queries
from ownlm.history.task import load_task, shipped_tasks, with_instruction
from ownlm.importers.imported import Imported
from ownlm.importers.lamp import import_lamp, to_toml
from tests.history.files import NEWS, write_json, write_lines

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "huffpost_category"
TOLD = "Which category does this article relate to? categories: [politics, u.s. news, 4]"
ODD = (
    "\"quoted\" 'too' \\ b\\u0041 \t \n \r \0 \x01 \x1f \x7f \x85 \u2028 # = [x] {{y}} '''\"\"\" Grüße 🧑‍🌾 \U0010ffff"
)


def item(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "text": f"text {number}", "title": "t", "category": "politics", **more}


def query(key: str, text: str, **more: Any) -> dict[str, Any]:
    return {"id": key, "input": f"{TOLD} article: {text}", **more}


PEOPLE: list[dict[str, Any]] = [
    {
        "user_id": "u1",
        "profile": [item(1, date="2021-01-02"), item(2, date="2021-01-01"), item(3)],
        "query": [query("q1", "rain"), query("q2", "sun", date="2022")],
    },
    {"user_id": 2, "profile": [item(1, category=4.0, text=ODD)], "query": [query("q3", ODD)]},
]
GOLDS = {"task": "LaMP_2N", "golds": [{"id": "q1", "output": "politics"}, {"id": "q3", "output": "u.s. news"}]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_json(tmp_path / "top_label.json", GOLDS)
    return write_json(tmp_path / "top.json", PEOPLE)


def same(file: Path, imported: Imported, name: str) -> None:
    """What was written says what the original says."""
    own = load_task(imported.task)
    original = read_dataset(file, load_task(name))
    assert own == with_instruction(load_task(name), original.instruction, original.labels)
    assert read_dataset(imported.files[0], own).histories == original.histories
    assert read_queries(imported.files[1], own) == original.queries


def test_everything_comes_back(file: Path, tmp_path: Path) -> None:
    imported = import_lamp(file, tmp_path / "news.v2.jsonl", task="LaMP_2N")
    assert imported.files == [tmp_path / f"news.v2{suffix}" for suffix in (".jsonl", ".queries.jsonl", ".toml")]
    assert (imported.task, imported.records, imported.left_out) == (str(imported.files[2]), {"u1": 3, "2": 1}, {})
    same(file, imported, "LaMP_2N")
    assert load_task(imported.task).instruction == TOLD
    assert load_task(imported.task).labels == (
        "politics",
        "u.s. news",
        "4",
    )
    first, second = ([json.loads(line) for line in path.open(encoding="utf8")] for path in imported.files[:2])
    assert first[0] == {"user_id": "u1", "id": "2", "time": "2021-01-01", "text": "text 2", "category": "politics"}
    assert second[1] == {"user_id": "u1", "id": "q2", "time": "2022", "text": "sun"}
    assert second[0] == {"user_id": "u1", "id": "q1", "text": "rain", "gold": "politics"}


def test_questions_that_are_people(tmp_path: Path) -> None:
    questions = [{"id": "110", "input": "Rain.", "profile": [item(1)]}, {"id": "111", "input": "Sun.", "profile": []}]
    file = write_json(tmp_path / "dev_questions.json", questions)
    write_json(tmp_path / "dev_outputs.json", {"golds": [{"id": "111", "output": "politics"}]})
    imported = import_lamp(file, tmp_path / "out.jsonl", task="LaMP_2N")
    assert (imported.task, imported.records) == ("LaMP_2N", {"110": 1})  # no instruction, so no task file
    assert imported.files == [tmp_path / "out.jsonl", tmp_path / "out.queries.jsonl"]
    assert not (tmp_path / "out.toml").exists()
    same(file, imported, "LaMP_2N")


def test_labels_from_elsewhere(file: Path, tmp_path: Path) -> None:
    labels = write_json(tmp_path / "else.json", {"golds": [{"id": "q2", "output": "politics"}]})
    imported = import_lamp(file, tmp_path / "out.jsonl", task="LaMP_2N", labels=labels)
    assert [query.gold for query in read_queries(imported.files[1], load_task("LaMP_2N"))] == [None, "politics", None]


def test_records_without_an_answer_are_left_out(tmp_path: Path) -> None:
    people = copy.deepcopy(PEOPLE)
    del people[0]["profile"][0]["category"]
    people[1]["profile"][0]["category"] = " "
    for person in people:
        person["query"] = []
    file = write_json(tmp_path / "top.json", people)
    imported = import_lamp(file, tmp_path / "out.jsonl", task="LaMP_2N")
    assert (imported.records, imported.left_out) == ({"u1": 2}, {"records without an answer": 2})
    assert imported.files == [tmp_path / "out.jsonl"] and imported.task == "LaMP_2N"
    (history,) = read_dataset(imported.files[0], load_task("LaMP_2N")).histories
    (original, _) = read_dataset(file, load_task("LaMP_2N")).histories
    assert history.records == tuple(record for record in original.records if "category" in record.fields)


def test_a_task_with_options_needs_no_answer(tmp_path: Path) -> None:
    question = (
        'For an author who has written the paper with the title "T", which reference is related? [1]: "A" [2]: "B"'
    )
    profile = [{"id": "9", "title": "P", "citation": "Right"}, {"id": "8", "title": "Q", "abstract": "A"}]
    file = write_json(tmp_path / "dev_questions.json", [{"id": "1", "input": question, "profile": profile}])
    imported = import_lamp(file, tmp_path / "out.jsonl", task="LaMP_1")
    assert (imported.records, imported.left_out, imported.task) == ({"1": 2}, {}, "LaMP_1")
    same(file, imported, "LaMP_1")


def test_one_without_a_time_stays_in_its_place(tmp_path: Path) -> None:
    times = ["2021", None, "2019", None, "2020"]
    profile = [item(number, **({"date": time} if time else {})) for number, time in enumerate(times)]
    file = write_json(tmp_path / "top.json", [{"user_id": "u", "profile": profile, "query": [query("q", "x")]}])
    imported = import_lamp(file, tmp_path / "out.jsonl", task="LaMP_2N")
    same(file, imported, "LaMP_2N")
    (history,) = read_dataset(imported.files[0], load_task("LaMP_2N")).histories
    assert [record.id for record in history.records] == ["2", "3", "4", "0", "1"]


@pytest.mark.parametrize("name", shipped_tasks())
def test_a_task_survives_its_file(name: str, tmp_path: Path) -> None:
    task, path = load_task(name), tmp_path / "task.toml"
    path.write_text(to_toml(task), "utf8")
    assert load_task(path) == task


def test_odd_characters_survive_a_task_file(tmp_path: Path) -> None:
    changes = {"instruction": ODD, "input": ODD + " {text}", "labels": (ODD.strip(), "x\x7f"), "optional": ()}
    task, path = NEWS.model_copy(update=changes), tmp_path / "task.toml"
    path.write_text(to_toml(task), "utf8", newline="")
    assert load_task(path) == task


@pytest.mark.parametrize("rows", [[item(1, user_id="u")], [], ["x"]], ids=["rows", "nothing", "no objects"])
def test_plain_rows_are_refused(tmp_path: Path, rows: list[Any]) -> None:
    for file in (write_lines(tmp_path / "rows.jsonl", rows), write_json(tmp_path / "rows.json", rows)):
        with pytest.raises(DataError, match=r"rows\.json.* is not of LaMP's shape.*need no import"):
            import_lamp(file, tmp_path / "out.jsonl", task="LaMP_2N")
    assert not list(tmp_path.glob("out*"))


def test_what_cannot_be_imported_writes_nothing(file: Path, tmp_path: Path) -> None:
    def refused(what: str, **more: Any) -> None:
        with pytest.raises(DataError, match=what):
            import_lamp(**{"file": file, "out": tmp_path / "out.jsonl", "task": "LaMP_2N", **more})

    refused("There is no file", file=tmp_path / "none.json")
    refused("There is no file", labels=tmp_path / "none.json")
    refused("No record in", task=str(other_task(tmp_path)))
    people = [{"user_id": "u", "profile": [], "query": [query("q", "x")]}]
    refused("No record in .* can be learnt from", file=write_json(tmp_path / "empty.json", people))
    (tmp_path / "cut.json").write_bytes(file.read_bytes()[:-9])
    refused("not one whole JSON document", file=tmp_path / "cut.json")
    refused("cannot be written", out=tmp_path / "none" / "out.jsonl")
    refused("is a folder", out=tmp_path)
    with pytest.raises(NotFoundError):
        import_lamp(file, tmp_path / "out.jsonl", task="none")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(("out", "."))]


def other_task(folder: Path) -> Path:
    """A task whose answer is nowhere in the data."""
    path = folder / "other.toml"
    path.write_text(to_toml(load_task("LaMP_2N").model_copy(update={"answer": "genre: {genre}"})), "utf8")
    return path


def test_nothing_that_is_read_is_written_over(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text(to_toml(load_task("LaMP_2N")), "utf8")
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for out, task in (
        ("mine.jsonl", "mine.toml"),
        ("mine.jsonl", "./mine.toml"),
        ("x.toml", "LaMP_2N"),
        (file, "LaMP_2N"),
    ):
        with pytest.raises(DataError, match="would write over"):
            import_lamp(file, Path(out), task=task)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert import_lamp(file, Path("other.jsonl"), task="mine.toml").task == "other.toml"


@pytest.mark.skipif(not DATA.is_dir(), reason=f"THE REAL DATA ARE NOT THERE: no folder {DATA}")
def test_real_people(tmp_path: Path) -> None:
    people = json.loads((DATA / "user_top_history.json").read_text("utf8"))[:12]
    file = write_json(tmp_path / "top.json", people)
    (tmp_path / "top_label.json").write_bytes((DATA / "user_top_history_label.json").read_bytes())
    imported = import_lamp(file, tmp_path / "out.jsonl", task="LaMP_2N")
    same(file, imported, "LaMP_2N")
    assert imported.records == {person["user_id"]: len(person["profile"]) for person in people}
    assert len(load_task(imported.task).labels or ()) == 29
