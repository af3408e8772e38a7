"""Checks of a base's architecture by its configuration and modules, before any weight is read."""

import json
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from ownlm.errors import BaseModelError, in_one_line
from ownlm.filesystem import read_regular
from ownlm.model.attention import NAME
from ownlm.model.bases.files import read_config
from ownlm.model.layers import refuse, why_not

_TEXT: Final = "a model that writes text, such as Llama, Mistral, Qwen, Gemma or Phi"
MOST_LAYERS: Final = 1000  # a damaged number would make building the modules endless
_OTHER: Final = "choose another base; docs/bases.md lists those that were tried"


def check_architecture(folder: Path, name: str) -> Any:
    """Refuses a configuration of a model that cannot be a base.

    Args:
        folder: an ordinary Hugging Face folder; only config.json is read.
        name: the base's name, for messages.

    Returns:
        The configuration, as transformers reads it.

    Raises:
        BaseModelError: transformers does not know the model, it needs remote code, it writes no text, its configuration
            is wrong, or it does not run on packed rows.
    """
    transformers_logging.set_verbosity_error()
    raw = read_config(folder)
    kind = str(raw["model_type"])
    if kind not in CONFIG_MAPPING:
        if "auto_map" in raw:
            raise _refused("The model needs code of its own, which is not run here", f"model type {kind!r}", _OTHER)
        here = f"model type {kind!r}, transformers {transformers.__version__}"
        raise _refused("The model is of a type that transformers does not know", here, "update transformers")
    config = _made(kind, lambda: AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    if config.is_encoder_decoder:
        raise _refused("The model is an encoder-decoder", f"model type {kind!r}", _OTHER)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise _refused("The model is no causal language model", f"model type {kind!r}", _OTHER)
    layers = getattr(config.get_text_config(decoder=True), "num_hidden_layers", None) or 0
    if layers > MOST_LAYERS:
        what, most = "The model has too many layers", f"at most {MOST_LAYERS:,}"
        raise BaseModelError(what, got=f"{layers:,}", expected=most, hint="check num_hidden_layers in config.json")
    with torch.device("meta"):
        model = _made(kind, lambda: AutoModelForCausalLM.from_config(config, trust_remote_code=False))
        if why := why_not(model, ""):
            refuse(name, why)
        try:
            AutoModelForCausalLM.from_config(config, trust_remote_code=False, attn_implementation=NAME)
        except Exception:  # it could be built with its own attention
            refuse(name, "attention that transformers does not let others compute")
    return config


def _made(kind: str, make: Any) -> Any:
    """Builds a configuration or a model, with errors of any kind as a BaseModelError."""
    try:
        return make()
    except ImportError as error:  # towers for images or sound from another library
        what, got = "The model needs a package that is not installed", f"model type {kind!r}, {in_one_line(error)}"
        raise _refused(what, got, "install the package, then try again") from None
    except Exception as error:
        what, got = "The model cannot be made of its configuration", f"model type {kind!r}, {in_one_line(error)}"
        raise _refused(what, got, "check config.json, or choose another base") from None


def check_tokenizer(folder: Path) -> None:
    """Refuses a tokenizer that needs remote code or a package that is not installed."""
    if (folder / "tokenizer.json").is_file():
        return
    settings = folder / "tokenizer_config.json"
    if settings.is_file() and "auto_map" in json.loads(read_regular(settings)):
        what, got, hint = "The tokenizer needs code of its own, which is not run here", "auto_map", _OTHER
    elif (folder / "tokenizer.model").is_file() and (lacking := _lacking("sentencepiece", "protobuf")):
        what, got = "The tokenizer is in SentencePiece's own format alone", "tokenizer.model"
        hint = f"put the model's tokenizer.json beside it, or install {' and '.join(lacking)}"
    else:
        return
    raise BaseModelError(what, got=got, expected="tokenizer.json", hint=hint)


def _lacking(*packages: str) -> list[str]:
    """The packages that are not installed."""
    return [name for name in packages if not any(distributions(name=name))]


def _refused(what: str, got: str, hint: str) -> BaseModelError:
    return BaseModelError(what, got=got, expected=_TEXT, hint=hint)
