"""Checks that `peft` puts an adapter on the modules that it was trained on.

`peft` finds modules by the ends of their names, in the whole model. If transformers converts a checkpoint's names, as
for mixture-of-experts models, `peft` also rewrites adapters' names: `gate_proj` becomes a part of fused experts.
"""

import warnings
from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from ownlm.errors import AdapterError, BaseModelError
from ownlm.model.adapter import WEIGHTS

_misnamed: WeakKeyDictionary[nn.Module, dict[tuple[str, ...], list[str]]] = WeakKeyDictionary()
_REFUSALS = (ValueError, RuntimeError, KeyError)  # of peft and of transformers' renaming


def skeleton(folder: str | Path) -> Any:
    """The model of a folder's configuration on the meta device: all modules, no weights.

    Raises:
        BaseModelError: the configuration cannot be read.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        what, got = f"The base in {folder} cannot be read", str(error).splitlines()[0]
        raise BaseModelError(what, got=got, hint="put it back, or add it again") from None


def peft_targets(model: nn.Module, modules: Sequence[str]) -> list[str]:
    """PEFT's `target_modules` for exactly these modules: the ends of their names, or their whole names."""
    ends = {name.rpartition(".")[2] for name in modules}
    found = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in ends}
    return sorted(ends if found == set(modules) else modules)


def check_readable(model: nn.Module, modules: Sequence[str]) -> None:
    """Raises a BaseModelError if `peft` would load an adapter on these modules under other names."""
    if not isinstance(model, PreTrainedModel) or not _renames(model.config):
        return
    asked, known = tuple(modules), _misnamed.setdefault(model, {})
    if asked not in known:
        known[asked] = _misnamed_kinds(model, asked)
    if known[asked]:
        raise BaseModelError(
            "peft cannot read an adapter on these modules of this base",
            got=f"{', '.join(known[asked])}, which peft loads under other names, such as those of fused experts",
            expected="modules of the attention",
            hint="leave them out",
        )


def check_folder(folder: Path, base: Any) -> None:
    """Raises an AdapterError if `peft` does not load exactly the tensors of a folder.

    Args:
        folder: a PEFT adapter.
        base: a skeleton of the base; `peft` changes it.
    """
    from peft import PeftConfig

    try:
        odd = _difference(base, PeftConfig.from_pretrained(str(folder)), load_file(folder / WEIGHTS))
    except _REFUSALS as error:
        raise _unreadable(str(error).splitlines()[0]) from None
    if odd:
        raise _unreadable(f"a difference at {min(odd)!r}")


@lru_cache(maxsize=64)
def check_served(base: str, modules: tuple[str, ...]) -> None:
    """Raises an AdapterError if `check_readable` refuses an adapter on these modules.

    Args:
        base: the base's folder; only its configuration is read.
        modules: the names of the adapted modules.
    """
    bare = skeleton(base)
    try:
        check_readable(bare, modules)
    except BaseModelError as error:
        raise _unreadable(str(error.got)) from None


def _renames(config: Any) -> bool:
    """Whether `peft` renames adapters' weights for this type of model, by the condition in its code."""
    return get_checkpoint_conversion_mapping(config.model_type) is not None


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _misnamed_kinds(model: Any, modules: Sequence[str]) -> list[str]:
    """The last names of the modules that `peft` loads under other names."""
    if not _misread(model, modules):
        return []
    kinds = sorted({_kind(name) for name in modules})
    if len(kinds) == 1:
        return kinds
    return [kind for kind in kinds if _misread(model, [one for one in modules if _kind(one) == kind])] or kinds


def _misread(model: Any, modules: Sequence[str]) -> bool:
    """Whether `peft` loads an adapter on these modules under other names. No weights are made."""
    from peft import LoraConfig

    config = LoraConfig(r=1, target_modules=peft_targets(model, modules), task_type="CAUSAL_LM")
    try:
        with torch.device("meta"):
            given = {}
            for name in modules:
                module = model.get_submodule(name)
                given[f"base_model.model.{name}.lora_A.weight"] = torch.empty(1, module.in_features)
                given[f"base_model.model.{name}.lora_B.weight"] = torch.empty(module.out_features, 1)
            bare = type(model)(deepcopy(model.config))
        return bool(_difference(bare, config, given))
    except (*_REFUSALS, AttributeError):  # a part of a fused module is named, or a module does not exist
        return True


def _difference(base: Any, config: Any, given: dict[str, Tensor]) -> set[str]:
    """The names at which the tensors that `peft` loads on a skeleton differ from the given ones."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft: Any = get_peft_model(base, config, low_cpu_mem_usage=True)
        result: Any = set_peft_model_state_dict(peft, given, low_cpu_mem_usage=True)
        read = get_peft_model_state_dict(peft, save_embedding_layers=False)
    shapes = [{(name, tuple(tensor.shape)) for name, tensor in one.items()} for one in (given, read)]
    left = set(result.unexpected_keys) - {"prompt_embeddings"}  # peft stores them elsewhere
    return {name for name, _ in shapes[0] ^ shapes[1]} | left


def _unreadable(got: str) -> AdapterError:
    return AdapterError(
        "peft does not read this adapter as it was made, so it is not written for other programs",
        got=got,
        hint="train the user again on modules of the attention",
    )
