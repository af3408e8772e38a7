from pathlib import Path
from unittest.mock import patch

import pytest

from ownlm.durable import write_whole


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    with patch("ownlm.durable.os.fsync", side_effect=OSError(28, "No space left on device")), pytest.raises(OSError):
        write_whole(path, b"three")
    assert path.read_bytes() == b"two" and list(tmp_path.iterdir()) == [path]
