"""Whether `peft` reads an adapter as the modules that it was trained on.

`peft` finds modules by the ends of their names, in the whole model. Where transformers converts a checkpoint's names,
as for mixture-of-experts models, it also rewrites the names it is given: `gate_proj` becomes part of fused experts.
"""

import warnings
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.initialization import no_init_weights

from ownlm.errors import AdapterError, BaseModelError
from ownlm.model.adapter import WEIGHTS

_checked: WeakKeyDictionary[nn.Module, set[tuple[str, ...]]] = WeakKeyDictionary()


def skeleton(folder: str | Path) -> Any:
    """A base of a folder's configuration, on the meta device: every module, no weights.

    Raises:
        BaseModelError: the configuration cannot be read.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"), no_init_weights():
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        what, got = f"The base in {folder} cannot be read", str(error).splitlines()[0]
        raise BaseModelError(what, got=got, hint="put it back, or add it again") from None


def peft_targets(model: nn.Module, modules: Sequence[str]) -> list[str]:
    """`target_modules` by which `peft` finds exactly these modules: the ends of their names, or their whole names."""
    ends = {name.rpartition(".")[2] for name in modules}
    found = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in ends}
    return sorted(ends if found == set(modules) else modules)


def check_readable(model: nn.Module, modules: Sequence[str]) -> None:
    """Raises a BaseModelError where `peft` would read an adapter on these modules as one on others."""
    asked = tuple(modules)
    if not isinstance(model, PreTrainedModel) or asked in _checked.setdefault(model, set()):
        return
    if get_model_conversion_mapping(model, add_legacy=False):  # else names are left as they are
        try:
            got = _adapted(model, peft_targets(model, asked))
            wrong = sorted({name.rpartition(".")[2] for name in set(asked) - got})
        except ValueError:  # some of what is fused is named, and some is not
            wrong = sorted({name.rpartition(".")[2] for name in asked})
        if wrong:
            raise BaseModelError(
                "peft cannot read an adapter on these modules of this base",
                got=f"{', '.join(wrong)}, which peft takes for parts of fused experts",
                expected="modules of the attention",
                hint="leave them out",
            )
    _checked[model].add(asked)


def _adapted(model: Any, targets: list[str]) -> set[str]:
    """The modules that `peft` adapts."""
    from peft import LoraConfig, get_peft_model

    with torch.device("meta"), no_init_weights(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = LoraConfig(r=1, target_modules=targets, task_type="CAUSAL_LM")
        peft = get_peft_model(type(model)(deepcopy(model.config)), config, low_cpu_mem_usage=True)
    prefix, end = "base_model.model.", ".lora_A"
    return {name[len(prefix) : -len(end)] for name, _ in peft.named_modules() if name.endswith(end)}


def check_folder(folder: Path, base: Any) -> None:
    """Raises an AdapterError where `peft` does not read a folder's tensors, all of them and no others.

    Args:
        folder: an adapter as PEFT keeps it.
        base: a skeleton of the base; `peft` is put on it.
    """
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    given = load_file(folder / WEIGHTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            peft: Any = get_peft_model(base, PeftConfig.from_pretrained(str(folder)), low_cpu_mem_usage=True)
            result: Any = set_peft_model_state_dict(peft, given, low_cpu_mem_usage=True)
            read = get_peft_model_state_dict(peft, save_embedding_layers=False)
        except (ValueError, RuntimeError, KeyError) as error:
            raise _unreadable(str(error).splitlines()[0]) from None
    shapes = [{(name, tuple(tensor.shape)) for name, tensor in one.items()} for one in (given, read)]
    left = set(result.unexpected_keys) - {"prompt_embeddings"}  # peft keeps them in a place of their own
    if odd := {name for name, _ in shapes[0] ^ shapes[1]} | left:
        raise _unreadable(f"a difference at {min(odd)!r}")


def _unreadable(got: str) -> AdapterError:
    return AdapterError(
        "peft does not read this adapter as it was made, so it is not exported",
        got=got,
        hint="train the user again on modules of the attention",
    )
