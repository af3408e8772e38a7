"""What the tests of importers share."""

import os
from pathlib import Path

import pytest

from ownlm.importers import fetch
from tests.importers.repository import Repository


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A new git repository; the settings of whoever runs the tests count for nothing."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return Repository(tmp_path / "repository")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits, and no proxy of this machine is in the way."""
    monkeypatch.setattr(fetch, "BACK_OFF_S", (0.01, 0.01, 0.01))
    monkeypatch.setattr(fetch, "LONGEST_WAIT_S", 0.05)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
