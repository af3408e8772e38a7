"""Small random bases of any architecture, as folders on disk."""

import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from ownlm.model.bases.files import TOKENIZER_FILES

SMALL = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
QWEN2_MOE = EXPERTS | {"shared_expert_intermediate_size": 24}
QWEN3_MOE = EXPERTS | {"mlp_only_layers": [0], "decoder_sparse_step": 1}  # its first layer is dense


def write_base(folder: Path, tokenizer: Path, kind: str, architecture: str | None = None, **changes: Any) -> Path:
    """A folder with a random model of a transformers model type, and another base's tokenizer.

    Args:
        architecture: the model's class, where it is not the one that `AutoModelForCausalLM` makes.
        changes: of the configuration `SMALL`; one with a `text_config` gets it within that.
    """
    known = SMALL | {key: value for key, value in changes.items() if "text_config" not in changes}
    if "text_config" in changes:
        known = {**changes, "text_config": SMALL | changes["text_config"]}
    taken = {key: value for key, value in known.items() if key not in changes.get("without", ())}
    taken.pop("without", None)
    config = AutoConfig.for_model(kind, **taken)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if architecture is None:
            model = AutoModelForCausalLM.from_config(config)
        else:
            model = getattr(transformers, architecture)(config)
        for name, parameter in model.named_parameters():  # nothing is one or nought by chance
            if parameter.ndim == 1 or "sinks" in name:
                parameter.data += torch.randn_like(parameter) * 0.1
    model.save_pretrained(folder)
    copy_tokenizer(tokenizer, folder)
    return folder


def copy_tokenizer(tokenizer: Path, folder: Path) -> None:
    """Puts a base's tokenizer into another folder."""
    for name in TOKENIZER_FILES:
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder / name)
