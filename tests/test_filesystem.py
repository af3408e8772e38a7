"""Files that others made: a pipe, a device, or what does not end is refused, and nothing waits for it."""

import contextlib
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ownlm.bench.plan import read_plan
from ownlm.bench.predictions import Writer, read_predictions
from ownlm.bench.results import FILE as RESULTS
from ownlm.bench.results import read_results
from ownlm.errors import OwnlmError
from ownlm.filesystem import check_regular, open_regular, read_regular
from ownlm.history import files
from ownlm.history.readers import read_dataset, read_queries
from ownlm.history.task import load_task
from ownlm.home import Home
from ownlm.importers.git_log import find_head
from ownlm.importers.lamp import import_lamp
from ownlm.importers.mbox import import_mbox
from ownlm.model.bases.files import check_base_folder, fingerprint
from ownlm.perpcs.manifest import FILE as MANIFEST
from ownlm.perpcs.pool import open_pool
from ownlm.store.blobs import Blobs
from ownlm.store.database import DATABASE
from tests.importers.repository import Repository
from tests.perpcs.pools import SHAPES, make_pool, random_pieces

PATIENCE_S = 60  # before a read that waits for ever is broken off


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Breaks off what waits for a writer that never comes, so that it is seen."""

    def end(*_: object) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(PATIENCE_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one, contextlib.chdir(path.parent):  # a socket's path must be short
        one.bind(path.name)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def enormous(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


KINDS = [fifo, bound, Path.mkdir, loop, endless, enormous]


@pytest.mark.parametrize("make", KINDS)
def test_only_regular_files_up_to_a_size_are_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "file")
    with pytest.raises(OSError):
        read_regular(tmp_path / "file")
    if make is not enormous:
        for refuse in (check_regular, open_regular):
            with pytest.raises(OSError):
                refuse(tmp_path / "file")


def test_regular_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", 3) == b"abc"
    with pytest.raises(OSError, match="too large"):
        read_regular(tmp_path / "file", 2)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none")


def histories(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        read_queries(folder / name, load_task("LaMP_2N"))
        return read_dataset(folder / name, load_task("LaMP_2N"))

    return read


def labels(folder: Path) -> object:
    (folder / "questions.json").write_text('[{"id": "1", "input": "x", "profile": []}]')
    return read_dataset(folder / "questions.json", load_task("LaMP_2N"), labels=folder / "outputs.json")


def shallow(folder: Path) -> object:
    shutil.move(folder / "shallow", folder / "kept")
    repository = Repository(folder / "repository")
    repository.change("One")
    shutil.move(folder / "kept", repository.folder / ".git" / "shallow")
    return find_head(repository.folder)


def base(folder: Path) -> object:
    check_base_folder(folder)
    return fingerprint(folder)


READERS: dict[str, Callable[[Path], object]] = {  # by the name of the file
    "people.jsonl": histories("people.jsonl"), "people.json": histories("people.json"),
    "people.parquet": histories("people.parquet"), "outputs.json": labels,
    "task.toml": lambda folder: load_task(folder / "task.toml"),
    "plan.toml": lambda folder: read_plan(folder / "plan.toml"),
    RESULTS: lambda folder: read_results(folder),
    "answers.jsonl": lambda folder: read_predictions(folder / "answers.jsonl"),
    "written.jsonl": lambda folder: Writer(folder / "written.jsonl").__enter__(),
    "mail": lambda folder: import_mbox(folder / "mail", folder / "out.jsonl", me=["a@example.org"]),
    "questions.json": lambda folder: import_lamp(folder / "questions.json", folder / "out.jsonl", task="LaMP_2N"),
    DATABASE: lambda folder: Home(folder).histories(),
}  # fmt: skip


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("name", READERS)
def test_no_reader_waits(
    tmp_path: Path, name: str, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LINE_BYTES", 1 << 20)
    make(tmp_path / name)
    if (name, make) in (("written.jsonl", enormous), (DATABASE, loop)):
        pytest.skip("what was written here may be long; and where nothing is, a home is made")
    with pytest.raises(OwnlmError) as caught:
        READERS[name](tmp_path)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("name", [MANIFEST, f"{next(iter(SHAPES))}.safetensors"])
def test_no_pool_is_waited_for(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    pool = make_pool(tmp_path / "pool", random_pieces())
    (pool.folder / name).unlink()
    make(pool.folder / name)
    with pytest.raises(OwnlmError):
        open_pool(pool.folder)
    with pytest.raises(OwnlmError):
        pool.whole(next(iter(SHAPES)))
        raise OwnlmError("the manifest was read before")


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_no_base_is_waited_for(tmp_path: Path, tiny_base: Path, name: str, make: Callable[[Path], None]) -> None:
    shutil.copytree(tiny_base, tmp_path / "base")
    (tmp_path / "base" / name).unlink()
    make(tmp_path / "base" / name)
    with pytest.raises(OwnlmError):
        base(tmp_path / "base")


@pytest.mark.parametrize("make", [fifo, bound, endless])
def test_nothing_beside_a_base_is_waited_for(tmp_path: Path, tiny_base: Path, make: Callable[[Path], None]) -> None:
    """Whatever its name is: transformers opens what it finds."""
    shutil.copytree(tiny_base, tmp_path / "base")
    make(tmp_path / "base" / "video_preprocessor_config.json")
    with pytest.raises(OwnlmError, match="not a regular file"):
        base(tmp_path / "base")


@pytest.mark.parametrize("make", KINDS)
def test_no_blob_is_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    blobs = Blobs(tmp_path / "blobs")
    (name,) = blobs.put([b"weights"])
    (path,) = blobs.files()
    path.unlink()
    make(path)
    with pytest.raises(OwnlmError):
        blobs.get(name)
    if make is not Path.mkdir:
        assert blobs.put([b"weights"]) == [name] and blobs.get(name) == b"weights"


@pytest.mark.parametrize("content", [b"\xff\xfe\n", "é\n".encode(), b"f" * 40 + b"\nno hash\n", b"\0" * 9])
def test_a_shallow_file_of_other_bytes(tmp_path: Path, content: bytes) -> None:
    """Git's own word on it; never an error of ours that is no sentence."""
    repository = Repository(tmp_path / "repository")
    repository.change("One")
    (repository.folder / ".git" / "shallow").write_bytes(content)
    try:
        assert find_head(repository.folder).commits == 1
    except OwnlmError as error:
        assert str(error.got).startswith("fatal: ")
