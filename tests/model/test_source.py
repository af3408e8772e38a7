"""Where bases come from. The hub is a small server of the test's own that knows one model."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ownlm.errors import BaseModelError
from ownlm.model.bases import smollm2 as embedded
from ownlm.model.bases.files import fingerprint
from ownlm.model.bases.source import _bar, resolve_source
from tests.hub import running_hub


@pytest.fixture
def hub(tiny_base: Path) -> Iterator[str]:
    """A running hub's address."""
    files = {path.name: path.read_bytes() for path in tiny_base.iterdir()}
    files |= {"pytorch_model.bin": b"pickle", "modeling.py": b"code", "training_args.bin": b"", "README.md": b"# model"}
    with running_hub({"some/model": files, "some/bare": {"README.md": b"# nothing"}}) as address:
        yield address


def resolve(name: str, hub: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Resolves a hub id in a process of its own, where the hub may be asked."""
    code = """if True:
        import sys
        from ownlm.errors import BaseModelError
        from ownlm.model.bases.source import resolve_source
        heard = []
        try:
            print(resolve_source(sys.argv[1], lambda stage, done, total, note="": heard.append((stage, done, total))))
        except BaseModelError as error:
            print(error)
        assert "torch" not in sys.modules and all(0 <= done <= total for _, done, total in heard), heard
        print(len(heard))
    """
    env = os.environ | {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    return subprocess.run([sys.executable, "-c", code, name], env=env, capture_output=True, text=True)


def test_a_hub_model_comes_without_pickles_and_code(hub: str, tmp_path: Path, tiny_base: Path) -> None:
    done = resolve("some/model", hub, tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    folder, heard = done.stdout.splitlines()
    names = {path.name for path in Path(folder).iterdir()}
    assert names == {path.name for path in tiny_base.iterdir()}
    assert fingerprint(Path(folder)) == fingerprint(tiny_base)
    assert int(heard) >= 2  # its beginning and its end, and what a longer download has between them


def test_a_download_is_reported_in_bytes_and_its_end_by_the_caller_alone() -> None:
    heard = list[tuple[str, float, float]]()
    bytes_bar = _bar(lambda *given: heard.append(given))(total=10, unit="B")
    files_bar = _bar(lambda *given: heard.append(given))(total=2, unit="it")
    for bar, count in ((bytes_bar, 4), (files_bar, 1), (bytes_bar, 6)):
        bar.update(count)
    assert heard == [("download", 4, 10)]


@pytest.mark.parametrize(
    "name, message",
    [
        ("some/gated", "agreement"),
        ("some/other", "no such model"),
        ("other", "no such model"),
        ("some/bare", "it has no config.json"),
    ],
)
def test_what_the_hub_refuses_is_said(name: str, message: str, hub: str, tmp_path: Path) -> None:
    done = resolve(name, hub, tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert f"{name!r} cannot be downloaded" in done.stdout and message in done.stdout


def test_no_hub_is_said(tmp_path: Path) -> None:
    done = resolve("some/model", "http://127.0.0.1:9", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cannot be reached" in done.stdout


def test_offline_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BaseModelError, match=r"cannot be reached.*HF_HUB_OFFLINE"):
        resolve_source("nobody/nothing")


def test_a_folder_is_itself(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_base.parent)
    assert resolve_source(str(tiny_base)) == resolve_source("tiny") == resolve_source("./tiny/") == tiny_base.resolve()


def test_the_embedded_base_has_a_name(smollm2: Path) -> None:
    assert resolve_source(embedded.NAME) == smollm2


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere", "~/nowhere/x", "a/b/c", "", "a b", "../x"])
def test_other_sources_are_refused(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BaseModelError, match="neither a folder nor a hub id"):
        resolve_source(source)


def test_a_file_is_refused(tiny_base: Path) -> None:
    with pytest.raises(BaseModelError, match="neither a folder nor a hub id"):
        resolve_source(str(tiny_base / "model.safetensors"))
