"""The frozen bases of the speed benchmarks: SmolLM2-135M, and larger bases with random weights in real shapes.

Speed does not depend on the weights. Random ones are made on the device, so nothing is downloaded.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from ownlm.errors import BaseModelError
from ownlm.model.attention import NAME
from ownlm.model.base import BaseLM, load_base
from ownlm.model.bases.placement import Dtype
from ownlm.model.forward_context import trim_last_mlp

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 128, "vocab_size": 512, "tie_word_embeddings": True,
    },
    "smollm2": {
        "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True,
    },
    "1.7b": {  # SmolLM2-1.7B
        "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32, "num_key_value_heads": 32,
        "intermediate_size": 8192, "vocab_size": 49152, "tie_word_embeddings": True,
    },
    "7b": {  # Llama-2-7B
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
        "intermediate_size": 11008, "vocab_size": 32000, "tie_word_embeddings": False,
    },
}  # fmt: skip


def open_base(name: str, device: str) -> tuple[BaseLM, str]:
    """A base, float32 on a CPU and bfloat16 on a GPU, and what is to be said about it.

    Its tokenizer is SmolLM2's, where that is at hand and the vocabulary is its own; else None.
    """
    folder, why = smollm2_folder() if name in ("smollm2", "1.7b") else (None, "")
    if name == "smollm2" and folder:
        dtype: Dtype = "float32" if device == "cpu" else "auto"
        return load_base(folder, name=name, fingerprint=name, device=device, dtype=dtype), "SmolLM2-135M-Instruct"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True) if folder else None
    base = BaseLM(name, name, folder or Path(name), random_model(name, device), tokenizer)
    return base, f"random weights in the shape of {name}" + (f", since {why}" if name == "smollm2" else "")


def smollm2_folder() -> tuple[Path | None, str]:
    """Where the embedded base lies, fetched if need be; or None, and why not."""
    try:
        from ownlm.model.bases import smollm2

        return smollm2.fetch(), ""
    except ImportError as error:
        return None, f"{error.name} is not installed"
    except (BaseModelError, OSError) as error:
        return None, f"it cannot be fetched ({str(error).splitlines()[0]})"


def random_model(name: str, device: str) -> Any:
    """A Llama of random weights, the same ones each time, made on the device."""
    dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPES[name]), dtype=dtype, attn_implementation=NAME)
    trim_last_mlp(model)  # as in a base that was loaded
    return model.requires_grad_(False).eval()
