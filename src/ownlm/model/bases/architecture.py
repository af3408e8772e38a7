"""Which architectures can be a base, as far as the configuration and the modules tell, before any weight is read."""

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
MOST_LAYERS: Final = 1000  # the model is built to look at its modules: a damaged number would take for ever
_OTHER: Final = "choose another base; docs/bases.md lists those that were tried"


def check_architecture(folder: Path, name: str) -> Any:
    """Refuses a model that cannot be a base by its configuration alone, and says why.

    Args:
        folder: an ordinary Hugging Face folder, of which config.json is read.
        name: of the base.

    Returns:
        The configuration, as transformers reads it.

    Raises:
        BaseModelError: the model is unknown here, needs code of its own, does not write text, cannot be made of its
            configuration, or is of a kind that does not run on packed rows.
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
        except Exception:  # with its own attention it could be made
            refuse(name, "attention that transformers does not let others compute")
    return config


def _made(kind: str, make: Any) -> Any:
    """What transformers makes of a configuration; each model type checks its own, in its own way."""
    try:
        return make()
    except ImportError as error:  # of models of pictures or sound whose towers are another library's
        what, got = "The model needs a package that is not installed", f"model type {kind!r}, {in_one_line(error)}"
        raise _refused(what, got, "install the package, then run the same command again") from None
    except Exception as error:
        what, got = "The model cannot be made of its configuration", f"model type {kind!r}, {in_one_line(error)}"
        raise _refused(what, got, "check config.json, or choose another base") from None


def check_tokenizer(folder: Path) -> None:
    """Refuses a tokenizer that needs what is not here.

    Raises:
        BaseModelError: it needs code of its own, or a package that is not installed.
    """
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
    """Those packages that are not installed."""
    return [name for name in packages if not any(distributions(name=name))]


def _refused(what: str, got: str, hint: str) -> BaseModelError:
    return BaseModelError(what, got=got, expected=_TEXT, hint=hint)
