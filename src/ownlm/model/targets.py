"""The linear modules that a bank adapts, and the layout of their matrices in a slot's row of parameters."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ownlm.config import LoraConfig
from ownlm.errors import AdapterError, BaseModelError
from ownlm.model.adapter import Adapter
from ownlm.model.layers import runs, sees_cache
from ownlm.model.peft_names import check_readable

# Modules that read the same input in most decoders, so their A are multiplied at once.
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@dataclass(frozen=True, slots=True)
class Target:
    """One adapted linear module. A, gates and weights of a family's modules are adjacent."""

    name: str
    module: nn.Linear
    at_A: slice
    at_B: slice
    at_gate: slice  # of a row of gates
    at_weights: slice  # of a row of weights
    family: int
    rank_at: slice  # this module's H columns among the family's


def lay_out(modules: list[tuple[str, nn.Linear]], rank: int, pieces: int = 1) -> dict[str, Target]:
    """The layout of a slot's rows: family by family, first every A, then every B; gates; weights.

    Args:
        modules: the target modules by name.
        rank: the rank H of each module's A and B.
        pieces: the number K of weights of each module.
    """
    targets, end, gates, weights = dict[str, Target](), 0, 0, 0
    for family, members in enumerate(families(modules)):
        start = end
        end += sum(rank * module.in_features for _, module in members)
        for place, (name, module) in enumerate(members):
            stop = start + rank * module.in_features
            targets[name] = Target(
                name, module, slice(start, stop), slice(end, end + rank * module.out_features),
                slice(gates, gates + module.in_features), slice(weights, weights + pieces),
                family, slice(place * rank, (place + 1) * rank),
            )  # fmt: skip
            start, end = stop, end + rank * module.out_features
            gates, weights = gates + module.in_features, weights + pieces
    return {name: targets[name] for name, _ in modules}


def families(modules: list[tuple[str, nn.Linear]]) -> list[list[tuple[str, nn.Linear]]]:
    """The modules, grouped by those that read the same input."""
    found: dict[tuple[str, int], list[tuple[str, nn.Linear]]] = {}
    for number, (name, module) in enumerate(modules):
        parent, _, own = name.rpartition(".")
        kin = next((place for place, names in enumerate(SIBLINGS) if own in names), -1 - number)
        found.setdefault((parent, kin), []).append((name, module))
    return list(found.values())


def check_fits(adapter: Adapter, modules: Mapping[str, nn.Linear]) -> None:
    """Raises an AdapterError if an adapter's modules or shapes are not those of the target modules."""
    if adapter.pairs.keys() != modules.keys():
        odd = sorted(adapter.pairs.keys() ^ modules.keys())[0]
        raise AdapterError("The adapter is for other modules than the base has", got=f"a difference at {odd!r}")
    for name, module in modules.items():
        pair, r = adapter.pairs[name], adapter.lora.r
        got, expected = (
            (tuple(pair.A_RD.shape), tuple(pair.B_OR.shape)),
            ((r, module.in_features), (module.out_features, r)),
        )
        if got != expected:
            raise AdapterError(f"The adapter's matrices at {name!r} do not fit the base", got=got, expected=expected)


def decoder_layers(model: Any) -> list[nn.Module]:
    """The decoder's layers, the one next to the embeddings first; none where they are no list of modules."""
    decoder, count = model.get_decoder(), model.config.get_text_config().num_hidden_layers
    lists = (part for part in decoder.modules() if isinstance(part, nn.ModuleList) and len(part) == count)
    return list(next(lists, ()))


def _top(model: nn.Module, count: int) -> list[nn.Module]:
    """The layers next to the head; raises a BaseModelError if the model has fewer."""
    layers = decoder_layers(model)
    if count > len(layers):
        raise BaseModelError(
            "The base has fewer layers than are to be adapted",
            got=f"the top {count} layers",
            expected=f"at most {len(layers)}",
            hint="choose fewer layers, or all",
        )
    return layers[-count:]


def target_modules(model: nn.Module, lora: LoraConfig) -> list[tuple[str, nn.Linear]]:
    """The target modules: linear, used on text, and with a target as last name; in the model's order.

    With `top_layers`, those of the layers nearest to the head. As in PEFT, the head itself is then none of them.

    Raises:
        BaseModelError: a name has no module, there are fewer layers, a module is more than a linear map, or its
            adapters cannot be exported.
    """
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if lora.top_layers is not None:
        reached = {part for layer in _top(model, lora.top_layers) for part in layer.modules()}
        linears = [(name, module) for name, module in linears if module in reached]
    found = [(name, module) for name, module in linears if name.rsplit(".", 1)[-1] in lora.target_modules]
    for name, module in found:
        _check_linear(name, module)
    found = [(name, module) for name, module in found if runs(module)]
    missing = set(lora.target_modules) - {name.rsplit(".", 1)[-1] for name, _ in found}
    if missing:
        raise BaseModelError(
            "The base has no linear module of that name",
            got=", ".join(sorted(missing)),
            expected=f"some of: {', '.join(sorted({name.rsplit('.', 1)[-1] for name, one in linears if runs(one)}))}",
            hint="choose other target modules",
        )
    check_readable(model, [name for name, _ in found])
    return found


def _check_linear(name: str, module: nn.Linear) -> None:
    """Refuses a module that is more than a linear map, or that sees other tokens."""
    if type(module).forward is not nn.Linear.forward:  # a router, say, that returns more than W x
        got = f"a {type(module).__name__}, which computes more than a linear map"
    elif re.search(r"experts\.\d+\.", name):
        got = "an expert's module, which sees the tokens that are routed to it, in another order than the row's"
    elif sees_cache(module):
        got = "a module that also reads what the cache keeps of earlier tokens"
    else:
        return
    raise BaseModelError(
        f"The module {name!r} cannot be adapted",
        got=got,
        expected="plain linear modules that every token reaches",
        hint="leave it out of the target modules",
    )
