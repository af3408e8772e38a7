"""LongLaMP's Parquet: made here as the hub has it, in pieces."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ownlm.errors import DataError
from ownlm.history.readers import read_dataset, read_queries
from ownlm.history.record import History, Query
from ownlm.history.task import load_task, parse_query
from ownlm.importers.imported import Imported
from ownlm.importers.lamp import import_lamp
from ownlm.importers.longlamp import GIVEN_AWAY
from tests.history.files import SECRET


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def post(summary: str, content: str | None, id: str = "p") -> dict[str, Any]:
    return {"author": "ada", "content": content, "id": id, "summary": summary}


def topic(author: str, summary: str, output: str | None, *profile: dict[str, Any]) -> dict[str, Any]:
    input = f"Generate the content for a reddit post {summary}"
    return {"author": author, "input": input, "output": output, "profile": list(profile)}


def read(imported: Imported) -> tuple[list[History], list[Query]]:
    task = load_task(imported.task)
    return read_dataset(imported.files[0], task).histories, read_queries(imported.files[1], task)


def test_topics(tmp_path: Path) -> None:
    file = write(
        tmp_path / "val-00000-of-00001.parquet",
        topic("ada", "cats", "long post", post("dogs", "a dog"), post("mice", "a mouse")),
        topic("bela", "boats", None, post("ships", "a ship")),
    )
    imported = import_lamp(file, tmp_path / "out.jsonl", task="LongLaMP_topic")
    assert imported.records == {"ada": 2, "bela": 1} and imported.left_out == {}
    assert imported.task == str(tmp_path / "out.toml")
    assert load_task(imported.task).instruction == "Generate the content for a reddit post"
    histories, queries = read(imported)
    assert [dict(record.fields) for record in histories[0].records] == [
        {"summary": "dogs", "content": "a dog"},
        {"summary": "mice", "content": "a mouse"},
    ]
    assert queries == [
        Query("ada", "val-00000-of-00001:1", {"summary": "cats"}, "long post"),
        Query("bela", "val-00000-of-00001:2", {"summary": "boats"}),
    ]


def test_a_person_with_several_queries_has_one_history_without_their_answers(tmp_path: Path) -> None:
    folder = tmp_path / "topic_writing_temporal"
    first = topic("ada", "cats", " the answer ", post("dogs", "a dog"), post("no content", None))
    later = topic("ada", "boats", "another", post("dogs", "a dog"), post("cats", "the answer"), post("mice", "a mouse"))
    other = topic("bela", "cats", "unlike", post("cats", "the answer"))
    write(folder / "test-00000-of-00002.parquet", first, other)
    write(folder / "test-00001-of-00002.parquet", later)
    write(folder / "train-00000-of-00001.parquet", topic("ciro", "x", "y", post("z", "z")))
    imported = import_lamp(tmp_path, tmp_path / "out.jsonl", task="LongLaMP_topic", split="time", part="test")
    assert imported.records == {"ada": 2, "bela": 1}
    assert imported.left_out == {"records without an answer": 1, GIVEN_AWAY: 1}
    histories, queries = read(imported)
    assert [record.fields["content"] for record in histories[0].records] == ["a dog", "a mouse"]
    assert [(query.user_id, query.id[-10:], query.gold) for query in queries] == [
        ("ada", "of-00002:1", "the answer"),
        ("bela", "of-00002:2", "unlike"),
        ("ada", "of-00002:1", "another"),
    ]
    assert len({query.id for query in queries}) == 3


def test_abstracts_are_in_order_of_their_years(tmp_path: Path) -> None:
    def paper(year: int, title: str) -> dict[str, Any]:
        return {"abstract": f"on {title}", "id": "same", "title": title, "year": year}

    input = 'Generate an abstract for the title "On "Ducks"" using the following items: 1. pond\n2. bread.'
    row = {
        "name": "Ada",
        "input": input,
        "output": "x",
        "profile": [paper(2020, "late"), paper(2001, "early"), paper(0, "?")],
    }
    file = write(tmp_path / "a.parquet", row)
    histories, queries = read(import_lamp(file, tmp_path / "out.jsonl", task="LongLaMP_abstract"))
    assert [(record.time, record.fields["title"]) for record in histories[0].records] == [
        ("2001", "early"),
        (None, "?"),  # stays behind the one it was given after
        ("2020", "late"),
    ]
    assert queries[0].fields == {"title": 'On "Ducks"', "items": "1. pond\n2. bread."}
    assert not (tmp_path / "out.toml").exists()


@pytest.mark.parametrize("who", ["who has a given an overall rating", "who has given an overall rating"])
@pytest.mark.parametrize("overall", [5.0, "5.0", 5])
def test_reviews_say_their_stars_alike_everywhere(tmp_path: Path, who: str, overall: object) -> None:
    input = (
        f'Generate the review text written by a reviewer {who} of "5.0" for a product with description "A "big" pan". '
        'The summary of the review text is "Good.".'
    )
    profile = [{"description": "A pot", "overall": overall, "reviewText": "I like it", "summary": ""}]
    file = write(tmp_path / "a.parquet", {"reviewerId": "A1", "input": input, "output": "Fine.", "profile": profile})
    histories, queries = read(import_lamp(file, tmp_path / "out.jsonl", task="LongLaMP_review"))
    assert histories[0].records[0].fields == {"description": "A pot", "overall": "5", "reviewText": "I like it"}
    assert queries[0].fields == {"description": 'A "big" pan', "overall": "5", "summary": "Good."}


def test_other_queries() -> None:
    fields, told, _ = parse_query(load_task("LongLaMP_abstract"), 'Generate an abstract for the title "Ducks".')
    assert fields == {"title": "Ducks"} and told is None
    assert parse_query(load_task("LongLaMP_abstract"), "Ducks")[0] == {"title": "Ducks"}
    assert parse_query(load_task("LongLaMP_topic"), "ducks")[0] == {"summary": "ducks"}


@pytest.mark.parametrize(
    "layout",
    [
        "topic_writing_user/val-00000-of-00001.parquet",
        "topic_writing_user/val/0000.parquet",
        "data/topic_writing_user/val.parquet",
        "val-00000-of-00001.parquet",
        "val/0000.parquet",
    ],
)
def test_folders(tmp_path: Path, layout: str) -> None:
    write(tmp_path / "lamp" / layout, topic("ada", "cats", "x", post("dogs", "a dog")))
    imported = import_lamp(tmp_path / "lamp", tmp_path / "out.jsonl", task="LongLaMP_topic")
    assert imported.records == {"ada": 1}
    with pytest.raises(DataError, match=r"no Parquet files of topic_writing_user, train.*download LongLaMP"):
        import_lamp(tmp_path / "lamp", tmp_path / "out.jsonl", task="LongLaMP_topic", part="train")


def test_another_configuration_is_not_taken(tmp_path: Path) -> None:
    row = topic("ada", "cats", "x", post("dogs", "a dog"))
    write(tmp_path / "lamp" / "product_review_user" / "val-0.parquet", row)
    write(tmp_path / "lamp" / "val-0.parquet", row)
    with pytest.raises(DataError, match="no Parquet files of topic_writing_user, val"):
        import_lamp(tmp_path / "lamp", tmp_path / "out.jsonl", task="LongLaMP_topic")


def test_what_is_not_of_this_shape_is_refused(tmp_path: Path) -> None:
    good = topic("ada", SECRET, "x", post(SECRET, SECRET))

    def refused(what: str, row: dict[str, Any], task: str = "LongLaMP_topic", **more: Any) -> None:
        file = write(tmp_path / "a.parquet", row)
        with pytest.raises(DataError, match=what) as caught:
            import_lamp(file, tmp_path / "out.jsonl", task=task, **more)
        assert SECRET not in str(caught.value) and not list(tmp_path.glob("out*"))

    refused("lacks the columns profile", {name: good[name] for name in ("author", "input")})
    refused("does not have exactly one user column", {name: good[name] for name in ("input", "output", "profile")})
    refused("does not have exactly one user column", good | {"name": "Ada"})
    refused(r"a\.parquet, row 1: the field 'author' is missing", good | {"author": None})
    refused(r"a\.parquet, row 1: .*'ada': the profile is not a list", good | {"profile": "[]"})
    refused(r"a\.parquet, row 1: a JSON object is expected", good | {"profile": [SECRET]})
    refused(r"row 1: The query does not fit task 'LongLaMP_topic'", good | {"input": ""})
    refused("No record in .* has the field 'abstract'", good | {"profile": [{"title": "t"}]}, "LongLaMP_abstract")
    refused("hold the right answers themselves", good, labels=tmp_path / "labels.json")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-40])
    with pytest.raises(DataError, match="is damaged"):
        import_lamp(tmp_path / "b.parquet", tmp_path / "out.jsonl", task="LongLaMP_topic")
