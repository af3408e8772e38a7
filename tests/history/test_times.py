"""One rule for times: what is read, as which moment, and what is refused with its row."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ownlm.errors import DataError
from ownlm.history.readers import read_dataset, read_queries
from ownlm.history.times import UnitCheck, time_key, unit_of
from ownlm.history.values import as_time
from tests.history.files import NEWS, SECRET, row, write_json, write_lines

SEEN = datetime(2021, 3, 4, 10, 15, tzinfo=UTC)
SECONDS = int(SEEN.timestamp())


@pytest.mark.parametrize(
    "given",
    [
        SECONDS,
        float(SECONDS),
        str(SECONDS),
        Decimal(SECONDS),
        f"{SECONDS}.0",
        SECONDS * 1000,
        str(SECONDS * 1000),
        SECONDS * 10**6,
        SECONDS * 10**9,
        float(SECONDS * 1000),
        "2021-03-04T10:15:00Z",
        "2021-03-04T10:15z",
        " 2021-03-04 10:15:00 UTC ",
        "2021-03-04 10:15:00 GMT",
        "2021-03-04 11:15:00 +0100",
        "2021-03-04T15:45:00.000000000+05:30",
        "20210304T101500Z",
        "20210304101500",
        20210304101500,
        "2021-W09-4T10:15",
        "Thu, 04 Mar 2021 10:15:00 +0000",
        "4 Mar 2021 02:15 -0800",
        "Thu, 04 Mar 2021 10:15:00 GMT",
        SEEN,
    ],
)
def test_one_moment_in_many_forms(given: object) -> None:
    time = as_time(given)
    assert time is not None and time_key(time) == SECONDS


@pytest.mark.parametrize(
    ("given", "day"),
    [
        (2021, "2021-01-01"),
        (2021.0, "2021-01-01"),
        ("2021-03", "2021-03-01"),
        (20210304, "2021-03-04"),
        ("2021-12-31T24:00:00", "2022-01-01"),
        ("2021-12-31T24:00Z", "2022-01-01"),
        ("2016-12-31T23:59:60Z", "2017-01-01"),
        ("-86400", "1969-12-31"),
        (-86400000, "1967-04-07"),  # below 1e11: seconds
        (-86400000000, "-"),
        (0, "1970-01-01"),
        (86400.0, "1970-01-02"),
        (9999, "9999-01-01"),
        (-44259, "-"),
    ],
)
def test_days(given: object, day: str) -> None:
    time = as_time(given)
    assert time is not None
    assert time_key(time) == (time_key(day) if day != "-" else given)


@pytest.mark.parametrize(
    "given",
    [
        "03/04/2021", "3/4/21", "04.03.2021", "2021/03/04", "March 4, 2021", "2021-063", "2021-02-29", "10:15",
        "2021-03-04T25:00", "2021-03-04T24:30", "2021-03-04T10:15:60", "9999-12-31T24:00", "0000", "NaT", "nan",
        -2**63, float(-2**63), str(-2**63), -9223372036855, -9223372036854776, -9223372037,
        44259, "44259", 44259.427, 25569, 18690, "10000", 73050,
        "-inf", "infinity", "null", "1_614_852_900", "1,614,852,900", "٢٠٢١", "²", "1e400", 1e20, 10**20,
        202103, "202103041015", 2021.5, "+2021", True, [2021], {"a": 1}, b"2021", float("inf"),
        "Thu, 34 Mar 2021 10:15:00 +0000", f"{SECRET} day",
    ],
)  # fmt: skip
def test_what_is_refused(given: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        as_time(given)
    assert SECRET not in str(caught.value)
    if isinstance(given, bytes):
        return
    rows = [row(id="a"), row(id="b", time=given)]
    file = write_lines(tmp_path / "d.jsonl", rows)
    with pytest.raises(DataError, match=r"d\.jsonl:2: user 'u1': the field 'time' is "):
        read_dataset(file, NEWS)
    dataset = read_dataset(file, NEWS, skip_bad=True)
    assert len(dataset.histories[0]) == len(dataset.bad) == 1


def test_what_homes_hold_already_is_placed() -> None:
    """Times that were read before this rule still have a place, so that such homes open."""
    for old in ("202103", "1_000", "2021.5", "1e30", "+2021", "202103041015"):
        assert isinstance(time_key(old), float)


UNITS: list[tuple[list[object], int | None]] = [  # times, and the place of the first that is refused
    ([SECONDS, SECONDS + 1], None),
    ([SECONDS, SECONDS * 1000], 2),
    ([SECONDS * 1000, SECONDS * 1000 + 1, SECONDS], 3),
    ([SECONDS * 10**6, SECONDS * 10**9], 2),
    ([SECONDS, "2021-03-04", None, SECONDS], None),  # a date says what it is
    ([2021, "2021-03-04", 20210304], None),
    ([2021, SECONDS], 2),
    ([86400, 2021], 2),
    ([20210304, 20219999], 2),  # no date, so a number of seconds
    ([0, SECONDS * 1000, SECONDS * 1000], None),
    ([SECONDS * 1000, 0], None),
    ([0, 2021], 2),
    ([2021, 0], 2),
    ([0, 0], None),
    ([SECONDS * 1000, -SECONDS * 1000], None),
    ([1.5, 86400], None),
]


@pytest.mark.parametrize(("times", "bad"), UNITS)
@pytest.mark.parametrize("kind", ["lines", "array", "lamp", "queries"])
def test_one_unit_a_file(tmp_path: Path, times: list[object], bad: int | None, kind: str) -> None:
    rows = [row(f"u{place}", id=str(place), time=time) for place, time in enumerate(times)]
    if kind == "queries":
        file = write_lines(tmp_path / "q.jsonl", rows)
    elif kind == "lamp":
        people = [{"user_id": one["user_id"], "profile": [one], "query": []} for one in rows]
        file = write_json(tmp_path / "d.json", people)
    else:
        file = write_json(tmp_path / "d.json", rows) if kind == "array" else write_lines(tmp_path / "d.jsonl", rows)

    def read() -> Any:
        return read_queries(file, NEWS) if kind == "queries" else read_dataset(file, NEWS)

    if bad is None:
        assert len(read() if kind == "queries" else read().histories) == len(times)
        return
    place = {"lines": f":{bad}: ", "queries": f":{bad}: ", "array": f", item {bad}: "}.get(kind, f"'u{bad - 1}', prof")
    with pytest.raises(DataError, match=r"the time is a number of .* by its size, and the one at ") as caught:
        read()
    assert place in str(caught.value)
    if kind != "queries":
        dataset = read_dataset(file, NEWS, skip_bad=True)
        assert len(dataset.bad) == 1 and len(dataset.histories) == len(times) - 1


@pytest.mark.parametrize("kind", ["lines", "lamp", "queries"])
def test_a_first_time_that_is_the_odd_one(tmp_path: Path, kind: str) -> None:
    """Left out would be the good rows; so this is an error of the file, which names both places."""
    times = [SECONDS * 1000, SECONDS, SECONDS + 1, SECONDS + 2]
    rows = [row("u", text=f"text {time}", id=str(place), time=time) for place, time in enumerate(times)]
    people = [{"user_id": "u", "profile": rows, "query": []}]
    file = write_json(tmp_path / "d", people) if kind == "lamp" else write_lines(tmp_path / "d", rows)
    with pytest.raises(DataError) as caught:
        read_queries(file, NEWS) if kind == "queries" else read_dataset(file, NEWS, skip_bad=True)
    first, second = ("profile item 1", "profile item 2") if kind == "lamp" else ("d:1", "d:2")
    assert first in str(caught.value) and second in str(caught.value)


NAMED: list[tuple[str, dict[str, Any], bool]] = [  # a column, another, and whether the first is noted
    *((name, {}, True) for name in ("timestamp", "created_at", "datetime", "Time", "Date", "createdAt", "created_utc")),
    ("timestamp", {"time": 2021}, False),
    ("timestamp", {"date": "2021"}, False),
    ("times", {}, False),
    ("dateline", {}, False),
]


@pytest.mark.parametrize("kind", ["lines", "csv", "parquet"])
@pytest.mark.parametrize(("name", "more", "noted"), NAMED)
def test_a_time_under_another_name_is_noted(
    tmp_path: Path, name: str, more: dict[str, Any], noted: bool, kind: str
) -> None:
    one = row(**{name: "2021-03-04"}, **more)
    if kind == "lines":
        file = write_lines(tmp_path / "d", [one, one | {"user_id": "v"}])
    elif kind == "csv":
        file = tmp_path / "d.csv"
        file.write_text("\n".join(",".join(map(str, cells)) for cells in (one, one.values())) + "\n", "utf8")
    else:
        file = tmp_path / "d.parquet"
        pq.write_table(pa.table({key: [str(value)] for key, value in one.items()}), file)
    notes = read_dataset(file, NEWS).notes
    assert [f"column {name!r} is not read; rename it to 'time'" in note for note in notes] == [True] * noted


def test_units() -> None:
    named = {2021: "years or dates", 20210304: "years or dates", 86400: "seconds", -2021: "seconds"}
    assert {given: unit_of(str(given)) for given in named} == named
    check = UnitCheck()
    check.check(None, "a")
    check.check("2021-03-04", "b")


def raw(type: Any, *values: int) -> Any:
    """A column of exactly these numbers of units."""
    numbers = pa.array(values, pa.int32() if pa.types.is_date32(type) else pa.int64())
    return pa.Array.from_buffers(type, len(values), numbers.buffers())


FAR = 10**18
PARQUET: list[tuple[str, Any, list[str | None]]] = [  # two values: of 2021-03-04T10:15, and another, None where refused
    ("ms", raw(pa.timestamp("ms"), SECONDS * 1000, FAR), ["2021-03-04T10:15:00", None]),
    ("us", raw(pa.timestamp("us"), SECONDS * 10**6, -FAR), ["2021-03-04T10:15:00", None]),
    ("ns", raw(pa.timestamp("ns"), SECONDS * 10**9 + 1, FAR), ["2021-03-04T10:15:00", "2001-09-09T01:46:40"]),
    ("zone", raw(pa.timestamp("us", "Europe/Berlin"), SECONDS * 10**6, FAR), ["2021-03-04T11:15:00+01:00", None]),
    ("no zone", raw(pa.timestamp("us", "Mars/Base"), SECONDS * 10**6, FAR), [None, None]),
    ("date32", raw(pa.date32(), SECONDS // 86400, 2**31 - 1), ["2021-03-04", None]),
    ("date64", raw(pa.date64(), SECONDS // 86400 * 86400000, FAR // 86400000 * 86400000), ["2021-03-04", None]),
    ("dictionary", raw(pa.timestamp("us"), SECONDS * 10**6, FAR).dictionary_encode(), ["2021-03-04T10:15:00", None]),
    ("dictionary ns", raw(pa.timestamp("ns"), SECONDS * 10**9 + 1, 5).dictionary_encode(),
     ["2021-03-04T10:15:00", "1970-01-01T00:00:00"]),
    ("decimal", pa.array([Decimal(SECONDS), Decimal("1.25")]), [str(SECONDS), "1.25"]),
    ("integers", pa.array([SECONDS * 1000, SECONDS]), [str(SECONDS * 1000), None]),
    ("floats", pa.array([float(SECONDS), float("nan")]), [str(SECONDS), None]),
    ("truth", pa.array([True, None]), [None, ""]),
    ("clock", pa.array([1, None], pa.time32("s")), [None, ""]),
    ("duration", pa.array([1, None], pa.duration("s")), [None, ""]),
    ("bytes", pa.array([b"2021", None]), [None, ""]),
    ("NaT", pa.array([None, "2021"]), ["", "2021"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "column", "expected"), PARQUET, ids=[name for name, *_ in PARQUET])
def test_parquet(tmp_path: Path, name: str, column: Any, expected: list[str | None]) -> None:
    table = pa.table({"user_id": ["u0", "u1"], "text": [SECRET, SECRET], "category": ["arts", "arts"], "time": column})
    pq.write_table(table, tmp_path / "d.parquet")
    refused = expected.index(None) if None in expected else None
    if refused is not None:
        with pytest.raises(DataError, match=rf"d\.parquet, row {refused + 1}: .*time") as caught:
            read_dataset(tmp_path / "d.parquet", NEWS)
        assert SECRET not in str(caught.value)
        if not any(expected):
            return
    dataset = read_dataset(tmp_path / "d.parquet", NEWS, skip_bad=True)
    times = {history.user_id: history.records[0].time or "" for history in dataset.histories}
    assert times == {f"u{place}": time for place, time in enumerate(expected) if time is not None}


def test_int96_does_not_wrap(tmp_path: Path) -> None:
    years_2262_and_beyond = raw(pa.timestamp("us"), 250_000_000_000 * 10**6)
    table = pa.table({"user_id": ["u"], "text": ["rain"], "category": ["arts"], "time": years_2262_and_beyond})
    pq.write_table(table, tmp_path / "d.parquet", use_deprecated_int96_timestamps=True)
    (history,) = read_dataset(tmp_path / "d.parquet", NEWS).histories
    assert history.records[0].time == "9892-03-08T12:26:40"
