"""A small random model with every kind of layer of a large one, for tests of the large one."""

import re
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PreTrainedConfig

from ownlm.model.bases.context import rotary_settings

WINDOW, CHUNK, FLOOR = 5, 6, 4  # tokens, less than the tested sequences
CONTEXT = 48  # tokens, more than the tested sequences
VOCABULARY = 131
HEAD = 32  # the width of a head, if no other setting depends on it
MOST_PERIOD = 8  # layers
LARGEST = 100_000_000  # parameters


def small_copy(config: Any, attention: str) -> Any:
    """A model of a configuration's classes in float64: few layers, heads and experts, short windows and contexts.

    Args:
        config: the large model's configuration; it is not changed.
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
        raise ValueError(f"its configuration does not say what makes it small: {size} parameters are left")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            small, trust_remote_code=False, attn_implementation=attention, dtype=torch.float32
        )
        _draw(model)
    if getattr(small, "_experts_implementation", None) is not None:
        model.set_experts_implementation("eager")  # the others have no float64
    return model.requires_grad_(False).eval().double()


def _shrink(text: Any) -> None:
    """Makes a decoder's configuration small, in place."""
    overrides = _per_layer(text)
    values = text.to_dict()
    heads = int(text.num_attention_heads)
    width = getattr(text, "head_dim", None) or int(text.hidden_size) // heads
    if _has_plain_heads(values, overrides):
        text.head_dim = width = min(width, HEAD)
    keys = _first(text, "num_key_value_heads", "num_kv_heads") or heads
    fewer = min(keys, 2)
    few = fewer * min(heads // keys, 2)
    changes: dict[str, Any] = {
        "num_attention_heads": few, "encoder_attention_heads": few, "decoder_attention_heads": few,
        "num_key_value_heads": fewer, "num_kv_heads": fewer, "kv_n_heads": fewer, "hidden_size": few * width,
        "vocab_size": VOCABULARY, "vocab_size_per_layer_input": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, "sliding_window": WINDOW, "attention_chunk_size": CHUNK, "floor_scale": FLOOR,
        "first_k_dense_replace": 1, "index_topk": FLOOR,
    }  # fmt: skip
    if getattr(text, "n_group", None):
        changes |= {"n_group": min(text.n_group, 2), "topk_group": 1}
    kept = _kept_layers(values, overrides, int(text.num_hidden_layers))
    _set(text, changes | _fewer_layers(values, kept))
    for part in vars(text).values():
        if isinstance(part, PreTrainedConfig):  # DBRX's attention and MLP, or towers for images or sound
            tower = hasattr(part, "num_hidden_layers")
            _set(part, {"num_hidden_layers": 1, "num_blocks": 1} if tower else changes)
    if overrides:
        limits = {"num_attention_heads": few, "num_key_value_heads": fewer}
        text.per_layer_config = {
            place: {
                name: min(value, limits[name]) if name in limits else _limited(name, value)
                for name, value in overrides.get(at, {}).items()
            }
            for place, at in enumerate(kept)
        }
    _shorten_rotary(text)


def _set(config: Any, changes: dict[str, Any]) -> None:
    """Limits a configuration's settings and applies changes, in place."""
    limited = {name: small for name, value in config.to_dict().items() if (small := _limited(name, value)) != value}
    for name, value in {**limited, **changes}.items():
        if getattr(config, name, None) is not None:
            setattr(config, name, value)


def _per_layer(text: Any) -> dict[int, dict[str, Any]]:
    """Takes the settings of single layers out of a configuration."""
    if not getattr(text, "is_heterogeneous", False):
        return {}
    overrides = {int(at): one for at, one in text.to_dict()["per_layer_config"].items()}
    text.per_layer_config = None
    return overrides


def _has_plain_heads(values: dict[str, Any], overrides: dict[int, dict[str, Any]]) -> bool:
    """Whether the width of heads is a setting that no other setting must fit."""
    others = [name for name, value in values.items() if re.search("head_dim|rotary_dim", name) and value]
    lists = "[" in str(values.get("rope_parameters"))  # one factor for each pair of a head's dimensions
    return others == ["head_dim"] and not lists and not any("head_dim" in one for one in overrides.values())


def _limited(name: str, value: Any) -> Any:
    """A setting's value, limited if it is a number of experts or the width of an MLP."""
    limits = {
        "intermediate_size|ffn_hidden_size|ffn_dim": 64,
        "^(hidden_size_per_layer_input|laurel_rank)$": 16,
        "^((moe_)?num_(local_)?experts|n_routed_experts)$": 8,
        "^(num_experts_per_tok|top_?k|(moe_|num_)?top_?k(_experts)?)$": 2,
    }
    for pattern, limit in limits.items():
        if re.search(pattern, name):
            if isinstance(value, list):
                return [_limited(name, one) for one in value]
            return min(value, limit) if type(value) is int else value
    return value


def _shorten_rotary(text: Any) -> None:
    """Shortens the original context, beyond which rotary embeddings change, to that of the tests."""
    for rope in rotary_settings(text):
        if rope.get("rope_type") == "longrope" or "llama_4_scaling_beta" in rope:
            rope["original_max_position_embeddings"] = CONTEXT if rope.get("rope_type") == "longrope" else FLOOR
        if rope.get("rope_type") == "dynamic":
            text.max_position_embeddings = CONTEXT


def _lists(values: dict[str, Any]) -> dict[str, list[Any]]:
    """The settings with one value for each layer."""
    layers = values["num_hidden_layers"]
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, list) and len(value) == layers and name != "moe_layers"
    }


def _kept_layers(values: dict[str, Any], overrides: dict[int, dict[str, Any]], layers: int) -> list[int]:
    """The first layer of each kind, and one full period of repeating kinds."""
    values["num_hidden_layers"] = layers
    shared = layers - (values.get("num_kv_shared_layers") or 0)  # later layers read the keys of earlier ones
    kinds = [
        str([at >= shared, overrides.get(at), *(value[at] for value in _lists(values).values())])
        for at in range(layers)
    ]
    periods = [
        value
        for name, value in values.items()
        if re.search("_(step|interval|period|pattern|every_n)", name) and isinstance(value, int)
    ]
    count = min(layers, max([2, *(period for period in periods if period <= MOST_PERIOD)]))
    return sorted({*(kinds.index(kind) for kind in kinds), *range(count)})


def _fewer_layers(values: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    """The changes that keep only these layers."""
    changes: dict[str, Any] = {
        name: [_limited(name, value[at]) for at in kept] for name, value in _lists(values).items()
    }
    if isinstance(values.get("moe_layers"), list):  # indices of layers
        changes["moe_layers"] = [place for place, at in enumerate(kept) if at in values["moe_layers"]]
    if shared := values.get("num_kv_shared_layers"):
        changes["num_kv_shared_layers"] = sum(at >= values["num_hidden_layers"] - shared for at in kept)
    return changes | {name: len(kept) for name in ("num_hidden_layers", "decoder_layers", "encoder_layers")}


def _first(text: Any, *names: str) -> int | None:
    return next((int(value) for name in names if (value := getattr(text, name, None))), None)


def _draw(model: nn.Module) -> None:
    """Draws weights that are large enough for every part to matter."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.Embedding):
                nn.init.normal_(parameter)
            elif parameter.dim() >= 2:
                nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
            elif name == "bias" or "sink" in name or not parameter.any():
                nn.init.normal_(parameter, std=0.3)
