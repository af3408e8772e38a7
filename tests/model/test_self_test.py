"""A model for which company would matter is refused before it is ever used."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ownlm.config import LoraConfig
from ownlm.errors import BaseModelError
from ownlm.home import Home
from ownlm.model import layers
from ownlm.model.bank import LoraBank
from ownlm.model.base import load_base
from ownlm.model.bases.self_test import check_packed
from ownlm.model.kv_cache import KvCache
from ownlm.model.packed import CAUSAL, BatchBuilder
from ownlm.model.segments import BASE

SMALL = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "pad_token_id": None, "eos_token_id": 2,
}  # fmt: skip


def save(folder: Path, tokenizer: Path, kind: str, **changes: object) -> Path:
    torch.manual_seed(0)
    settings = {name: value for name, value in (SMALL | changes).items() if (name, value) != ("head_dim", None)}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
    "original_max_position_embeddings": 64, "factor": 8.0,
}  # fmt: skip
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40}
MLA = {
    "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "kv_lora_rank": 16, "q_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 12,
    "num_key_value_heads": 4, "first_k_dense_replace": 1, "head_dim": None,
}  # fmt: skip
GEMMA3 = {
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}, "full_attention": LONGROPE,
    },
}  # fmt: skip
ACCEPTED: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("llama", {}),
    "dynamic rope, within the context": (
        "llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
    ),
    "window by keyword and mask": ("mistral", {"sliding_window": 5}),
    "window in the mask alone": (
        "qwen2_moe", MOE | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "window in the mask alone, long factors": (
        "phimoe",
        {
            "sliding_window": 5, "num_local_experts": 4, "original_max_position_embeddings": 64,
            "rope_parameters": LONGROPE | {"short_mscale": 1.2, "long_mscale": 1.7},
        },
    ),
    "chunks, and temperatures of far places": (
        "llama4_text",
        {
            "attention_chunk_size": 6, "floor_scale": 4, "num_local_experts": 2, "intermediate_size_mlp": 40,
            "no_rope_layers": [1, 0], "layer_types": ["chunked_attention", "full_attention"],
        },
    ),
    "soft capping": ("gemma2", {"sliding_window": 5, "attn_logit_softcapping": 2.0}),
    "sinks": ("gpt_oss", {"sliding_window": 5, "num_local_experts": 4}),
    "keywords that are dropped": ("stablelm", {}),
    "values of another width": ("deepseek_v3", MLA),
    "original context": ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64}),
    "original context of one type of layer": ("gemma3_text", GEMMA3),
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
@torch.no_grad()
def test_what_is_accepted_equals_the_stock_model(tmp_path: Path, tiny_base: Path, name: str) -> None:
    """In a row, and decoded token by token behind the cache, on sequences longer than every window."""
    kind, changes = ACCEPTED[name]
    folder = save(tmp_path / kind, tiny_base, kind, **changes)
    base, plain = load_base(folder, name=kind, fingerprint=kind), AutoModelForCausalLM.from_pretrained(folder).eval()
    plain.set_attn_implementation("eager")
    if "longrope" in str(changes):
        assert base.max_tokens == 64
    draw = torch.Generator().manual_seed(0)
    sequences = [torch.randint(3, 250, (length,), generator=draw).tolist() for length in (40, 3, 21)]
    alone = [plain(torch.tensor([tokens]), use_cache=False).logits[0] for tokens in sequences]
    row, cache, chains = BatchBuilder(), KvCache(), []
    for tokens in sequences:
        row.predict(BASE, row.add(BASE, tokens))
    together = base.logits(row.pack()).split([len(tokens) for tokens in sequences])
    for got, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)
    first, places = BatchBuilder(), [cache.take(len(tokens)) for tokens in sequences]
    for tokens, at in zip(sequences, places, strict=True):
        chains.append(first.add(BASE, tokens[:-2], at=at[:-2]))
    base.logits(first.pack(), cache=cache.writing(np.concatenate([at[:-2] for at in places]), base.device))
    for step in (-2, -1):
        row = BatchBuilder()
        for number, (tokens, at) in enumerate(zip(sequences, places, strict=True)):
            chains[number] = row.add(BASE, [tokens[step]], after=chains[number], at=at[[step]])
            row.predict(BASE, np.array([number]))
        got = base.logits(row.pack(), cache=cache.writing(np.array([at[step] for at in places]), base.device))
        torch.testing.assert_close(got, torch.stack([one[step] for one in alone]), atol=1e-4, rtol=1e-3)
    check_packed(base)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("bloom", {"n_layer": 2, "n_head": 4}, "ALiBi"),
        ("mpt", {"n_layers": 2, "n_heads": 4, "d_model": 64}, "ALiBi"),
        ("falcon", {"alibi": True, "head_dim": None}, "ALiBi"),
        ("falcon", {"alibi": False, "head_dim": None}, "attention that transformers does not let others compute"),
        ("mamba", {"state_size": 4}, "a state along the row: Mamba"),
        (
            "jamba",
            {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2},
            "a state along the row: Jamba",
        ),
        ("rwkv", {}, "a state along the row: Rwkv"),
    ],
)
def test_others_are_refused(tmp_path: Path, tiny_base: Path, kind: str, changes: dict[str, object], words: str) -> None:
    folder = save(tmp_path / kind, tiny_base, kind, **changes)
    home = Home(tmp_path / "home")
    with pytest.raises(BaseModelError, match=words) as caught:
        home.add_base(str(folder), "odd")
    assert home.bases() == [] and "Error" not in str(caught.value)


def test_what_is_no_decoder_or_takes_no_adapters_is_refused(tmp_path: Path, tiny_base: Path) -> None:
    gpt2 = save(tmp_path / "gpt2", tiny_base, "gpt2", n_layer=2, n_head=4, n_embd=64)
    with pytest.raises(BaseModelError, match="Conv1D"):
        check_packed(load_base(gpt2, name="gpt2", fingerprint="gpt2"))
    with pytest.raises(BaseModelError, match="later tokens"):
        load_base(save(tmp_path / "bert", tiny_base, "bert", is_decoder=False), name="bert", fingerprint="bert")


@pytest.mark.parametrize("name", ["window in the mask alone", "chunks, and temperatures of far places", "sinks"])
def test_the_small_copy_shows_what_short_rows_do_not(
    tmp_path: Path, tiny_base: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were a model's masks taken for plain causal ones, or its sinks ignored, it would be refused."""
    kind, changes = ACCEPTED[name]
    wide = {"sliding_window": 400, "attention_chunk_size": 400, "floor_scale": 400}
    base = load_base(save(tmp_path / kind, tiny_base, kind, **changes | wide), name=kind, fingerprint=kind)
    check_packed(base)
    monkeypatch.setattr(layers, "_mask_of", lambda *_: CAUSAL)
    with pytest.raises(BaseModelError, match="change with the neighbours"):
        check_packed(base)


def test_adapters_on_modules_that_see_other_tokens_are_refused(tmp_path: Path, tiny_base: Path) -> None:
    base = load_base(save(tmp_path / "mla", tiny_base, "deepseek_v3", **MLA), name="mla", fingerprint="mla")
    with pytest.raises(BaseModelError, match=r"kv_b_proj.*earlier tokens"):
        LoraBank(base.model, LoraConfig(target_modules=("q_b_proj", "kv_b_proj")), 1)
    changes = ACCEPTED["chunks, and temperatures of far places"][1]
    base = load_base(save(tmp_path / "l4", tiny_base, "llama4_text", **changes), name="l4", fingerprint="l4")
    with pytest.raises(BaseModelError, match=r"router.*Llama4Router"):
        LoraBank(base.model, LoraConfig(target_modules=("router",)), 1)
    model = nn.ModuleDict({"experts": nn.ModuleList([nn.ModuleDict({"w1": nn.Linear(2, 2)})])})
    with pytest.raises(BaseModelError, match=r"experts\.0\.w1.*routed"):
        LoraBank(model, LoraConfig(target_modules=("w1",)), 1)


def test_beyond_the_original_context_is_an_error(tmp_path: Path, tiny_base: Path) -> None:
    kind, changes = ACCEPTED["original context"]
    base = load_base(save(tmp_path / kind, tiny_base, kind, **changes), name=kind, fingerprint=kind)
    row = BatchBuilder()
    row.predict(BASE, row.add(BASE, [5] * 65)[-1:])
    with pytest.raises(BaseModelError, match="at most 64"):
        base.logits(row.pack())


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
