"""What a loaded model's layers compute, found by running one token through it.

The mask that a layer requests from transformers says which earlier tokens it sees. The keyword `sliding_window`, which
only some attention layers pass on, is only a hint for other kernels. So one token is run with an attention function and
a mask function that record the requests of each layer; packed rows then need no mask from the model.
"""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function
from transformers.pytorch_utils import Conv1D

from ownlm.errors import BaseModelError, in_one_line
from ownlm.model.kv_cache import KvCache
from ownlm.model.packed import CAUSAL, Mask, TokenPositions

PROBE = "ownlm_probe"
RECURRENT = re.compile(
    "Mamba|RWKV|Rwkv|SSM|LSTM|GatedDelta|LinearAttention|LightningAttention|ShortConv|RgLru|Recurrent"
)
KNOWN = {"position_ids", "cache_position", "s_aux"}  # tensors that attention functions get and packed attention handles


@dataclass(frozen=True, slots=True)
class Layer:
    """An attention layer's mask, and a factor on its queries that the model computes from places in the row.

    Attributes:
        mask: the tokens that it sees.
        temperature: the factor as a function of places; it must be that of each token's place in its own sequence.
    """

    mask: Mask
    temperature: Callable[[Tensor], Tensor] | None = None


@dataclass(slots=True)
class _Recorder:
    place: TokenPositions  # of the token in the cache
    masks: list[Mask] = field(default_factory=list)
    calls: list[tuple[nn.Module, Tensor | None, dict[str, Any]]] = field(default_factory=list)


_layers: WeakKeyDictionary[nn.Module, Layer] = WeakKeyDictionary()
_inputs: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # linear modules: the number of tokens of their input
_now = threading.local()


def layer_of(module: nn.Module) -> Layer | None:
    """The probed layer of an attention module; None if its model was not probed."""
    return _layers.get(module)


def runs(module: nn.Linear) -> bool:
    """Whether a linear module runs when its model reads text; those of a vision tower do not."""
    return _inputs.get(module, 1) > 0


def sees_cache(module: nn.Linear) -> bool:
    """Whether a linear module also reads cached tokens, as models do that cache compressed keys."""
    return _inputs.get(module, 1) > 1


@torch.no_grad()
def probe(model: Any, name: str) -> None:
    """Records what each attention layer of a model computes, and which linear modules run.

    Raises:
        BaseModelError: this model cannot run on packed rows.
    """
    before, cache = model.config._attn_implementation, KvCache()
    recorder = _Recorder(cache.take(1))
    token = torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device)
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    _inputs.update(dict.fromkeys(linears, 0))
    hooks = [module.register_forward_pre_hook(_record_input) for module in linears]
    model.set_attn_implementation(PROBE)
    _now.recorder = recorder
    try:
        model(input_ids=token + 5, position_ids=token, past_key_values=cache.writing(recorder.place, token.device))
    except Exception as error:  # each model's code fails in another way
        refuse(name, why_failed(model, "on one token", error))
    finally:
        _now.recorder = None
        for hook in hooks:
            hook.remove()
        model.set_attn_implementation(before)
    if not recorder.calls:
        other = f"a {type(model).__name__}, without attention that transformers lets others compute"
        refuse(name, why_not(model, other))
    for layer in getattr(model.get_decoder(), "layers", None) or ():
        if not {id(part) for part in layer.modules()} & {id(module) for module, _, _ in recorder.calls}:
            other = f"a layer without attention that transformers lets others compute: {type(layer).__name__}"
            refuse(name, why_not(model, other))
    for module, mark, keywords in recorder.calls:
        mask = CAUSAL if mark is None else _mask_of(recorder, mark, name)
        odd = sorted(key for key, value in keywords.items() if isinstance(value, Tensor) and key not in KNOWN)
        if odd:
            refuse(name, f"attention that takes {odd[0]!r}")
        if keywords.get("is_causal") is False or _sees_later(mask, token.device):
            refuse(name, "attention to later tokens")
        _layers[module] = Layer(mask, _temperature(module))


def refuse(name: str, got: str) -> NoReturn:
    """Raises the error of a base that cannot run on packed rows."""
    raise BaseModelError(
        f"The base {name!r} cannot answer many users in one pass, each as if alone",
        got=got,
        expected="a decoder of causal attention, plain, windowed or in chunks, such as Llama, Mistral, Qwen or Gemma",
        hint="choose another base; docs/bases.md lists those that were tried",
    )


def why_not(model: Any, other: str) -> str:
    """The known reason why a model cannot run on packed rows, or else `other`."""
    kinds = [type(module) for module in model.modules()]
    stateful = kinds[:1] if getattr(model, "_is_stateful", False) and not _attends_in_all_layers(model.config) else []
    if recurrent := next(
        (kind.__name__ for kind in kinds if RECURRENT.search(kind.__name__) or kind in stateful), None
    ):
        return f"layers that carry a state along the row: {recurrent}"
    if indexer := next((kind.__name__ for kind in kinds if "Indexer" in kind.__name__), None):
        return f"attention to tokens of the whole row that an indexer chooses: {indexer}"
    if getattr(model.config, "alibi", False) or any("alibi" in name for kind in kinds for name in vars(kind)):
        return "positions by ALiBi, which packed rows do not have"
    if Conv1D in kinds:
        return "projections of the class Conv1D, which take no adapters"
    return other


def _attends_in_all_layers(config: Any) -> bool:
    """Whether a hybrid model's configuration has only attention layers, as that of the smallest Granite 4."""
    names = getattr(config.get_text_config(), "layer_types", None) or ["unknown"]
    return all(name in ("attention", "full_attention", "sliding_attention") for name in names)


def why_failed(model: Any, tried: str, error: Exception) -> str:
    """The reason why a model's code raised an exception; `tried` is how it was run, as "on one token"."""
    return why_not(model, f"a {type(model).__name__}, whose code does not run {tried}: {in_one_line(error)}")


def _mask_of(recorder: _Recorder, mark: Tensor, name: str) -> Mask:
    """The requested mask that stands behind the number in a mask."""
    number = float(mark.flatten()[0]) - 1
    if mark.unique().numel() != 1 or number not in range(len(recorder.masks)):
        refuse(name, "attention masks that the model changes itself")
    return recorder.masks[int(number)]


def _sees_later(mask: Mask, device: torch.device) -> bool:
    place = torch.arange(8, device=device)
    return mask.function is not None and bool(mask.function(0, 0, place, place + 1).any())


def _temperature(module: Any) -> Callable[[Tensor], Tensor] | None:
    """Llama 4's factor on the queries of layers without rotary embeddings."""
    if not getattr(module, "attn_temperature_tuning", False) or getattr(module, "use_rope", True):
        return None
    floor, scale = float(module.floor_scale), float(module.attn_scale)

    def factor(place: Tensor) -> Tensor:
        return torch.log1p(torch.floor((place.float() + 1) / floor)) * scale + 1

    return factor


def _record_input(module: nn.Module, args: tuple[Tensor, ...]) -> None:
    _inputs[module] = max(_inputs[module], args[0].numel() // args[0].shape[-1] if args else 1)


def _record_mask(
    *, q_length: int, kv_length: int, mask_function: Any, device: torch.device, local_size: int | None = None, **_: Any
) -> Tensor:
    """Records a requested mask; returns its number in the shape of a mask."""
    if mask_function is causal_mask_function:
        mask = CAUSAL
    elif local_size is not None and _is_window(mask_function, local_size, device):
        mask = Mask(window=local_size)
    else:
        mask = Mask(function=mask_function)
    masks: list[Mask] = _now.recorder.masks
    masks.append(mask)
    return torch.full((1, 1, q_length, kv_length), float(len(masks)), device=device)


def _is_window(mask_function: Any, size: int, device: torch.device) -> bool:
    place = torch.tensor([0, 1, size - 1, size, size + 1, 2 * size - 1, 2 * size, 2 * size + 1], device=device)
    distance = place[:, None] - place
    return bool((mask_function(0, 0, place[:, None], place) == (distance >= 0) & (distance < size)).all())


def _record_call(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **keywords: Any
) -> tuple[Tensor, None]:
    """Attention of one token to itself: its value."""
    _now.recorder.calls.append((module, attention_mask, keywords))
    value = value[:, :, torch.from_numpy(_now.recorder.place)] if value.shape[2] > 1 else value
    return value.repeat_interleave(query.shape[1] // value.shape[1], dim=1).transpose(1, 2), None


AttentionInterface.register(PROBE, _record_call)
AttentionMaskInterface.register(PROBE, _record_mask)
