"""How much is taken at once: within what is free, never nothing, and the same everywhere where it matters."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ownlm.config import LoraConfig, TrainConfig
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.oppu import memory


@given(st.integers(0, 10**12), st.integers(0, 10**9), st.integers(1, 10**8), st.integers(1, 16), st.booleans())
def test_what_is_chosen_fits_or_is_the_least(
    free: int, per_slot: int, per_token: int, workers: int, cuda: bool
) -> None:
    slots, tokens, used = memory.choose(free, per_slot, per_token, workers, cuda)
    assert 1 <= used <= workers and (used * tokens * per_token <= free / 2 or (used, tokens) == (1, 256))
    assert slots == 1 or slots * per_slot <= free / 4
    assert 256 <= tokens <= (32_768 if cuda else 1024) and 1 <= slots <= (256 if cuda else 64)


def test_with_room_enough_the_most_is_taken() -> None:
    assert memory.choose(10**12, 10**6, 10**6, 2, cuda=False) == (32, 1024, 2)
    assert memory.choose(10**12, 10**6, 10**6, 1, cuda=True) == (256, 32_768, 1)
    assert memory.choose(0, 10**6, 10**6, 1, cuda=True) == (1, 256, 1)


def test_a_slot_is_four_times_its_parameters(base: BaseLM) -> None:
    lora = LoraConfig(r=4, target_modules=("q_proj", "v_proj", "o_proj"))
    assert memory.parameters_per_slot(base.model, lora) == LoraBank(base.model, lora, 1).param_UP.shape[1]


def test_room_follows_what_is_free_and_what_is_asked(base: BaseLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: 10**11)
    monkeypatch.setattr(memory, "workers_for", lambda *_: 2)
    plenty = memory.room_for(base, TrainConfig())
    assert (plenty.slots, plenty.tokens_per_step, plenty.waiting) == (32, 1024, memory.MOST_WAITING)
    asked = memory.room_for(base, TrainConfig(), 3, 99)
    assert (asked.slots, asked.tokens_per_step) == (3, 99)
    monkeypatch.setattr(memory, "free_bytes", lambda _: 10**7)
    little = memory.room_for(base, TrainConfig())
    assert little.tokens_per_step < 1024 and little.slots < 32 and little.bytes < plenty.bytes
    assert memory.room_for(base, TrainConfig(lora_dropout=0.1)) == little
    assert memory.room_for(base, TrainConfig(method="ia3")).waiting == 1


def test_control_groups_above_a_process_count(tmp_path: Path) -> None:
    def group(path: str, limit: str, used: int, files: int) -> None:
        folder = tmp_path / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {files}\n")

    group("a", "1000", 300, 100)
    group("a/b", "max", 250, 0)
    group("a/b/c", "500", 600, 0)
    assert memory.cgroup_free(tmp_path, "12:cpu:/x\n0::/a/b/c\n") == [0, 800]
    assert memory.cgroup_free(tmp_path, "0::/a/b\n") == [800] and memory.cgroup_free(tmp_path, "0::/\n") == []
    assert memory.free_bytes(torch.device("cpu")) > 10**6
