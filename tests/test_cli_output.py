"""Progress as lines, where stderr is no terminal."""

import io

import pytest
from rich.console import Console

from ownlm.cli.output import _lines


@pytest.mark.parametrize(
    ("done", "total", "note", "line"),
    [
        (0, 6, "notes: most frequent", "methods: 0 of 6; notes: most frequent"),
        (6, 6, "", "methods: 6 of 6"),
        (0, 0, "its files are read", "methods: its files are read"),
    ],
)
def test_a_note_is_set_apart_from_the_count(done: float, total: float, note: str, line: str) -> None:
    written = io.StringIO()
    _lines(Console(file=written))("methods", done, total, note)
    assert written.getvalue() == line + "\n"
