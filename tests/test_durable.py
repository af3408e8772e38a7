import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from ownlm.durable import unfinished, write_whole


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    with patch("ownlm.durable.os.fsync", side_effect=OSError(28, "No space left on device")), pytest.raises(OSError):
        write_whole(path, b"three")
    assert path.read_bytes() == b"two" and list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_mode_that_others_have(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_whole(tmp_path / "file", b"one")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


KILLED = """
import os, signal, sys
from pathlib import Path
from ownlm.durable import unfinished

with unfinished(Path(sys.argv[1]), folder=sys.argv[2] == "folder") as temporary:
    (temporary / "file" if temporary.is_dir() else temporary).write_text("private")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_goes_with_the_next_run(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "[a] name"
    for _ in range(2):
        killed = subprocess.run([sys.executable, "-c", KILLED, path, kind])
        assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()  # the second run removed the first one's
    with unfinished(path, folder=kind == "folder") as mine:
        assert not left.exists() and mine.stat().st_mode & 0o077 == 0
        with unfinished(path, folder=kind == "folder") as other:  # what somebody still fills stays
            assert mine.exists() and other.exists()
        os.rename(mine, path)
    assert list(tmp_path.iterdir()) == [path]
