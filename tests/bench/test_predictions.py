import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownlm.bench.predictions import Prediction, Writer, read_lamp, read_predictions, write_lamp
from ownlm.errors import DataError, StoreError
from ownlm.history.lamp import read_golds
from tests.history.files import SECRET, write_json

ADA = [
    Prediction("ada", "q1", "sun", 0.5),
    Prediction("ada", "q2", "", 0),
    Prediction("bela", "q1", "雨\n\t\u2028\0", 2e-3),
]


def write(path: Path, *predictions: Prediction) -> None:
    with Writer(path) as writer:
        for one in predictions:
            writer.write(one)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    write(path)
    assert read_predictions(path) == []
    write(path, ADA[0])
    with Writer(path) as writer:
        writer.write(*ADA[1:])
        assert read_predictions(path) == ADA  # before it is closed
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_torn_last_line_is_cut_off_wherever_it_was_torn(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    write(path, *ADA)
    whole = path.read_bytes()
    last = whole[:-1].rindex(b"\n") + 1
    for end in range(last, len(whole)):
        path.write_bytes(whole[:end])
        assert read_predictions(path) == ADA[:2]
        write(path, ADA[2])
        assert path.read_bytes() == whole


LOOP = """
import sys
from pathlib import Path
from ownlm.bench.predictions import Prediction, Writer, read_predictions
path = Path(sys.argv[1])
with Writer(path) as writer:
    for number in range(len(read_predictions(path)), 10**6):
        writer.write(Prediction("ada", str(number), "so " * (number % 500), 0.25))
        print(number, flush=True)
"""


def test_kill_9_between_appends_loses_nothing(tmp_path: Path) -> None:
    path, random, told = tmp_path / "predictions.jsonl", Random(6), -1
    for _ in range(5):
        loop = subprocess.Popen([sys.executable, "-c", LOOP, path], stdout=subprocess.PIPE, text=True)
        assert loop.stdout is not None
        assert int(loop.stdout.readline()) in (told + 1, told + 2)  # the last one may have been written and not told
        time.sleep(random.random() / 20)
        loop.kill()
        last = [line for line in loop.stdout.read().split("\n")[:-1] if line]
        loop.wait()
        kept = read_predictions(path)
        assert [one.id for one in kept] == [str(number) for number in range(len(kept))]
        assert all(one.output == "so " * (int(one.id) % 500) for one in kept)
        assert len(kept) - 1 in ((at := int(last[-1]) if last else told + 1), at + 1)
        told = len(kept) - 1
        path.write_bytes(path.read_bytes() + b'{"user": "ada", "id"')  # as a torn write leaves it


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"Sssecret", "one whole JSON object"),
        (b"\xff", "UTF-8"),
        (b'["Sssecret"]', "JSON object"),
        (b"", "one whole JSON object"),
        (b'{"user": "u", "id": "i", "output": "Sssecret"}', "seconds"),
        (b'{"user": "u", "id": "i", "output": "Sssecret", "seconds": NaN}', "seconds"),
        (b'{"user": "u", "id": "i", "output": "Sssecret", "seconds": true}', "seconds"),
        (b'{"user": "u", "id": "i", "output": null, "seconds": 1}', "output"),
        (b'{"user": 1, "id": "i", "output": "", "seconds": 1}', "user"),
        (b'{"user": "ada", "id": "q1", "output": "Sssecret", "seconds": 1}', "twice"),
    ],
)
def test_anything_else_is_an_error_that_says_where(tmp_path: Path, line: bytes, what: str) -> None:
    path = tmp_path / "predictions.jsonl"
    write(path, *ADA)
    path.write_bytes(path.read_bytes() + line + b"\n" + b"torn")
    with pytest.raises(DataError, match=what) as caught:
        read_predictions(path)
    assert f"{path}:4" in str(caught.value) and SECRET not in str(caught.value)


def test_a_file_that_is_not_there_or_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        read_predictions(tmp_path / "none")
    for path in (tmp_path / "none" / "predictions.jsonl", tmp_path):
        with pytest.raises(StoreError, match="cannot be written"):
            write(path, ADA[0])
        with pytest.raises(StoreError, match="cannot be written"):
            write_lamp(path, "LaMP_4", {})
    full = patch("ownlm.bench.predictions.os.fsync", side_effect=OSError(28, "No space left on device"))
    with Writer(tmp_path / "p") as writer, full, pytest.raises(StoreError, match="No space left"):
        writer.write(ADA[0])
    with pytest.raises(StoreError, match="not open"):
        Writer(tmp_path / "p").write(ADA[0])


def test_half_a_character_does_not_stop_a_run(tmp_path: Path) -> None:
    write(tmp_path / "p", Prediction("ada", "q", "a\ud83d", 0))
    assert read_predictions(tmp_path / "p")[0].output == "a?"
    write_lamp(tmp_path / "l", "LaMP_4", {"q": "a\ud83d"})
    assert read_lamp(tmp_path / "l").outputs == {"q": "a?"}


@given(outputs=st.dictionaries(st.text("aé1-", min_size=1), st.text(st.characters(exclude_categories=["Cs"]))))
def test_lamps_format_goes_round(tmp_path_factory: pytest.TempPathFactory, outputs: dict[str, str]) -> None:
    path = tmp_path_factory.mktemp("lamp") / "preds.json"
    write_lamp(path, "LaMP_2M", {"old": "content"})
    write_lamp(path, "LaMP_2M", outputs)
    assert (said := read_lamp(path)).outputs == outputs and list(said.outputs) == list(outputs)
    assert said.task == "LaMP_2"
    document = json.loads(path.read_text("utf8"))
    golds = [{"id": key, "output": output} for key, output in outputs.items()]
    assert document == {"task": "LaMP_2", "golds": golds}
    assert [file.name for file in path.parent.iterdir()] == ["preds.json"]
    if all(output.strip() for output in outputs.values()):
        assert read_golds(path) == {key: output.strip() for key, output in outputs.items()}


def test_other_peoples_files(tmp_path: Path) -> None:
    golds = [{"id": 110, "output": 4}, {"id": "q2", "output": 3.0}, {"id": "q3", "output": " "}]
    said = read_lamp(write_json(tmp_path / "p.json", {"golds": golds}))
    assert (said.task, said.outputs) == (None, {"110": "4", "q2": "3", "q3": " "})


@pytest.mark.parametrize(
    ("document", "what"),
    [
        ([], "output format"),
        ({"golds": {}}, "output format"),
        ({"golds": [1]}, "gold 1: a JSON object"),
        ({"golds": [{"output": SECRET}]}, "gold 1: the field 'id'"),
        ({"golds": [{"id": 1, "output": SECRET}, {"id": "1", "output": SECRET}]}, "gold 2: .* '1' is repeated"),
        ({"golds": [{"id": 1, "output": None}]}, "gold 1: the field 'output' is missing"),
        ({"golds": [{"id": 1, "output": [SECRET]}]}, "gold 1: the field 'output' is a list"),
    ],
)  # fmt: skip
def test_what_is_not_of_lamps_format(tmp_path: Path, document: object, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        read_lamp(write_json(tmp_path / "p.json", document))
    assert SECRET not in str(caught.value)


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(StoreError, match="cannot be written"), Writer(path) as writer:
            resource.setrlimit(resource.RLIMIT_FSIZE, (70, before[1]))
            for one in ADA:
                writer.write(one)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert read_predictions(path) == ADA[:1]
    write(path, *ADA[1:])
    assert read_predictions(path) == ADA
