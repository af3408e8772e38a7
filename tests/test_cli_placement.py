"""--device and --dtype, as they are typed."""

import pytest
import torch

from ownlm.home import Home
from ownlm.model.bases import placement
from tests.shell import QuickShell

TRAIN = ("train", "people.jsonl", "--task", "sorting.toml", "--epochs", "1", "--batch-size", "2")


def test_a_device_that_is_not_there_is_an_error_and_nothing_is_written(
    shell: QuickShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "The device cuda is not available" in shell.run(*TRAIN, "--device", "cuda", code=1)
    assert "Unknown device" in shell.json(*TRAIN, "--device", "tpu", code=1)["error"]["what"]
    assert "auto" in shell.run(*TRAIN, "--dtype", "float16", code=2)
    assert not Home(shell.folder / ".ownlm").histories()
    monkeypatch.setenv("OWNLM_DEVICE", "cuda:7")
    assert "cuda:7" in shell.run("ask", "ada", "thing", "--task", "sorting", code=1)
    shell.run(*TRAIN, "--home", "elsewhere", code=1)
    assert not (shell.folder / "elsewhere").exists()


def test_bfloat16_is_warned_of_where_it_is_slow_and_works(shell: QuickShell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "bfloat16_support", lambda device: "")
    _, told = shell.both(*TRAIN, "--device", "cpu", "--dtype", "bfloat16")
    assert "hundred times slower" in told
    monkeypatch.setattr(placement, "bfloat16_support", lambda device: "avx512_bf16")
    monkeypatch.setenv("OWNLM_DTYPE", "bfloat16")
    _, told = shell.both("ask", "ada", "thing", "--task", "sorting", "--choose")
    assert "slower" not in told
    estimated = shell.json("train", "--task", "sorting", "--dry-run", "--from-scratch", "--epochs", "3")
    assert estimated["people"] == 3


def test_the_doctor_names_the_type_and_why(shell: QuickShell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "bfloat16_support", lambda device: "avx512_bf16")
    monkeypatch.setattr(placement, "bfloat16_gain", lambda width: 1.87)
    machine = shell.json("doctor", "--device", "cpu")["machine"]
    assert (machine["device"], machine["dtype"]) == ("CPU", "bfloat16")
    assert "avx512_bf16" in machine["dtype_reason"] and "1.87 times" in machine["dtype_reason"]
    assert "1.87 times" in shell.run("doctor", "--home", "elsewhere")
    assert shell.json("doctor", "--dtype", "float32")["machine"]["dtype_reason"] == "as asked"
