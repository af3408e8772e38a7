"""Whatever lies in the current folder, such as a repository that was cloned: none of it is run."""

import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from ownlm.bench.machine import commit
from ownlm.errors import OwnlmError
from ownlm.home import Home
from ownlm.importers.git import import_git
from ownlm.programs import child_environment, find_program, python_command
from ownlm.server.jobs import Jobs
from ownlm.server.vllm.server import VllmSettings, start_server
from ownlm.store.erasing.traces import found
from ownlm.store.rows import BaseInfo
from tests.importers.repository import Repository

BIN = Path(sys.executable).parent
PROGRAMS = ("git", "pip", "python", "python3", "uname", "ldconfig", "lscpu", "fc-list", "gcc", "ssh")


def set_traps(folder: Path, modules: Iterable[str]) -> Path:
    """Fills a folder with modules and programs that note that they were run; the file of the notes."""
    canary = folder.parent / "canary"
    for name in modules:
        (folder / f"{name}.py").write_text(f"open({str(canary)!r}, 'a').write(__file__ + chr(10))\n")
    for name in PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\necho {name} >> {canary}\n")
        (folder / name).chmod(0o755)
    return canary


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that is made when anything in the current folder is run."""
    folder = tmp_path / "cloned"
    folder.mkdir()
    installed = {name for name in packages_distributions() if name.isidentifier()}
    canary = set_traps(folder, {"sitecustomize", "usercustomize", "vllm", *sys.stdlib_module_names, *installed})
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f":.:{os.environ['PATH']}")
    return canary


def test_the_traps_close(canary: Path) -> None:
    """They would be run by a Python, or a search for a program, that looks into the current folder."""
    subprocess.run([sys.executable, "-c", "import json"], capture_output=True)
    assert "json.py" in canary.read_text()
    canary.unlink()
    subprocess.run(["git", "--version"], capture_output=True)
    assert canary.read_text() == "git\n"


def test_a_child_runs_nothing_of_it(canary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}{canary.parent}")  # an empty entry is the current folder
    code = "import json, typing, torch, subprocess, sys; subprocess.run([sys.executable, '-c', 'import json, random'])"
    done = subprocess.run(python_command("-c", code), env=child_environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and not canary.exists()


def test_pip_is_the_installed_one(canary: Path, tmp_path: Path) -> None:
    nowhere = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    env = {**os.environ, **nowhere, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        env.pop(name, None)
    command = [BIN / "ownlm", "base", "add", "smollm2-135m", "--home", tmp_path / "home"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and "pip cannot fetch" in done.stderr and "network" in done.stderr
    assert not canary.exists()


def test_a_job_is_ours(canary: Path, tmp_path: Path) -> None:
    Home(tmp_path / "home")
    asked = {
        "home": str(tmp_path / "home"), "placement": {"device": "cpu"}, "kind": "train", "task": "sorting",
        "users": ["ada"],
    }  # fmt: skip
    told = Jobs(Home(tmp_path / "home"))._process_of(asked | {"settings": {}})
    assert told.error and "sorting" in str(told.error["what"]) and not canary.exists()


def test_vllm_is_the_installed_one(canary: Path, tmp_path: Path, tiny_base: Path) -> None:
    base = BaseInfo("tiny", str(tiny_base), "0" * 64, 1, "tiny")
    server = start_server(Home(tmp_path / "home").store, base, VllmSettings(rank=8, modules=("q_proj",)), "cpu")
    with pytest.raises(OwnlmError, match="does not start") as caught:
        server.wait()
    assert "No module named" in str(caught.value.got) and not canary.exists()


@pytest.mark.parametrize("kind", ["pipe", "bytes"])
def test_no_style_of_the_current_folder_is_read(tmp_path: Path, kind: str) -> None:
    style = tmp_path / "matplotlibrc"
    if kind == "pipe":
        os.mkfifo(style)
    else:
        style.write_bytes(b"lines.linewidth: 1 # \xff")
    code = """
from ownlm.bench.plots import _figure_of
from ownlm.cli.charts import check_picture
check_picture(__import__("pathlib").Path("a.png"))
with _figure_of(1, 1):
    print("drawn")
"""
    done = subprocess.run(python_command("-c", code), cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("drawn\n", "")


def test_git_is_the_installed_one(canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"].removeprefix(":.:"))
    repository = Repository(tmp_path / "repository")
    repository.change("One")
    monkeypatch.setenv("PATH", f":.:{os.environ['PATH']}")
    assert import_git(repository.folder, tmp_path / "out.jsonl").records
    assert commit(repository.folder) is not None
    assert os.path.isabs(find_program("git")) and not canary.exists()


def test_files_are_searched_by_our_own_process(canary: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a text")
    assert found([tmp_path / "file"], [(b"text", b"text")]) and not canary.exists()


LIBRARY = """
import multiprocessing, subprocess, sys

def work():
    import json, random

def start():
    for kind in ("spawn", "forkserver"):
        process = multiprocessing.get_context(kind).Process(target=work)
        process.start()
        process.join()
        assert process.exitcode == 0
    subprocess.run([sys.executable, "-m", "json.tool", "--help"], check=True)
    subprocess.run(["uname"], check=True)

if __name__ == "__main__":
    from ownlm.cli import app
    app.app = start
    app.main()
"""


def test_children_of_libraries_are_protected(canary: Path, tmp_path: Path) -> None:
    """Such as those of `multiprocessing`, which import before they take over the parent's search path."""
    (tmp_path / "program.py").write_text(LIBRARY)
    done = subprocess.run([sys.executable, tmp_path / "program.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not canary.exists()
