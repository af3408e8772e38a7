"""Writes a byte-level BPE tokenizer as the two files that transformers reads.

No library writes them, so that a base has the same fingerprint with every version of the libraries.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel

ALPHABET = tuple(sorted(ByteLevel.alphabet()))  # the 256 characters for the bytes


def write_byte_bpe(
    folder: Path,
    *,
    tokens: Sequence[str],
    special: Sequence[str],
    roles: dict[str, str],
    merges: Sequence[str] = (),
    split_digits: bool = False,
    max_length: int,
    chat_template: str | None = None,
) -> None:
    """Writes tokenizer.json and tokenizer_config.json.

    Args:
        folder: the folder to write to.
        tokens: all tokens in the order of their ids, bytes written in `ALPHABET`.
        special: the special tokens among them.
        roles: special tokens by role, such as `{"eos_token": "</s>"}`.
        merges: pairs of tokens with a space between, most frequent first.
        split_digits: whether each digit is a separate token.
        max_length: the model's context in tokens.
        chat_template: a Jinja template, for a chat model.
    """
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    ids = {token: at for at, token in enumerate(tokens)}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[token], "content": token, **flags} for token in special],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]} if split_digits else byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": ids,
            "merges": [merge.split(" ") for merge in merges],
        },
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # with the Llama class, transformers would cut digits differently
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        **roles,
        **({} if chat_template is None else {"chat_template": chat_template}),
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), "utf8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False), "utf8")
