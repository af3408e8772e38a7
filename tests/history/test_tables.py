"""Tables with quotes, repeated first lines and words for missing values: nobody's text becomes another's."""

from pathlib import Path

import pytest

from ownlm.errors import DataError
from ownlm.history import csv_rows
from ownlm.history.readers import read_dataset, read_queries
from ownlm.history.task import load_task
from tests.history.files import SECRET

FREE = load_task("free-text")
C, T = "user_id,text\n", "user_id\ttext\n"
TWO = "lines 3 to 5"


def read(tmp_path: Path, content: str, *, skip_bad: bool) -> tuple[list[tuple[str, str]], list[str]]:
    file = tmp_path / "d.csv"
    file.write_bytes(content.encode())
    dataset = read_dataset(file, FREE, skip_bad=skip_bad)
    rows = [(one.user_id, one.fields["text"]) for history in dataset.histories for one in history.records]
    return rows, dataset.bad


QUOTES: dict[str, tuple[str, str, list[tuple[str, str]], int]] = {  # what is said, good rows, number of bad ones
    "closed two users later": (
        T + f'x\tgood\nada\t"Hello {SECRET}\nbob\tmine\ncem\tend"\ndan\tz\n', TWO,
        [("x", "good"), ("bob", "mine"), ("cem", 'end"'), ("dan", "z")], 1,
    ),
    "the same with commas": (
        C + f'x,good\nada,"Hello, {SECRET}\nbob,mine\ncem,end"\ndan,z\n', TWO,
        [("x", "good"), ("bob", "mine"), ("cem", 'end"'), ("dan", "z")], 1,
    ),
    "two lines": (C + f'ada,"{SECRET}\nbob,mine"\n', "lines 2 to 3", [("bob", 'mine"')], 1),
    "closed by the quotes of another cell": (
        C + f'x,good\na,"open, {SECRET}\nb,2\nc,"quoted"\ne,5\n', TWO,
        [("x", "good"), ("b", "2"), ("c", "quoted"), ("e", "5")], 1,
    ),
    "never closed": (C + f'a,"{SECRET}\nb,2\nc,3\n', "lines 2 to 4", [("b", "2"), ("c", "3")], 1),
    "the text first": (
        f'text\tuser_id\n"Hello {SECRET}\tada\nmine\tbob\nend"\tcem\n', "lines 2 to 4",
        [("bob", "mine"), ("cem", 'end"')], 1,
    ),
    "the text between": (
        f'id,text,user_id\n1,"{SECRET},ada\n2,end",cem\n', "lines 2 to 3", [("cem", 'end"')], 1,
    ),
    "most lines are rows": (
        T + f'ada\t"{SECRET}\nbob\tmine\n\nprose of bob\ncem\tend"\n', "lines 2 to 6",
        [("bob", "mine"), ("cem", 'end"')], 2,
    ),
    "prose after quotes that do not match": (
        C + f'ada,"{SECRET}\nWell, {SECRET}\nbob,"fine"\n', "lines 2 to 4", [("bob", "fine")], 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", QUOTES)
def test_quotes_that_are_not_escaped(tmp_path: Path, what: str) -> None:
    content, said, good, bad = QUOTES[what]
    with pytest.raises(DataError) as caught:
        read(tmp_path, content, skip_bad=False)
    assert said in str(caught.value) and SECRET not in str(caught.value)
    rows, told = read(tmp_path, content, skip_bad=True)
    assert (rows, len(told)) == (good, bad)
    assert SECRET not in str(told)


@pytest.mark.parametrize(
    "cell",
    [
        "Dear all,\nWell, see you\nAda",
        "one\ntwo\n\nthree",
        "we were\n10,000 people",
        'he said ""yes, of course""\nand, well, went',
        "\n".join(f"line, and line {number}" for number in range(500)),
    ],
)
def test_cells_of_several_lines(tmp_path: Path, cell: str) -> None:
    for content in (
        f'{C}ada,"{cell}"\nbob,hi\n',
        f'text,user_id\n"{cell}",ada\nhi,bob\n',
        f'user_id,text,time\nada,"{cell}",2020\nbob,hi,2021\n',
        f'user_id,time,text\n"ada","2020","{cell}"\nbob,2021,hi\n',
    ):
        rows, bad = read(tmp_path, content, skip_bad=False)
        assert (rows, bad) == ([("ada", cell.replace('""', '"')), ("bob", "hi")], [])


@pytest.mark.parametrize("limit", ["_ROW_LINES", "_ROW_LETTERS"])
def test_quotes_that_would_swallow_the_file(tmp_path: Path, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, limit, 40)
    rows, bad = read(tmp_path, C + 'a,"open\n' + "b,some text\n" * 60, skip_bad=True)
    assert rows == [("b", "some text")]
    (told,) = bad
    assert "d.csv:2: " in told and ("lines 2 to 42" if limit == "_ROW_LINES" else "lines 2 to 6") in told


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("user_id,text", "repeats the first line"),
        ("\ufeffuser_id,text", "repeats the first line"),
        *((f"{user},{SECRET}", "'user_id' is missing") for user in ("nan", "NaN", "None", "NULL", "null", "\\N")),
        (f"12.0,{SECRET}", "whole number written with a point"),
        (f"NULL,{SECRET}", "'user_id' is missing"),
        ("ada,", "'text' is missing"),
    ],
)
def test_rows_that_are_none(tmp_path: Path, row: str, said: str) -> None:
    content = f"{C}12,hi\n{row}\nNan,ho\n"
    with pytest.raises(DataError) as caught:
        read(tmp_path, content, skip_bad=False)
    assert "d.csv:3: " in str(caught.value) and said in str(caught.value) and SECRET not in str(caught.value)
    rows, bad = read(tmp_path, content, skip_bad=True)
    assert (rows, len(bad)) == ([("12", "hi"), ("Nan", "ho")], 1)


@pytest.mark.parametrize("word", ["NULL", "NaN", "\\N", "<NA>", ""])
def test_words_for_a_missing_value_in_optional_cells(tmp_path: Path, word: str) -> None:
    file = tmp_path / "q.csv"
    file.write_text(f"user_id,id,time,prompt,gold\nu,{word},{word},rain,{word}\n", "utf8")
    (query,) = read_queries(file, FREE)
    assert (query.gold, query.time, dict(query.fields)) == (None, None, {"prompt": "rain"})
    assert len(query.id) == 16
    rows, _ = read(tmp_path, "user_id,text\nu,None\nv,n/a\n", skip_bad=False)
    assert rows == [("u", "None"), ("v", "n/a")]
