"""A home with a task and a base."""

from pathlib import Path

import pytest

from ownlm.store.rows import BaseInfo
from ownlm.store.store import Store
from tests.store.rows import TASK


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "home")
    store.put_task(TASK)
    store.add_base(BaseInfo("base", "/b", "f" * 64, 10, "folder"))
    return store
