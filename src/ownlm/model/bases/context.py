"""The longest sequence of a model."""

from typing import Any

LONGEST = 2**31  # for models without a limit


def rotary_settings(text: Any) -> list[dict[str, Any]]:
    """The settings of a decoder's rotary embeddings: one dictionary, or one for each type of layer."""
    rope = getattr(text, "rope_parameters", None) or {}
    return [one for one in rope.values() if isinstance(one, dict)] or [rope]


def has_original_context(config: Any) -> bool:
    """Whether longer sequences get other rotary embeddings at all positions (longrope, dynamic NTK).

    Within the original context they do not depend on the length, so a row's neighbours do not matter.
    """
    return any(one.get("rope_type") in ("longrope", "dynamic") for one in rotary_settings(config.get_text_config()))


def context(config: Any) -> int:
    """The longest sequence in tokens: the model's limit, or its original context if it has one."""
    text = config.get_text_config()
    limits = [getattr(text, "max_position_embeddings", None)]
    for one in rotary_settings(text):
        if one.get("rope_type") == "longrope":
            limits.append(
                one.get("original_max_position_embeddings") or getattr(text, "original_max_position_embeddings", None)
            )
    return min((int(limit) for limit in limits if limit), default=LONGEST)
