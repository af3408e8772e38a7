"""Small copies of large configurations: every kind of layer is in them, and what does not shrink is named in words."""

from typing import Any

import pytest
from transformers import AutoConfig

from ownlm.errors import BaseModelError
from ownlm.model.base import load_base
from ownlm.model.bases import self_test
from ownlm.model.bases.self_test import check_packed, check_small_copy
from ownlm.model.bases.small_copy import small_copy

DBRX = {"attn_config": {"rope_theta": 5e5, "kv_n_heads": 8, "clip_qkv": 8}, "ffn_config": {"moe_num_experts": 16}}
BOTH = ["full_attention", "sliding_attention"]


@pytest.mark.parametrize(("kind", "changes"), [("gemma3n_text", {}), ("gemma4_text", {"num_kv_shared_layers": 18})])
def test_layers_that_share_keys_stay_behind_those_they_read(kind: str, changes: dict[str, Any]) -> None:
    config = AutoConfig.for_model(kind, **changes)
    before = config.to_dict()
    model = small_copy(config, "eager")
    assert config.to_dict() == before
    own = [layer.self_attn.layer_type for layer in model.model.layers if not layer.self_attn.is_kv_shared_layer]
    shared = [layer.self_attn.layer_type for layer in model.model.layers if layer.self_attn.is_kv_shared_layer]
    assert sorted(set(own)) == sorted(shared) == BOTH and len(own) <= 6
    assert {layer.self_attn.layer_type: layer.self_attn.head_dim for layer in model.model.layers} == {
        name: 32 if kind == "gemma3n_text" else {"full_attention": 512, "sliding_attention": 256}[name] for name in BOTH
    }
    assert sum(one.numel() for one in model.parameters()) < 25e6


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("dbrx", DBRX),  # its attention and its experts are configured apart
        ("helium", {}),  # its head width must fit its width
        ("granitemoehybrid", {"layer_types": ["attention"] * 32, "num_local_experts": 0}),
    ],
)
def test_large_configurations_are_tried_as_small_ones(kind: str, changes: dict[str, Any]) -> None:
    check_small_copy(AutoConfig.for_model(kind, **changes), "base")


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (
            "_gap",
            RuntimeError("sizes\ndiffer."),
            "code does not run on a packed row: sizes differ",
        ),
        (
            "small_copy",
            KeyError("rope"),
            "no small copy .* can be made: it looks up 'rope', which",
        ),
        ("_worst", AssertionError(), "does not run on packed rows with adapters: no reason is given"),
    ],
)
def test_what_modelling_code_says_is_said_in_words(
    tiny_base: Any, monkeypatch: pytest.MonkeyPatch, function: str, error: Exception, words: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    base = load_base(tiny_base, name="tiny", fingerprint="tiny")
    monkeypatch.setattr(self_test, function, fail)
    with pytest.raises(BaseModelError, match=words) as caught:
        check_packed(base)
    assert type(error).__name__ not in str(caught.value) and "docs/bases.md" in str(caught.value.hint)
