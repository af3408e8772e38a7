"""A small model of random weights with every kind of layer of a large one, on which the large one is tried."""

import re
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

from ownlm.model.context import rotary_settings

WINDOW, CHUNK, FLOOR = 5, 6, 4  # tokens; each less than the sequences that are tried
CONTEXT = 48  # tokens; more than them
VOCABULARY = 131
MOST_PERIOD = 8  # layers
LARGEST = 50_000_000  # parameters


def small_copy(config: Any, attention: str) -> Any:
    """A model of a configuration's classes in float64: few layers, heads and experts, short windows and contexts.

    Args:
        config: of the large model; left as it is.
        attention: transformers' name of an attention implementation.

    Raises:
        ValueError: the configuration does not shrink.
    """
    text = config.get_text_config(decoder=True)
    small = deepcopy(text if type(text) in MODEL_FOR_CAUSAL_LM_MAPPING else config)
    _shrink(small.get_text_config(decoder=True))
    with torch.device("meta"):
        size = sum(one.numel() for one in AutoModelForCausalLM.from_config(small, trust_remote_code=False).parameters())
    if size > LARGEST:
        raise ValueError(f"{size} parameters")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            small, trust_remote_code=False, attn_implementation=attention, dtype=torch.float32
        )
        _draw(model)
    if getattr(small, "_experts_implementation", None) is not None:
        model.set_experts_implementation("eager")  # the others know no float64
    return model.requires_grad_(False).eval().double()


def _shrink(text: Any) -> None:
    """Makes a decoder's configuration small, in place."""
    values = text.to_dict()
    heads = int(text.num_attention_heads)
    width = getattr(text, "head_dim", None) or int(text.hidden_size) // heads
    keys = _first(text, "num_key_value_heads", "num_kv_heads") or heads
    fewer = min(keys, 2)
    few = fewer * min(heads // keys, 2)
    changes: dict[str, Any] = {
        "num_attention_heads": few, "num_key_value_heads": fewer, "num_kv_heads": fewer, "hidden_size": few * width,
        "vocab_size": VOCABULARY, "vocab_size_per_layer_input": VOCABULARY, "pad_token_id": None, "bos_token_id": 1,
        "eos_token_id": 2, "sliding_window": WINDOW, "attention_chunk_size": CHUNK, "floor_scale": FLOOR,
        "first_k_dense_replace": 1, "index_topk": FLOOR,
    }  # fmt: skip
    for name, value in values.items():
        if re.search("intermediate_size|ffn_hidden_size|ffn_dim", name) and isinstance(value, int):
            changes[name] = min(value, 64)
        if re.fullmatch("num_(local_)?experts|n_routed_experts", name) and value:
            changes[name] = min(value, 8)
        if re.fullmatch("(num_experts_per_tok|top_?k|moe_topk)", name) and value:
            changes[name] = min(value, 2)
    if getattr(text, "n_group", None):
        changes |= {"n_group": min(text.n_group, 2), "topk_group": 1}
    changes |= _fewer_layers(values, int(text.num_hidden_layers))
    for name, value in changes.items():
        if getattr(text, name, None) is not None:
            setattr(text, name, value)
    for rope in rotary_settings(text):
        if rope.get("rope_type") == "longrope" or "llama_4_scaling_beta" in rope:
            rope["original_max_position_embeddings"] = CONTEXT if rope.get("rope_type") == "longrope" else FLOOR
        if rope.get("rope_type") == "dynamic":
            text.max_position_embeddings = CONTEXT


def _fewer_layers(values: dict[str, Any], layers: int) -> dict[str, Any]:
    """The first layer of each kind, and enough to go once through what repeats."""
    lists = {
        name: value
        for name, value in values.items()
        if isinstance(value, list) and len(value) == layers and name != "moe_layers"
    }
    kinds = [str([value[at] for value in lists.values()]) for at in range(layers)]
    periods = [
        value
        for name, value in values.items()
        if re.search("_(step|interval|period|pattern|every_n)", name) and isinstance(value, int)
    ]
    count = min(layers, max([2, *(period for period in periods if period <= MOST_PERIOD)]))
    kept = sorted({*(kinds.index(kind) for kind in kinds), *range(count)})
    changes: dict[str, Any] = {name: [value[at] for at in kept] for name, value in lists.items()}
    if isinstance(values.get("moe_layers"), list):  # numbers of layers
        changes["moe_layers"] = [place for place, at in enumerate(kept) if at in values["moe_layers"]]
    return changes | {"num_hidden_layers": len(kept), "decoder_layers": len(kept), "encoder_layers": len(kept)}


def _first(text: Any, *names: str) -> int | None:
    return next((int(value) for name in names if (value := getattr(text, name, None))), None)


def _draw(model: nn.Module) -> None:
    """Weights large enough for every part to matter."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.Embedding):
                nn.init.normal_(parameter)
            elif parameter.dim() >= 2:
                nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
            elif name == "bias" or "sink" in name:
                nn.init.normal_(parameter, std=0.3)
