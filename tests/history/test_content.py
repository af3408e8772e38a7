"""What files hold, whatever their names: packed, in other encodings, as tables, or something that is never read."""

import bz2
import csv
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from ownlm.errors import DataError
from ownlm.history import content
from ownlm.history.readers import read_dataset, read_queries
from ownlm.history.record import Record
from tests.history.files import NEWS, SECRET, row

ROWS = [row("ada", "rain, or\nsnow €", time="2020", id="1"), row("bob", '"sun"', "politics", id="2")]
LINES = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in ROWS).encode()
ARRAY = json.dumps(ROWS).encode()


def zstd(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)  # type: ignore[no-any-return]


def zipped(data: bytes, *names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names or ("d.jsonl",):
            archive.writestr(name, data)
    return file.getvalue()


def table(delimiter: str = ",", quoting: Any = csv.QUOTE_MINIMAL, end: str = "\r\n") -> bytes:
    text = io.StringIO(newline="")
    names = ["user_id", "id", "time", "title", "text", "category", "other"]
    writer = csv.DictWriter(text, names, delimiter=delimiter, quoting=quoting, lineterminator=end)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd, "zip": zipped,
}  # fmt: skip

READ: dict[str, bytes] = {
    **{f"{name}, lines": pack(LINES) for name, pack in PACKERS.items()},
    **{f"{name}, array": pack(ARRAY) for name, pack in PACKERS.items()},
    **{f"{name}, table": pack(table()) for name, pack in PACKERS.items()},
    "two gzip members": gzip.compress(LINES[:40]) + gzip.compress(LINES[40:]),
    "two xz streams": lzma.compress(LINES[:40]) + lzma.compress(LINES[40:]) + b"\0" * 8,
    "two zstd frames": zstd(LINES[:40]) + zstd(LINES[40:]),
    "two bzip2 streams": bz2.compress(LINES[:40]) + bz2.compress(LINES[40:]),
    "lzma": lzma.compress(LINES, lzma.FORMAT_ALONE),
    "zstd after a frame that is skipped": b"\x5a\x2a\x4d\x18\x04\0\0\0rain" + zstd(LINES),
    "zip by a Mac": zipped(LINES, "rows/d.jsonl", "rows/.DS_Store", "__MACOSX/rows/._d.jsonl"),
    "UTF-16": LINES.decode().encode("utf-16"),
    "UTF-16 big": "\ufeff".encode("utf-16-be") + LINES.decode().encode("utf-16-be"),
    "UTF-32": ARRAY.decode().encode("utf-32"),
    "an array on one line": ARRAY + b"\n",
    "an array after blanks": b"\n \n" + ARRAY,
    "an array with a BOM": b"\xef\xbb\xbf" + ARRAY,
    "an array over lines": json.dumps(ROWS, indent=2).encode(),
    "lines that end in CR LF": LINES.replace(b"\n", b"\r\n"),
    "table": table(),
    "table with a BOM": b"\xef\xbb\xbf" + table(),
    "semicolons": table(";"),
    "semicolons, as Excel says": b"sep=;\r\n" + table(";"),
    "tabs": table("\t", end="\n"),
    "Excel's Unicode text": table("\t").decode().encode("utf-16"),
    "bars": table("|"),
    "all quoted": table(quoting=csv.QUOTE_ALL),
    "blank lines": b"\r\n" + table().replace(b"\r\n", b"\r\n\r\n") + b",,,,,,\r\n",
}


@pytest.mark.parametrize("name", ["d", "d.jsonl", "d.csv", "d.json.gz"])
@pytest.mark.parametrize("what", READ)
def test_the_same_is_read_of_all(tmp_path: Path, what: str, name: str) -> None:
    (tmp_path / name).write_bytes(READ[what])
    records = [record for history in read_dataset(tmp_path / name, NEWS).histories for record in history.records]
    texts = [record.fields["text"].replace("\r\n", "\n") for record in records]
    assert texts == ["rain, or\nsnow €", '"sun"']
    assert [(record.user_id, record.id, record.time) for record in records] == [
        ("ada", "1", "2020"),
        ("bob", "2", None),
    ]


def sqlite(folder: Path) -> bytes:
    with sqlite3.connect(folder / "made.db") as database:
        database.execute("CREATE TABLE t (x)")
    database.close()
    return (folder / "made.db").read_bytes()


def saved(write: Callable[[Any], Any]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


ARROW = pa.table({"user_id": ["u"]})
HTML = b"<!DOCTYPE html>\n<html><title>Sign in</title></html>"
REFUSED: dict[str, tuple[bytes | Callable[[Path], bytes], str]] = {
    "pickle": (pickle.dumps(ROWS), "a Python pickle"),
    "old pickle": (pickle.dumps(ROWS, 0), "a Python pickle"),
    "pickle of pandas": (pickle.dumps({"a": np.ones(2)}, 2), "a Python pickle"),
    "NumPy": (saved(lambda file: np.save(file, np.ones(2))), "a NumPy array"),
    "NumPy archive": (saved(lambda file: np.savez(file, a=np.ones(2), b=np.ones(1))), "archive of NumPy"),
    "SQLite": (sqlite, "an SQLite database"),
    "Excel": (zipped(b"<x/>", "[Content_Types].xml", "xl/workbook.xml"), "an Excel workbook"),
    "old Excel": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "old Microsoft Office"),
    "Word": (zipped(b"<x/>", "[Content_Types].xml", "word/document.xml"), "a Word document"),
    "OpenDocument": (zipped(b"x", "mimetype", "META-INF/manifest.xml"), "an OpenDocument file"),
    "zip of two": (zipped(LINES, "a.jsonl", "b.jsonl"), "holds 2 files"),
    "empty zip": (saved(lambda file: zipfile.ZipFile(file, "w").close()), "an empty zip archive"),
    "tar": (b"d.jsonl".ljust(257, b"\0") + b"ustar\0" + b"0" * 300, "a tar archive"),
    "tar.gz": (gzip.compress(b"d.jsonl".ljust(257, b"\0") + b"ustar\0" + b"0" * 300), "a tar archive"),
    "packed twice": (gzip.compress(gzip.compress(LINES)), "within a packed file"),
    "packed Parquet": (gzip.compress(b"PAR1" + b"\0" * 99), "within a packed file"),
    "HTML": (HTML, "a web page"),
    "packed HTML": (gzip.compress(HTML), "a web page"),
    "XML": (b'<?xml version="1.0"?><rows/>', "XML or HTML"),
    "PDF": (b"%PDF-1.7\n", "a PDF document"),
    "Feather": (saved(lambda file: pyarrow.feather.write_feather(ARROW, file)), "an Arrow (Feather) file"),
    "ORC": (saved(lambda file: pyarrow.orc.write_table(ARROW, file)), "an ORC file"),
    "Avro": (b"Obj\x01" + b"\0" * 9, "an Avro file"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 9, "an HDF5 file"),
    "7-Zip": (b"7z\xbc\xaf\x27\x1c\0\x04", "a 7-Zip archive"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "a pointer of Git LFS"),
    "mailbox": (b"From ada@example.org Thu Mar  4 10:15:00 2021\nFrom: Ada\n\nHello\n", "a mailbox. Expected"),
    "UTF-16 without a BOM": (LINES.decode().encode("utf-16-le"), "begins with NUL bytes"),
    "NULs": (b"\0" * 99, "begins with NUL bytes"),
    "half UTF-16": (LINES.decode().encode("utf-16") + b"x", "not the UTF-16"),
    **{f"half a {name}": (pack(LINES * 99)[:-30], "damaged or cut off") for name, pack in PACKERS.items()},
    "gzip with rubbish": (gzip.compress(LINES) + b"rubbish", "damaged or cut off"),
    "bzip2 with rubbish": (bz2.compress(LINES) + b"rubbish", "damaged or cut off"),
    "bzip2 with a damaged second stream": (bz2.compress(LINES) + b"BZh9rubbish" * 9, "damaged or cut off"),
    "bzip2 with half a second stream": (bz2.compress(LINES) + bz2.compress(LINES * 9)[:-20], "damaged or cut off"),
    "Parquet with a column twice": (
        saved(
            lambda file: pq.write_table(
                pa.Table.from_arrays([pa.array(["u"])] * 4, ["user_id", "text", "category", "text"]), file
            )
        ),
        "two columns 'text'",
    ),
    "an array and more": (ARRAY + b"\n" + ARRAY, "Extra data, line 2"),
    "an object over lines": (
        json.dumps(ROWS[0], indent=2).encode(),
        "d.jsonl:1: the line is not one whole JSON object",
    ),
    "rows as arrays": (b'["ada", "rain"]\n["bob", "sun"]\n', "one object a line"),
}


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize("what", REFUSED)
def test_others_are_refused_by_what_they_are(tmp_path: Path, what: str, skip_bad: bool) -> None:
    data, said = REFUSED[what]
    (tmp_path / "d.jsonl").write_bytes(data if isinstance(data, bytes) else data(tmp_path))
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path / "d.jsonl", NEWS, skip_bad=skip_bad)
    assert said in str(caught.value) and "rain" not in str(caught.value)


@pytest.mark.parametrize("name", PACKERS)
def test_what_grows_beyond_reason_is_not_unpacked(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "_MOST_UNPACKED", 1 << 20)
    monkeypatch.setattr(content, "_MOST_TIMES", 2)
    (tmp_path / "d").write_bytes(PACKERS[name](b" " * (3 << 20)))
    with pytest.raises(DataError, match="unpacks to more than 1,048,576 bytes"):
        read_dataset(tmp_path / "d", NEWS)


HEADER = "user_id,text,category\n"
TABLES: list[tuple[str, str, int]] = [  # a table, what is wrong in it, and how many rows are good
    (HEADER + "u,rain,arts\nu,sun\n", "d.csv:3: the row has 2 columns, the first line 3", 1),
    (HEADER + "u,rain,arts,x\nu,sun,arts\n", "d.csv:2: the row has 4 columns, the first line 3", 1),
    (HEADER + 'u,"two\nlines",arts\n,sun,arts\n', "d.csv:4: the field 'user_id' is missing or blank", 1),
    (HEADER + 'u,"rain" or,arts\nu,sun,arts\n', "d.csv:2: the quotes of the row do not match", 1),
    (HEADER + 'u,sun,arts\nu,"rain,arts\nu,sun,arts\n', "d.csv:3: the quotes of the row do not match", 1),
    (HEADER + "u,r\udce9sum\udce9,arts\nu,sun,arts\n", "d.csv:2: the line is not UTF-8", 1),
    (HEADER + "u,,arts\nu,sun,arts\n", "d.csv:2: user 'u': the field 'text' is missing or blank", 1),
    ("user_id,text\nu,rain\n", "lacks the columns category. Expected: a table with the columns", 0),
    ("text,category\nrain,arts\n", "lacks the columns user_id", 0),
    ("user_id,text,text,category\nu,rain,sun,arts\n", "two columns 'text'", 0),
    (HEADER, "holds no rows", 0),
    ("", "holds no rows", 0),
]


@pytest.mark.parametrize(("text", "said", "good"), TABLES)
def test_tables_that_are_wrong(tmp_path: Path, text: str, said: str, good: int) -> None:
    file = tmp_path / "d.csv"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError) as caught:
        read_dataset(file, NEWS)
    assert said in str(caught.value)
    if good:
        dataset = read_dataset(file, NEWS, skip_bad=True)
        assert (len(dataset.histories[0]), len(dataset.bad)) == (good, 1)


def test_a_table_of_queries(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("user_id,input,text,title,gold\nu,,rain,,arts\nv,sun,,,\n", "utf8")
    queries = read_queries(tmp_path / "q.csv", NEWS)
    assert [(dict(query.fields), query.gold) for query in queries] == [
        ({"text": "rain"}, "arts"),
        ({"text": "sun"}, None),
    ]


def test_a_long_cell_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(HEADER + f"u,{'rain ' * 60_000},arts\n", "utf8")
    (history,) = read_dataset(tmp_path / "d.csv", NEWS).histories
    assert len(history.records[0].fields["text"]) == 299_999


def test_blank_optional_fields_are_absent(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("user_id,id,time,date,title,text,category\nu,,, , ,rain,arts\n", "utf8")
    lines = json.dumps(
        {"user_id": "u", "id": " ", "time": "", "date": None, "title": "", "text": "rain", "category": "arts"}
    )
    (tmp_path / "d.jsonl").write_text(lines, "utf8")
    bare = Record("u", "", {"text": "rain", "category": "arts"})
    for name in ("d.csv", "d.jsonl"):
        ((record,),) = [history.records for history in read_dataset(tmp_path / name, NEWS).histories]
        assert (record.user_id, record.fields, record.time) == (bare.user_id, bare.fields, None)
        assert len(record.id) == 16


@pytest.mark.parametrize("shape", ["lines", "array", "table", "lamp"])
def test_skipping_all_of_a_file_is_an_error(tmp_path: Path, shape: str) -> None:
    bad: list[dict[str, Any]] = [row(text=None, category=SECRET), row(text=" ", category=SECRET)]
    if shape == "table":
        text = HEADER + f"u,,{SECRET}\nu,,{SECRET}\n"
    elif shape == "lamp":
        text = json.dumps([{"user_id": "u", "profile": bad, "query": [{"id": "q", "input": "rain"}]}])
    else:
        text = json.dumps(bad) if shape == "array" else "".join(json.dumps(one) + "\n" for one in bad)
    (tmp_path / "d").write_text(text, "utf8")
    with pytest.raises(DataError, match=r"No row of the file .* can be read. Got: 2 bad ones; the first: ") as caught:
        read_dataset(tmp_path / "d", NEWS, skip_bad=True)
    assert SECRET not in str(caught.value)
