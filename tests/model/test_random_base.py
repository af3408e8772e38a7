"""Random bases and the tokenizer written for them."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from ownlm.errors import ConfigError
from ownlm.model.bases.files import check_base_folder, fingerprint
from ownlm.model.bases.random_base import make_random_base


def test_it_loads_in_the_asked_shape(tmp_path: Path) -> None:
    folder = make_random_base(tmp_path / "b", hidden=48, layers=3, heads=6, kv_heads=3, vocab=300, dtype="bfloat16")
    check_base_folder(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert len(model.model.layers) == 3
    assert model.model.layers[0].self_attn.k_proj.weight.shape == (24, 48)
    assert model.get_input_embeddings().weight.shape == (300, 48)
    assert model.generation_config.eos_token_id == AutoTokenizer.from_pretrained(folder).eos_token_id == 2


def test_the_seed_alone_makes_the_weights(tiny_base: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again = make_random_base(tmp_path / "again")
    assert torch.equal(torch.rand(3), expected), "torch's own random state was touched"
    assert fingerprint(again) == fingerprint(tiny_base)
    assert fingerprint(make_random_base(tmp_path / "other", seed=1)) != fingerprint(tiny_base)


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(text: str, tiny_tokenizer: AutoTokenizer) -> None:
    ids = tiny_tokenizer(text)["input_ids"]
    assert tiny_tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(ids) == len(text.encode())


@pytest.fixture(scope="module")
def tiny_tokenizer(tiny_base: Path) -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(tiny_base)


def test_special_tokens_stand_alone(tiny_tokenizer: AutoTokenizer) -> None:
    assert tiny_tokenizer("a</s>")["input_ids"][1:] == [tiny_tokenizer.eos_token_id]


@pytest.mark.parametrize("shape", [{"hidden": 65}, {"heads": 4, "kv_heads": 3}, {"vocab": 100}])
def test_impossible_shapes_are_refused(shape: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No Llama has this shape"):
        make_random_base(tmp_path / "b", **shape)
    assert not (tmp_path / "b").exists()
