"""Device and type of a base: chosen by what the processor says and a trial, or named by the user."""

import time
from pathlib import Path

import pytest
import torch

from ownlm.errors import ConfigError
from ownlm.model.base import load_base
from ownlm.model.bases import placement
from ownlm.model.bases.placement import Placement, bfloat16_gain, choose_dtype


def processor(patch: pytest.MonkeyPatch, support: str, gain: float = 1.0) -> list[int]:
    """Replaces the query and the trial; returns the widths of the trials that are made."""
    widths: list[int] = []
    patch.setattr(placement, "bfloat16_support", lambda device: support)
    patch.setattr(placement, "bfloat16_gain", lambda width: widths.append(width) or gain)
    return widths


@pytest.mark.parametrize(
    ("support", "gain", "width", "dtype", "trials", "why"),
    [
        ("", 9.0, 576, torch.float32, [], "no instructions for bfloat16"),
        ("avx512_bf16", 1.9, 576, torch.bfloat16, [576], "has avx512_bf16, and bfloat16 is 1.90 times as fast"),
        ("amx_bf16", 1.2, 4096, torch.bfloat16, [2048], "1.20 times as fast"),
        ("avx512_bf16", 1.19, 576, torch.float32, [576], "1.19 times as fast"),
        ("avx512_bf16", 9.0, 64, torch.float32, [], "hidden size is 64"),
    ],
)
def test_a_cpu_takes_bfloat16_where_it_is_faster(
    support: str, gain: float, width: int, dtype: torch.dtype, trials: list[int], why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    made = processor(monkeypatch, support, gain)
    chosen = choose_dtype("cpu", "auto", width)
    assert (chosen.dtype, made, chosen.slow) == (dtype, trials, False) and why in chosen.why


@pytest.mark.parametrize("device", ["cuda", "mps"])
@pytest.mark.parametrize(("support", "dtype"), [("bfloat16", torch.bfloat16), ("", torch.float32)])
def test_a_gpu_takes_bfloat16_if_it_has_it(
    device: str, support: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert processor(monkeypatch, support) == [] and choose_dtype(device).dtype == dtype


def test_a_named_type_is_taken_without_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = processor(monkeypatch, "avx512_bf16", 9.0)
    assert choose_dtype("cpu", "float32").dtype == torch.float32
    fast = choose_dtype("cpu", "bfloat16")
    processor(monkeypatch, "")
    slow = choose_dtype("cpu", "bfloat16")
    assert (fast.name, fast.slow, slow.name, slow.slow, trials) == ("bfloat16", False, "bfloat16", True, [])


def test_the_trial_is_short_and_made_once() -> None:
    """Also where bfloat16 is slow: the processor may have no instructions for it."""
    started = time.perf_counter()
    gain = bfloat16_gain(1024)
    assert gain > 0 and time.perf_counter() - started < 2 * placement.TRIAL_S
    started = time.perf_counter()
    assert bfloat16_gain(1024) == gain and time.perf_counter() - started < 0.01


def test_a_base_is_loaded_in_the_chosen_type(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "NARROW", 0)
    widths = processor(monkeypatch, "avx512_bf16", 2.0)
    chosen = load_base(tiny_base, name="tiny", fingerprint="tiny")
    named = load_base(tiny_base, name="tiny", fingerprint="tiny", dtype="float32")
    assert next(chosen.model.parameters()).dtype == torch.bfloat16 and widths == [64]
    assert next(named.model.parameters()).dtype == torch.float32


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"Unknown device.*'gpu'.*cuda:N"):
        Placement("gpu")
    with pytest.raises(ConfigError, match=r"Unknown type of weights.*'float64'"):
        Placement(dtype="float64")  # type: ignore[arg-type]


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=r"cuda is not available.*no GPU"):
        Placement("cuda").find_device()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Placement("cuda:1").find_device() == torch.device("cuda:1")
    with pytest.raises(ConfigError, match=r"cuda:2 is not available.*cuda:0 to cuda:1"):
        Placement("cuda:2").find_device()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="mps is not available"):
        Placement("mps").find_device()
    assert Placement("cpu").find_device().type == "cpu"
