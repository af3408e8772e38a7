"""Writing what was imported: whole, private, and over nothing that is somebody's."""

from pathlib import Path

import pytest

from ownlm.errors import DataError
from ownlm.importers.imported import write_rows

ROWS = [{"user_id": "ada", "text": "é"}]


def test_a_history_is_private_and_can_be_written_again(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert write_rows(out, ROWS) == 1 and write_rows(out, ROWS * 2) == 2
    assert out.read_text("utf8").count("é") == 2 and out.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["import os\n", '{"name": 1}\n', "[1]\n", "5\n", "\x00"])
def test_another_file_is_not_written_over(tmp_path: Path, content: str) -> None:
    out = tmp_path / "mine.py"
    out.write_text(content)
    with pytest.raises(DataError, match="is not a history"):
        write_rows(out, ROWS)
    assert out.read_text() == content and list(tmp_path.iterdir()) == [out]


def test_what_stops_midway_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    write_rows(out, ROWS)

    def rows():  # type: ignore[no-untyped-def]
        yield ROWS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(out, rows())
    assert len(out.read_text("utf8").splitlines()) == 1 and list(tmp_path.iterdir()) == [out]
