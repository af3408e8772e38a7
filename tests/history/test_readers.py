import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ownlm.errors import DataError
from ownlm.history.readers import read_dataset, read_queries
from ownlm.history.record import Dataset, Record
from ownlm.history.task import load_task
from tests.history.files import NEWS, SECRET, row, write_json, write_lines

CHOICE = load_task("LaMP_1")


def read(tmp_path: Path, *rows: Any, **how: Any) -> Dataset:
    return read_dataset(write_lines(tmp_path / "d.jsonl", list(rows)), how.pop("task", NEWS), **how)


def records(dataset: Dataset) -> list[Record]:
    return [record for history in dataset.histories for record in history.records]


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    columns = dict.fromkeys(name for each in rows for name in each)
    table = pa.table({name: [each.get(name) for each in rows] for name in columns})
    pq.write_table(table, path, write_page_checksum=True, compression="none")
    return path


def test_importing_loads_no_heavy_library() -> None:
    code = "import sys, ownlm.history.readers; print(*{'torch', 'pyarrow', 'bm25s', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_lines_become_histories(tmp_path: Path) -> None:
    dataset = read(
        tmp_path,
        row("u2", " rain\n", id="a", time="2021", title=" ", other="dropped"),
        b"  ",
        row(1, 7, "politics", id=5, date="2020-05-05", title="T"),
        row("u2", "snow", id="b", time="2020", date="2022"),
    )
    assert [history.user_id for history in dataset.histories] == ["u2", "1"]
    assert records(dataset) == [
        Record("u2", "b", {"text": "snow", "category": "arts"}, "2020"),
        Record("u2", "a", {"text": "rain", "category": "arts"}, "2021"),
        Record("1", "5", {"title": "T", "text": "7", "category": "politics"}, "2020-05-05"),
    ]
    assert (dataset.queries, dataset.instruction, dataset.labels, dataset.bad) == ([], None, None, [])


ROWS = [
    row("u1", "rain", time="2020"),
    row("u2", "snow €", "politics", id="x"),
    row("u1", "sun", time="2019", title="T"),
]


@pytest.mark.parametrize(
    "shape", ["lines", "lines as .json", "with a BOM", "array", "array as .jsonl", "parquet", "parquet as .data"]
)
def test_every_kind_of_file_says_the_same(tmp_path: Path, shape: str) -> None:
    expected = read(tmp_path, *ROWS)
    if shape.startswith("parquet"):
        file = write_parquet(tmp_path / ("d.data" if "data" in shape else "d.parquet"), ROWS)
    elif shape.startswith("array"):
        file = write_json(tmp_path / ("d.jsonl" if "jsonl" in shape else "d.json"), ROWS)
    else:
        file = write_lines(tmp_path / ("d.json" if "json" in shape else "e.jsonl"), ROWS)
    if shape == "with a BOM":
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read_dataset(file, NEWS) == expected
    assert len(records(expected)) == 3


def test_an_id_is_made_from_the_content(tmp_path: Path) -> None:
    first = records(read(tmp_path, row(), row("u2"), row(time="2020"), row(text="sun")))
    assert len({record.id for record in first}) == 4
    again = records(read(tmp_path, row(text="snow"), row(), row()))
    assert [record.id for record in again][1:] == [first[0].id]
    assert first[0].id == "18f53b75b91c2020"  # must stay so: homes know records by it


def test_the_same_id_twice(tmp_path: Path) -> None:
    assert len(records(read(tmp_path, row(id="a"), row(id="a"), row("u2", "sun", id="a")))) == 2
    for other in (row(text=SECRET, id="a"), row(id="a", time="2020")):
        with pytest.raises(DataError, match=r"d\.jsonl:2: user 'u1': the record 'a' is repeated") as caught:
            read(tmp_path, row(id="a"), other)
        assert SECRET not in str(caught.value)


BAD: list[tuple[Any, str]] = [
    (json.dumps(row(text=SECRET)).encode()[:-9], "not one whole JSON object"),
    (f'{{"text": "{SECRET}'.encode() + b'\xff"}', "not UTF-8"),
    (f'["{SECRET}"]'.encode(), "not a list"),
    (f'"{SECRET}"'.encode(), "not a str"),
    (b"[" * 100_000, "not one whole JSON object"),
    ({"text": SECRET, "category": "arts"}, "'user_id' is missing or blank"),
    (row(user=None, text=SECRET), "'user_id' is missing or blank"),
    (row(user=" ", text=SECRET), "'user_id' is missing or blank"),
    (row(user=1.5, text=SECRET), "'user_id' is a number with a point"),
    (row(user=[SECRET]), "'user_id' is a list"),
    (row(user=True, text=SECRET), "'user_id' is true or false"),
    ({"user_id": "u1", "text": SECRET}, "user 'u1': the field 'category' is missing or blank"),
    (row(text=None, category=SECRET), "user 'u1': the field 'text' is missing or blank"),
    (row(text=" \n", category=SECRET), "user 'u1': the field 'text' is missing or blank"),
    (row(text=[SECRET]), "user 'u1': the field 'text' is a list"),
    (row(text=float("nan"), category=SECRET), "user 'u1': the field 'text' is not a finite number"),
    (json.dumps(row(text=SECRET + "\ud800")).encode(), "half a character"),
    (row(id={SECRET: 1}), "user 'u1': the field 'id' is an object"),
    (row(id=2.5, text=SECRET), "user 'u1': the field 'id' is a number with a point"),
    (row(user="ada\u202e", text=SECRET), "'user_id' holds RIGHT-TO-LEFT OVERRIDE (U+202E)"),
    (
        f'{{"user_id": "u1", "text": "{SECRET}", "text": "x", "category": "arts"}}'.encode(),
        "the name 'text' is repeated",
    ),
    (f'{{"user_id": "u1", "text": "{SECRET}\\ud800", "category": "arts"}}'.encode(), "half a character"),
    (b"\0\0\0\0", "NUL bytes"),
    (b"{", "`jq -c .` writes each on one line"),
    (row(time=SECRET), "user 'u1': the field 'time' is not a time"),
    (row(time=float("inf"), text=SECRET), "user 'u1': the field 'time' is not a finite number"),
    (row(date="nan", text=SECRET), "user 'u1': the field 'date' is not a time"),
]


@pytest.mark.parametrize(("bad", "what"), BAD)
def test_a_bad_row_is_named_or_left_out(tmp_path: Path, bad: Any, what: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, row(), b"", bad, row("u2"))
    for part in ("d.jsonl:3: ", what, "leave bad rows out"):
        assert part in str(caught.value)
    assert "--skip-bad" in str(caught.value.command) and "--" not in str(caught.value.hint)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    dataset = read(tmp_path, row(), b"", bad, row("u2"), skip_bad=True)
    assert len(records(dataset)) == 2
    assert len(dataset.bad) == 1 and "d.jsonl:3: " in dataset.bad[0] and what in dataset.bad[0]
    assert SECRET not in dataset.bad[0]


def test_a_bad_item_of_an_array_is_named(tmp_path: Path) -> None:
    file = write_json(tmp_path / "d.json", [row(), SECRET, row(text=None)])
    with pytest.raises(DataError, match=r"d\.json, item 2: ") as caught:
        read_dataset(file, NEWS)
    assert SECRET not in str(caught.value)
    assert len(read_dataset(file, NEWS, skip_bad=True).bad) == 2


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.parquet"])
def test_a_file_that_is_none(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    with pytest.raises(DataError, match="no file"):
        read_dataset(file, NEWS)
    file.mkdir()
    with pytest.raises(DataError, match="folder"):
        read_dataset(file, NEWS)
    file.rmdir()
    for content in (b"", b"\n \n", b"\xef\xbb\xbf", b"\n" * 5000):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"no rows|damaged"):
            read_dataset(file, NEWS, skip_bad=True)


@pytest.mark.parametrize("content", [b"[]", b"[{", b'[{"user_id": "\xff"}]', b"[" * 100_000, b"[1] [2]"])
def test_a_document_that_is_not_whole(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d.json").write_bytes(content)
    with pytest.raises(DataError):
        read_dataset(tmp_path / "d.json", NEWS, skip_bad=True)


def test_parquet_of_other_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "user_id": pa.array([1, 2]),
            "id": pa.array(["a", None]),
            "date": pa.array([1_600_000_000_123_456_789, None], pa.timestamp("ns")),
            "text": pa.array(["rain", "sun"]).dictionary_encode(),
            "category": pa.array([4.0, 4.5]),
            "unknown": pa.array([[1], [2]]),
        }
    )
    pq.write_table(table, tmp_path / "d.parquet")
    task = NEWS.model_copy(update={"labels": ("4", "4.5")})
    one, other = records(read_dataset(tmp_path / "d.parquet", task))
    assert one == Record("1", "a", {"text": "rain", "category": "4"}, "2020-09-13T12:26:40.123456")
    assert (dict(other.fields), other.time) == ({"text": "sun", "category": "4.5"}, None)


def test_parquet_that_is_bad(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "d.parquet", [row(), row(text=None), row(text=SECRET, time="then")])
    with pytest.raises(DataError, match=r"d\.parquet, row 2: user 'u1': the field 'text'"):
        read_dataset(file, NEWS)
    dataset = read_dataset(file, NEWS, skip_bad=True)
    assert len(records(dataset)) == 1 and len(dataset.bad) == 2 and SECRET not in str(dataset.bad)
    write_parquet(file, [{"user_id": "u1", "text": "rain"}])
    with pytest.raises(DataError, match="lacks the columns category"):
        read_dataset(file, NEWS)
    file.write_bytes(json.dumps(row()).encode())
    with pytest.raises(DataError, match="damaged"):
        read_dataset(file, NEWS)


def test_parquet_that_was_cut_or_changed(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "d.parquet", [row(text=f"rain {number}") for number in range(50)])
    whole, expected = file.read_bytes(), read_dataset(file, NEWS)
    for end in range(0, len(whole), 37):
        file.write_bytes(whole[:end])
        with pytest.raises(DataError):
            read_dataset(file, NEWS)
    place = whole.index(b"rain 25") + 5
    file.write_bytes(whole[:place] + b"9" + whole[place + 1 :])
    with pytest.raises(DataError, match="damaged"):
        read_dataset(file, NEWS)
    file.write_bytes(whole)
    assert read_dataset(file, NEWS) == expected


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["u1", "u2"]), texts, texts, st.booleans()), min_size=1, max_size=3))
def test_lines_cut_at_any_byte(tmp_path: Path, content: list[tuple[str, str, str, bool]]) -> None:
    rows = [row(user, text, label, id=str(place)) for place, (user, text, label, _) in enumerate(content)]
    lines = [json.dumps(each, ensure_ascii=plain).encode() for each, (*_, plain) in zip(rows, content, strict=True)]
    task = NEWS.model_copy(update={"labels": None})
    whole = b"\n".join(lines)
    file = tmp_path / "d.jsonl"
    for end in range(len(whole) + 1):
        file.write_bytes(whole[:end])
        complete = [each for place, each in enumerate(rows) if end >= len(b"\n".join(lines[: place + 1]))]
        try:
            got = {record.id: dict(record.fields) for record in records(read_dataset(file, task))}
        except DataError as error:
            assert not complete or whole[:end].count(b"\n") >= len(complete), error
            continue
        assert got == {
            str(each["id"]): {"text": str(each["text"]).strip(), "category": str(each["category"]).strip()}
            for each in complete
        }


def test_what_options_are_made_from_may_be_missing(tmp_path: Path) -> None:
    rows = [
        {"user_id": "u", "title": "T", "abstract": "dropped"},
        {"user_id": "u", "title": "T", "citation": "C", "other": "O"},
    ]
    got = records(read(tmp_path, *rows, task=CHOICE))
    assert [dict(record.fields) for record in got] == [{"title": "T"}, {"title": "T", "citation": "C", "other": "O"}]
    with pytest.raises(DataError, match="'title' is missing"):
        read(tmp_path, {"user_id": "u", "citation": "C"}, task=CHOICE)


def test_a_label_file_does_not_go_with_plain_rows(tmp_path: Path) -> None:
    for read_any in (read_dataset, read_queries):
        with pytest.raises(DataError, match="plain rows"):
            read_any(write_lines(tmp_path / "d.jsonl", [row()]), NEWS, labels=tmp_path / "labels.json")


def test_queries_as_text_or_as_fields(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"user_id": "u", "id": 1, "input": "rain", "gold": " arts ", "time": "2020"},
        {"user_id": "u", "input": {"text": "rain", "title": "T"}},
        {"user_id": "u", "text": "rain", "title": "T", "input": None},
        {"user_id": "v", "id": "1", "text": "sun", "gold": 3},
    ]
    expected = [({"text": "rain"}, "arts", "2020"), ({"title": "T", "text": "rain"}, None, None)]
    expected += [expected[1], ({"text": "sun"}, "3", None)]
    file = write_lines(tmp_path / "q.jsonl", rows)
    queries = read_queries(file, NEWS)
    assert [(dict(query.fields), query.gold, query.time) for query in queries] == expected
    assert (queries[0].id, queries[1].id == queries[2].id) == ("1", True)
    assert read_queries(write_json(tmp_path / "q.json", rows), NEWS) == queries
    flat = [query | {"text": "rain"} if "input" in query else query for query in (rows[0], rows[3])]
    parquet = write_parquet(tmp_path / "q.parquet", [{**each, "id": str(each["id"]), "gold": "g"} for each in flat])
    assert [dict(query.fields) for query in read_queries(parquet, NEWS)] == [{"text": "rain"}, {"text": "sun"}]


@pytest.mark.parametrize(
    "bad",
    [
        {"input": SECRET},
        {"user_id": "u", "gold": SECRET},
        {"user_id": "u", "input": [SECRET]},
        {"user_id": "u", "input": {"title": SECRET}},
        {"user_id": "u", "input": SECRET, "gold": [SECRET]},
        {"user_id": "u", "input": SECRET, "time": SECRET},
        {"user_id": "u", "id": "a", "input": SECRET},
    ],
)
def test_bad_queries(tmp_path: Path, bad: dict[str, Any]) -> None:
    file = write_lines(tmp_path / "q.jsonl", [{"user_id": "u", "id": "a", "input": "rain"}, bad])
    with pytest.raises(DataError, match=r"q\.jsonl:2: ") as caught:
        read_queries(file, NEWS)
    assert SECRET not in str(caught.value)


def test_a_query_that_the_task_cannot_take_apart(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "q.jsonl", [{"user_id": "u", "input": SECRET}])
    with pytest.raises(DataError, match=r"q\.jsonl:1: user 'u': The query does not fit task 'LaMP_1'") as caught:
        read_queries(file, CHOICE)
    assert SECRET not in str(caught.value)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["u1", "2020", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["user_id", "id", "time", "text", "category", "profile", "query", "input", "gold"]), inner
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(json_values, max_size=3), st.booleans())
def test_any_json_is_read_or_refused(tmp_path: Path, content: list[Any], array: bool) -> None:
    file = write_json(tmp_path / "d", content) if array else write_lines(tmp_path / "d", content)
    try:
        got = records(read_dataset(file, NEWS))
    except DataError:
        return
    assert got or any("profile" in each for each in content)
    for record in got:
        assert record.user_id.strip() and record.id.strip() and record.fields["text"].strip()


def test_the_task_stays_as_it_is(tmp_path: Path) -> None:
    before = copy.deepcopy(NEWS)
    read(tmp_path, *ROWS)
    assert before == NEWS
