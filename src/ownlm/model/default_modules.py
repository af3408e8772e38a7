"""The modules that the presets adapt, by the names that a base has for them. Loads no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ownlm.model.base_files import decoder_shapes

_JOINT: Final = (("qkv_proj",), ("query_key_value",), ("Wqkv",), ("c_attn",))  # queries, keys and values in one
_LATENT: Final = (("kv_a_proj_with_mqa",),)  # of DeepSeek: what its cache keeps, of which keys and values are made
_OTHERS: Final = {
    "q_proj": (("q_a_proj", "q_b_proj"), *_JOINT),
    "k_proj": (*_LATENT, *_JOINT),
    "v_proj": (*_LATENT, *_JOINT),
    "o_proj": (("dense",), ("out_proj",), ("c_proj",)),
}


def named_by(folder: Path, modules: Sequence[str]) -> tuple[str, ...]:
    """Modules of a preset by the names that they have in a base; a name without an equivalent stays.

    Args:
        folder: of the base.
        modules: in Llama's names.

    Raises:
        BaseModelError: a file is missing or damaged.
    """
    names = (name.removesuffix(".weight").rpartition(".")[2] for name in decoder_shapes(folder))
    return _translated(frozenset(names), modules)


def _translated(known: frozenset[str], modules: Sequence[str]) -> tuple[str, ...]:
    """
    >>> _translated(frozenset({"qkv_proj", "o_proj"}), ("q_proj", "v_proj", "o_proj"))
    ('qkv_proj', 'o_proj')
    """
    found: dict[str, None] = {}
    for module in modules:
        others = () if module in known else _OTHERS.get(module, ())
        found |= dict.fromkeys(next((names for names in others if known.issuperset(names)), (module,)))
    return tuple(found)
