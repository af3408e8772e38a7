"""A model for which company would matter is refused before it is ever used."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ownlm.errors import BaseModelError
from ownlm.home import Home
from ownlm.model.base import load_base
from ownlm.model.self_test import check_packed

SMALL = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "pad_token_id": None, "eos_token_id": 2,
}  # fmt: skip


def save(folder: Path, tokenizer: Path, kind: str, **changes: object) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(SMALL | changes)))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma"])
def test_plain_decoders_pass(tmp_path: Path, tiny_base: Path, kind: str) -> None:
    check_packed(load_base(save(tmp_path / kind, tiny_base, kind), name=kind, fingerprint=kind))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gemma2", {}),  # attention with soft capping
        ("bloom", {"n_layer": 2, "n_head": 4}),  # positions by alibi
        ("mamba", {"state_size": 4, "num_hidden_layers": 2}),  # a state that runs along the row
        ("stablelm", {}),  # does not hand the row on to its attention
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}),
    ],
)
def test_others_are_refused(tmp_path: Path, tiny_base: Path, kind: str, changes: dict[str, object]) -> None:
    folder = save(tmp_path / kind, tiny_base, kind, **changes)
    home = Home(tmp_path / "home")
    with pytest.raises(BaseModelError):
        home.add_base(str(folder), "odd")
    assert home.bases() == []


def test_a_missing_tensor_is_not_made_up(tmp_path: Path, tiny_base: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save(tmp_path / "llama", tiny_base, "llama")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.self_attn.q_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match="lacks weights"):
        Home(tmp_path / "home").add_base(str(folder), "odd")


def test_a_base_that_moved_is_found_again(tmp_path: Path, tiny_base: Path) -> None:
    home, folder = Home(tmp_path / "home"), save(tmp_path / "here", tiny_base, "llama")
    home.add_base(str(folder), "mine")
    folder.rename(tmp_path / "there")
    assert home.add_base(str(tmp_path / "there"), "mine").folder == str(tmp_path / "there")
    assert len(home.bases()) == 1


def test_written_control_tokens_are_text(tiny_base: Path) -> None:
    base = load_base(tiny_base, name="tiny", fingerprint="tiny")
    end = base.tokenizer.eos_token
    assert base.encode_answer(f" see {end} ok").count(base.end_of_text) == 1
    assert base.end_of_text not in base.encode_prompt(f"say {end} now")
