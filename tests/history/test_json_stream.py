"""Documents that are decoded item by item say what `json.loads` says of the whole."""

import io
import json
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ownlm.errors import DataError
from ownlm.history import json_stream
from ownlm.history.json_stream import Repeated, read_items, read_members
from ownlm.history.readers import read_dataset
from ownlm.history.task import load_task

PATH = Path("d.json")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(params=[1, 7, 1 << 20])
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", request.param)


def items(data: bytes) -> list[object]:
    return list(read_items(PATH, io.BytesIO(data)))


@pytest.mark.usefixtures("window")
def test_items_are_those_of_json() -> None:
    @settings(max_examples=40, deadline=None)
    @given(st.lists(VALUES, max_size=5), st.booleans(), st.sampled_from([None, 1]))
    def check(content: list[Any], plain: bool, indent: int | None) -> None:
        data = json.dumps(content, ensure_ascii=plain, indent=indent).encode()
        assert items(data) == content
        assert items(b"\xef\xbb\xbf \n" + data + b" \n") == content

    check()


BAD = [b"", b"[", b"[1", b"[1,", b"[1,]", b"[1 2]", b"[1}", b"[1]x", b"[1] [2]", b"[tru", b'["a', b'[{"a"', b"1",
       b'[{"a":}]', b'["\\u12', b'["\\x"]', b'["a\nb"]', b'["\xff"]', b'["\xe2\x82', b"[" * 100_000,
       b"[" + b"9" * 5000 + b"]"]  # fmt: skip


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize("data", BAD, ids=range(len(BAD)))
def test_what_is_not_whole_is_refused(data: bytes) -> None:
    with pytest.raises(DataError):
        items(data)


@pytest.mark.usefixtures("window")
def test_every_cut_is_noticed() -> None:
    whole = json.dumps([{"a": [1, -2.5e3, '€\\"\u2028', {}]}, True, None, 12345], indent=1, ensure_ascii=False).encode()
    assert len(items(whole)) == 4
    for end in range(len(whole)):
        with pytest.raises(DataError):
            items(whole[:end])


@pytest.mark.usefixtures("window")
def test_the_line_is_named() -> None:
    with pytest.raises(DataError, match="Expecting ',' delimiter, line 3"):
        items(b'[{"a": 1},\n{"b": 2}\n{"c": 3}]')
    with pytest.raises(DataError, match="Unterminated string starting at, line 2"):
        items(b'[{"a": 1},\n{"b": "x')


def test_names_that_stand_twice() -> None:
    (one, other) = items(b'[{"a": 1, "b": {"c": 1, "c": 1}}, {"a": 1, "a": 1}]')
    assert isinstance(other, Repeated) and other.name == "a"
    assert not isinstance(one, Repeated) and isinstance(one["b"], Repeated)  # type: ignore[index]


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize(
    ("data", "taken", "others"),
    [
        (
            b'{"task": "t", "golds": [1, {"a": 2}], "x": {"golds": [3]}}',
            [1, {"a": 2}],
            {"task": "t", "x": {"golds": [3]}},
        ),
        (b'{"golds": []}', [], {}),
        (b'{"golds": {}}', [], None),
        (b"{}", [], None),
        (b"[1]", [], None),
        (b"12", [], None),
    ],
)
def test_members(data: bytes, taken: list[object], others: object) -> None:
    got: list[object] = []
    assert read_members(PATH, io.BytesIO(data), "golds", got.append) == others
    assert got == taken


@pytest.mark.parametrize(
    "data", [b'{"golds": [1], "golds": [2]}', b'{"a": 1, "a": 1}', b'{"golds": [1]', b"{1: 2}", b'{"a" 1}']
)
def test_bad_members(data: bytes) -> None:
    with pytest.raises(DataError):
        read_members(PATH, io.BytesIO(data), "golds", [].append)


class Endless(io.RawIOBase):
    """An array of many like items, made as it is read."""

    def __init__(self, count: int) -> None:
        self.parts: Iterator[bytes] = iter([b"[", *[b'{"text": "%s"},' % (b"x" * 100_000)] * count, b"1]"])

    def read(self, size: int = -1) -> bytes:
        return next(self.parts, b"")


def test_memory_does_not_grow_with_the_file() -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        assert sum(1 for _ in read_items(PATH, Endless(count))) == count + 1  # type: ignore[arg-type]
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    few, many = peak(20), peak(400)  # 2 and 40 MB
    assert many < few + 1_000_000


def test_a_value_may_be_larger_than_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(random.Random(0).choices('ab\\"€', k=300_000))
    monkeypatch.setattr(json_stream, "_CHUNK", 1000)
    assert items(json.dumps([text, 1], ensure_ascii=False).encode()) == [text, 1]
    monkeypatch.setattr(json_stream, "LINE_BYTES", 100_000)
    with pytest.raises(DataError, match="too long"):
        items(json.dumps([text, 1]).encode())


@pytest.mark.parametrize(
    ("content", "cut"),
    [
        ('[{"a": 1}, {"a', True),
        ('[{"a": 1},', True),
        ('[{"a": 1}', True),
        ("[{'a': 1}]", False),
        ('[{"a": 1} {"a": 2}]', False),
        ('{"user_id": "u", "text": "ra', True),
        ('{"user_id": "u", "text": ', True),
        ("{'user_id': 'u'}", False),
        ('{"user_id": "u",}', False),
        ('{"user_id": NULL}', False),
    ],
)
def test_only_what_was_cut_off_is_said_to_be(tmp_path: Path, content: str, cut: bool) -> None:
    (tmp_path / "d").write_text(content, "utf8")
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path / "d", load_task("free-text"))
    assert ("cut off" in str(caught.value)) == cut
