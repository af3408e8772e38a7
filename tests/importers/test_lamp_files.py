"""LaMP's files: fetched from a small copy in the official layout, and found in folders."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from ownlm.errors import ConfigError, DataError
from ownlm.history.readers import read_dataset, read_queries
from ownlm.history.task import load_task
from ownlm.importers.lamp import import_lamp
from ownlm.importers.lamp_files import OFFICIAL, check_url, download_lamp, find_lamp
from tests.importers.file_server import Asked, FileServer, serving
from tests.shell import QuickShell, Shell

PROFILES = {  # the fields of each task's records, as LaMP has them
    "LaMP_1": {"title": "t", "abstract": "a"},
    "LaMP_2M": {"description": "film", "tag": "comedy"},
    "LaMP_2N": {"title": "t", "text": "article", "category": "sports"},
    "LaMP_3": {"text": "review", "score": "4"},
    "LaMP_4": {"title": "t", "text": "article"},
    "LaMP_5": {"title": "t", "abstract": "a"},
    "LaMP_7": {"text": "tweet"},
}
CITED = 'For an author who has written the paper with the title "T", which reference is related? [1]: "A" [2]: "B"'
FOLDERS = {"LaMP_2M": "LaMP_2/new", "LaMP_2N": "LaMP_2"}
pytestmark = pytest.mark.usefixtures("soon")


def questions(task: str, part: str, count: int = 3, size: int = 1) -> list[dict[str, Any]]:
    record = {name: value * size for name, value in PROFILES[task].items()}
    profile = [{"id": str(number), **record, "date": f"202{number}"} for number in range(3)]
    input = CITED if task == "LaMP_1" else "new"
    return [{"id": f"{part}{number}", "input": input, "profile": profile} for number in range(count)]


def outputs(task: str, asked: list[dict[str, Any]]) -> dict[str, Any]:
    return {"task": task, "golds": [{"id": item["id"], "output": "[1]"} for item in asked]}


def copy(*tasks: str, size: int = 1) -> dict[str, bytes]:
    """What lies at the server."""
    files = {}
    for task in tasks or PROFILES:
        for split in ("", "/time"):
            for part in ("train", "dev", "test"):
                asked = questions(task, part + ("t" if split else "u"), size=size)
                place = f"/lamp{split}/{FOLDERS.get(task, task)}/{part}/{part}"
                files[f"{place}_questions.json"] = json.dumps(asked).encode()
                if part != "test":
                    files[f"{place}_outputs.json"] = json.dumps(outputs(task, asked)).encode()
    return files


def url(server: FileServer) -> str:
    return f"{server.url}/lamp"


def below(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix == ".json"
    )


@pytest.mark.parametrize("task", PROFILES)
@pytest.mark.parametrize("split", ["user", "time"])
def test_fetched_and_imported(task: str, split: Any, tmp_path: Path) -> None:
    with serving(copy(task)) as server:
        fetched = download_lamp(tmp_path / "lamp", task=task, split=split, url=url(server) + "/")
        assert all(file.new for file in fetched) and len(fetched) == len(server.requests) == 4
        again = download_lamp(tmp_path / "lamp", task=task, split=split, url=url(server))
        assert [(file.path, file.new) for file in again] == [(file.path, False) for file in fetched]
        assert len(server.requests) == 4
    place = "time/" * (split == "time") + FOLDERS.get(task, task)
    names = [f"{place}/{part}/{part}_{kind}.json" for part in ("dev", "train") for kind in ("outputs", "questions")]
    assert below(tmp_path / "lamp") == names
    imported = import_lamp(tmp_path / "lamp", tmp_path / "out.jsonl", task=task, split=split, part="train")
    assert imported.records == {f"train{split[0]}{number}": 3 for number in range(3)}
    assert [query.gold for query in read_queries(imported.files[1], load_task(imported.task))] == ["[1]"] * 3


def test_of_test_there_are_questions_alone(tmp_path: Path) -> None:
    with serving(copy("LaMP_4")) as server:
        (fetched,) = download_lamp(tmp_path, task="LaMP_4", parts=["test", "test"], url=url(server))
    assert fetched.path == tmp_path / "LaMP_4/test/test_questions.json"
    imported = import_lamp(tmp_path, tmp_path / "out.jsonl", task="LaMP_4", part="test")
    assert {query.gold for query in read_queries(imported.files[1], load_task("LaMP_4"))} == {None}


def test_the_official_address() -> None:
    assert check_url(OFFICIAL).scheme == "https"
    with pytest.raises(ConfigError, match="cannot be used"):
        download_lamp(Path("x"), task="LaMP_4", url="http://example.org/lamp")
    assert not Path("x").exists()


def test_what_is_not_there_for_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'LaMP_6' cannot be fetched.*may not be passed on"):
        download_lamp(tmp_path / "x", task="LaMP_6")
    with pytest.raises(ConfigError, match=r"'LongLaMP_topic' cannot be fetched.*download LongLaMP/LongLaMP"):
        download_lamp(tmp_path / "x", task="LongLaMP_topic")
    with pytest.raises(ConfigError, match=r"'free-text' cannot be fetched.*one of LaMP_1, LaMP_2M"):
        download_lamp(tmp_path / "x", task="free-text")
    assert not list(tmp_path.iterdir())


def broken(tmp_path: Path, **changed: Any) -> str:
    """What is said where a file at the server is another; the one before it has come."""
    files = copy("LaMP_2M")
    for name, content in changed.items():
        files[f"/lamp/LaMP_2/new/dev/dev_{name}.json"] = (
            content if isinstance(content, bytes) else json.dumps(content).encode()
        )
    with serving(files) as server, pytest.raises(DataError) as caught:
        download_lamp(tmp_path, task="LaMP_2M", parts=["dev"], url=url(server))
    there = [name for name in ("questions", "outputs") if name not in changed][:1] if "outputs" in changed else []
    assert below(tmp_path) == [f"LaMP_2/new/dev/dev_{name}.json" for name in there]
    assert not list(tmp_path.rglob("*.part*"))
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b'[{"id": "1", "input": "x", "profile": []', "not one whole JSON document"),
        (b"", "not a list of questions"),
        ([], "not a list of questions"),
        ({"golds": []}, "not a list of questions"),
        (["x"], "not a list of questions"),
        ([{"id": "1", "input": "x"}], "not a list of questions"),
        ([{"id": "1", "input": "x", "profile": {}}], "not a list of questions"),
        ([{"id": "1", "input": "x", "profile": []}] * 2, "not a list of questions"),
        (questions("LaMP_2N", "dev"), "the questions of another task. Expected: profiles whose records have descr"),
    ],
)
def test_wrong_questions(content: Any, said: str, tmp_path: Path) -> None:
    assert said in broken(tmp_path, questions=content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (questions("LaMP_2M", "dev"), "is not a label file"),
        ({"golds": [{"id": "1"}]}, "missing or blank"),
        (outputs("LaMP_2", questions("LaMP_2M", "devu", 2)), "1 of 3 without an answer, 0 answers to others"),
        (outputs("LaMP_2", questions("LaMP_2M", "devt")), "3 of 3 without an answer, 3 answers to others"),
    ],
)
def test_wrong_outputs(content: Any, said: str, tmp_path: Path) -> None:
    assert said in broken(tmp_path, outputs=content)


def test_a_file_that_is_not_at_the_server(tmp_path: Path) -> None:
    with serving(copy("LaMP_2N")) as server, pytest.raises(DataError, match="status 404"):
        download_lamp(tmp_path, task="LaMP_2M", url=url(server))


@pytest.mark.parametrize("layout", ["", "dev", "LaMP_2/new/dev"])
def test_folders_that_are_there(tmp_path: Path, layout: str) -> None:
    folder = tmp_path / layout
    folder.mkdir(parents=True, exist_ok=True)
    asked = questions("LaMP_2M", "dev")
    (folder / "dev_questions.json").write_text(json.dumps(asked))
    task = load_task("LaMP_2M")
    with pytest.raises(DataError, match=r"The answers to .* are missing"):
        find_lamp(tmp_path, task=task)
    (folder / "dev_outputs.json").write_text(json.dumps(outputs("LaMP_2M", asked)))
    assert find_lamp(tmp_path, task=task) == [folder / "dev_questions.json"]
    imported = import_lamp(tmp_path, tmp_path / "out.jsonl", task="LaMP_2M")
    assert (
        read_dataset(imported.files[0], task).histories == read_dataset(folder / "dev_questions.json", task).histories
    )
    with pytest.raises(DataError, match="no train questions") as caught:
        find_lamp(tmp_path, task=task, part="train")
    assert f"--task LaMP_2M --download {tmp_path} --split user" in (caught.value.command or "")


def test_half_a_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "dev_questions.json.part").write_text(json.dumps(questions("LaMP_2M", "dev")))
    with pytest.raises(DataError, match="holds no dev questions"):
        import_lamp(tmp_path, tmp_path / "out.jsonl", task="LaMP_2M")
    with pytest.raises(ConfigError, match="folder of task 'free-text' is not known"):
        import_lamp(tmp_path, tmp_path / "out.jsonl", task="free-text")


def test_the_command(tmp_path: Path) -> None:
    shell = QuickShell(tmp_path)
    with serving(copy("LaMP_2M")) as server:
        base = ("import", "lamp", "--task", "LaMP_2M", "--download", "data", "--url", url(server))
        done = shell.json(*base, "--split", "time", "--part", "dev")
        place = Path("data/time/LaMP_2/new/dev")
        assert [file["path"] for file in done["files"]] == [
            str(place / f"dev_{kind}.json") for kind in ("questions", "outputs")
        ]
        sizes = [(tmp_path / file["path"]).stat().st_size for file in done["files"]]
        assert [(file["bytes"], file["new"]) for file in done["files"]] == [(size, True) for size in sizes]
        out = shell.run(*base, "--split", "time", "--part", "dev", "--part", "test")
    assert out.count("there already: data/time") == 2 and out.count("fetched: data/time") == 1
    next = "import lamp --task LaMP_2M --split time --part dev data dev.jsonl"
    assert f"Next: ownlm {next}\n" in out
    assert "9 records of 3 users" in shell.run(*next.split())
    again = "import lamp data/time/LaMP_2/new/dev/dev_questions.json file.jsonl --task LaMP_2M"
    shell.run(*again.split())
    assert (tmp_path / "file.jsonl").read_bytes() == (tmp_path / "dev.jsonl").read_bytes()


def test_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ownlm.importers.lamp_files.fetch_file", stop)
    said = QuickShell(tmp_path).run("import", "lamp", "--task", "LaMP_5", "--download", "data", code=1)
    assert "it goes on from here" in said


@pytest.mark.parametrize(
    "line",
    [
        "--task LaMP_4",
        "data --task LaMP_4",
        "data out.jsonl --task LaMP_4 --download data",
        "--task LaMP_4 --download data --labels x.json",
        "data out.jsonl --task LaMP_4 --url https://example.org",
        "file.json out.jsonl --task LaMP_4 --part dev",
        "file.json out.jsonl --task LaMP_4 --split time",
        "data out.jsonl --task LaMP_4 --part dev --part train",
        "data out.jsonl --task LaMP_4 --part val",
        "--task LaMP_4 --download data --split old",
        "--download data",
    ],
)
def test_wrong_usage(tmp_path: Path, line: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "file.json").touch()
    QuickShell(tmp_path).both("import", "lamp", *line.split(), code=2)


def test_killed_at_any_time_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 in the middle, three times; then the same command: nothing twice, nothing half."""
    files, draw, sent = copy("LaMP_5", size=30_000), random.Random(4), list[int]()

    def slowly(asked: Asked) -> None:
        asked.wfile = Slow(asked.wfile, sent)
        asked.file()

    shell = Shell(tmp_path)
    command = ("import", "lamp", "--task", "LaMP_5", "--download", "data")
    with serving(files, slowly) as server:
        for _ in range(3):
            process, end = shell.start(*command, "--url", url(server)), sum(sent) + draw.randrange(50_000, 200_000)
            while sum(sent) < end and process.poll() is None:
                time.sleep(0.005)
            process.kill()
            process.communicate()
            for path in below(tmp_path / "data"):
                assert path.endswith(".part.json") or (tmp_path / "data" / path).read_bytes() == files[f"/lamp/{path}"]
        monkeypatch.setattr(Slow, "every_s", 0)
        shell.run(*command, "--url", url(server))
        assert sum(begin > 0 for begin in server.ranges) >= 2
    expected = sorted(path.removeprefix("/lamp/") for path in files if "time" not in path and "test" not in path)
    assert below(tmp_path / "data") == expected
    assert all((tmp_path / "data" / path).read_bytes() == files[f"/lamp/{path}"] for path in expected)


class Slow:
    """A connection that takes its time."""

    every_s = 0.01

    def __init__(self, file: Any, sent: list[int]) -> None:
        self.file, self.sent = file, sent

    def write(self, body: bytes) -> None:
        for begin in range(0, len(body), 10_000):
            self.file.write(body[begin : begin + 10_000])
            self.sent.append(len(body[begin : begin + 10_000]))
            time.sleep(self.every_s)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)
