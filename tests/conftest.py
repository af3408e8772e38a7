"""What many tests share. No test talks to the hub; the embedded base is fetched once and kept in the user's cache."""

import os
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from ownlm.home import Home
from ownlm.model import piece_bank
from ownlm.model.base import BaseLM, load_base
from ownlm.model.bases import smollm2 as embedded
from ownlm.model.bases.random_base import make_random_base
from tests.community import home_on, rows, write_rows, write_task
from tests.sharing import make_home, share
from tests.shell import QuickShell

settings.register_profile("ownlm", deadline=None)  # the first example warms up; how long a test takes proves nothing
settings.load_profile("ownlm")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Llama: 2 layers, 4 heads on 2 key-value heads, float32. Copy it before changing it."""
    return make_random_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseLM:
    """The tiny base, loaded."""
    return load_base(tiny_base, name="tiny", fingerprint="tiny")


@pytest.fixture(scope="module")
def double(tiny_base: Path) -> BaseLM:
    """The same in float64."""
    return load_base(tiny_base, name="tiny", fingerprint="tiny", dtype=torch.float64)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of the embedded base. Leave it as it is."""
    return embedded.fetch()


@pytest.fixture(scope="session")
def _sharing(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> tuple[Path, Path]:
    """A home in which four of seven people agree to share; and the same with a pool of their pieces."""
    folder = tmp_path_factory.mktemp("sharing")
    home = make_home(folder / "before", tiny_base)
    home.store.database.close()
    shutil.copytree(folder / "before", folder / "after")
    home = Home(folder / "after" / "home")
    share(home)
    home.store.database.close()
    return folder / "before" / "home", folder / "after" / "home"


@pytest.fixture
def agreed(tmp_path: Path, _sharing: tuple[Path, Path]) -> Home:
    """A home in which four of seven people agree to share, see `tests.sharing`."""
    return Home(shutil.copytree(_sharing[0], tmp_path / "home"))


@pytest.fixture
def shared(tmp_path: Path, _sharing: tuple[Path, Path]) -> Home:
    """The same with a pool of their pieces."""
    return Home(shutil.copytree(_sharing[1], tmp_path / "home"))


@pytest.fixture
def shell(tmp_path: Path, tiny_base: Path) -> QuickShell:
    """A folder with a home on the tiny base, and files of three people's records and of queries.

    Commands run within this process; what `start` starts is one of its own.
    """
    write_task(tmp_path)
    write_rows(tmp_path / "people.jsonl", rows("ada", 7), rows("bela", 4), rows("ciro", 3))
    queries = [{"user_id": u, "id": f"q-{u}", "text": "thing", "gold": "bin"} for u in ("ada", "ciro", "nobody")]
    write_rows(tmp_path / "queries.jsonl", queries)
    home_on(tiny_base, tmp_path / ".ownlm")
    return QuickShell(tmp_path)


@pytest.fixture(params=[1, 99], ids=["own pieces", "all pieces"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which a piece bank multiplies."""
    monkeypatch.setattr(piece_bank, "FEW", request.param)
