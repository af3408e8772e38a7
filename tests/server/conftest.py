"""Servers of a small home, with an engine that computes nothing."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ownlm.home import Home
from ownlm.server.app import create_app
from ownlm.server.limits import Limits
from ownlm.store.rows import AdapterInfo
from ownlm.store.tokens import give_token
from tests.community import rows, write_rows, write_task
from tests.server.answering import PEOPLE, Office
from tests.server.fake_engine import FakeEngine


@dataclass
class Served:
    """A server under test, within this process."""

    home: Home
    engine: FakeEngine
    client: TestClient

    def token(self, user: str | None) -> dict[str, str]:
        """The header of a new token."""
        return {"Authorization": f"Bearer {give_token(self.home.store, user)[1]}"}

    def get(self, path: str, who: dict[str, str], status: int = 200) -> Any:
        return self._checked(self.client.get(path, headers=who), status)

    def post(self, path: str, who: dict[str, str], status: int = 200, **content: Any) -> Any:
        return self._checked(self.client.post(path, headers=who, json=content), status)

    def _checked(self, response: Any, status: int) -> Any:
        assert response.status_code == status, response.text
        return response.json()


@pytest.fixture(scope="session")
def _sorted_home(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """Ada and bela have adapters; ciro has records alone."""
    folder = tmp_path_factory.mktemp("served")
    home = Home(folder / "home")
    home.add_base(str(tiny_base), "tiny")
    data = write_rows(folder / "people.jsonl", rows("ada", 7), rows("bela", 5), rows("ciro", 3))
    home.train(str(write_task(folder)), data=data, users=["ada", "bela"], epochs=1, learning_rate=1e-2)
    home.store.database.close()
    return folder / "home"


@pytest.fixture
def home(tmp_path: Path, _sorted_home: Path) -> Home:
    """A home of one's own, in which ada and bela have adapters, and ciro has records alone."""
    return Home(shutil.copytree(_sorted_home, tmp_path / "home"))


@pytest.fixture
def limits() -> Limits:
    return Limits(grace_s=0)


@pytest.fixture
def served(home: Home, limits: Limits) -> Iterator[Served]:
    engine = FakeEngine()
    with TestClient(create_app(home, engine, limits), raise_server_exceptions=True) as client:
        yield Served(home, engine, client)


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Office:
    """A home on the tiny base."""
    return Office(tmp_path_factory.mktemp("office") / "home", tiny_base)


@pytest.fixture(scope="module")
def people(office: Office) -> list[AdapterInfo]:
    """Who works there, each with an adapter of their own."""
    return [office.hire(f"person {n}", n) for n in range(PEOPLE)]
