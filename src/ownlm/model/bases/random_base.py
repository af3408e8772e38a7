"""A Llama of random weights, for tests and benchmarks."""

from pathlib import Path
from typing import Literal

from ownlm.errors import ConfigError
from ownlm.model.bases.byte_bpe import ALPHABET, write_byte_bpe

_SPECIAL = ("<pad>", "<s>", "</s>")
SMALLEST_VOCABULARY = len(_SPECIAL) + len(ALPHABET)


def make_random_base(
    folder: Path,
    *,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    intermediate: int = 128,
    vocab: int = SMALLEST_VOCABULARY,
    seed: int = 0,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
) -> Path:
    """Writes a Llama of random weights with a byte tokenizer, as an ordinary Hugging Face folder.

    Args:
        folder: the folder to write; made if it is missing.
        hidden, layers, heads, kv_heads, intermediate: the model's shape.
        vocab: the number of ids, at least `SMALLEST_VOCABULARY`; the tokenizer leaves those above it unused.
        seed: the seed of the weights; torch's random state does not change.
        dtype: the type of the weights.

    Returns:
        The folder.

    Raises:
        ConfigError: the shape is impossible.
    """
    if hidden % heads or heads % kv_heads or vocab < SMALLEST_VOCABULARY:
        raise ConfigError(
            "No Llama has this shape",
            got=f"hidden {hidden}, heads {heads}, kv_heads {kv_heads}, vocab {vocab}",
            expected=f"heads divides hidden, kv_heads divides heads, vocab is {SMALLEST_VOCABULARY} or more",
        )
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    write_byte_bpe(
        folder,
        tokens=[*_SPECIAL, *ALPHABET],
        special=_SPECIAL,
        roles={"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"},
        max_length=int(config.max_position_embeddings),
    )
    return folder
