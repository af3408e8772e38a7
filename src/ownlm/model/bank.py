"""The LoRA bank: the adapters of many people, attached to one frozen model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn

from ownlm.config import LoraConfig
from ownlm.errors import AdapterError, BaseModelError
from ownlm.model.adapter import Adapter, LoraPair
from ownlm.model.flight import Flight, flight
from ownlm.model.lora import down, up_
from ownlm.model.packed import PackedBatch
from ownlm.model.spans import Spans

# Modules that read the same input in most decoders: their A is multiplied at once. It is used where they do.
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@dataclass(frozen=True, slots=True)
class _Target:
    """One adapted linear module and where its two matrices lie in a slot's row of parameters."""

    module: nn.Linear
    at_A: slice
    at_B: slice
    family: int  # A of one family lie side by side,
    rank_at: slice  # this one's R of the family's H


class LoraBank:
    """U slots of LoRA weights for the target linears of a frozen causal LM.

        y = W x + (alpha / r) B_u A_u x        for the tokens x of the person in slot u

    All of a slot's weights lie in one row of `param_UP`, so that an optimizer step, a gradient norm, or emptying a slot
    is one operation on rows. The matrices that the model sees are views of these rows. Each forward pass has gradients
    of its own, so that threads may work on one bank at once. A slot's tokens touch no other slot's weights.

    Args:
        model: the frozen model. Its code and weights are not changed; hooks are added by `attached`, and removed.
        lora: rank, alpha, target modules.
        slots: U.

    Raises:
        BaseModelError: the model has no linear module of one of the target names.

    Source: LoRA (arXiv 2106.09685); many adapters in one pass: ours.
    """

    def __init__(self, model: nn.Module, lora: LoraConfig, slots: int) -> None:
        self.lora, self.slots = lora, slots
        weight = next(model.parameters())
        self._targets, end = _lay_out(target_modules(model, lora), lora.r)
        # As in PEFT, an adapter on a half-precision base is kept, and trained, in float32.
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.param_UP = torch.zeros(slots, end, dtype=dtype, device=weight.device)
        self.dropout = 0.0
        self.generators: list[torch.Generator] = []  # one a slot, used by dropout alone

    def new_grads(self, batch: PackedBatch) -> Tensor:
        """Zeros for the gradients of the W slots in a row, grads_WP."""
        return self.param_UP.new_zeros(len(batch.spans.slots), self.param_UP.shape[1])

    def initialise(self, slot: int, generator: torch.Generator) -> None:
        """Fresh LoRA weights: A uniform within 1/sqrt(D), B zero, as in PEFT."""
        row_P = torch.zeros(self.param_UP.shape[1], dtype=self.param_UP.dtype)
        for target in self._targets.values():
            bound = 1 / sqrt(target.module.in_features)
            row_P[target.at_A].uniform_(-bound, bound, generator=generator)
        self.param_UP[slot] = row_P.to(self.param_UP.device)

    def load(self, slot: int, adapter: Adapter) -> None:
        """Puts a person's adapter into a slot.

        Raises:
            AdapterError: its rank, scaling, modules or shapes are not this bank's.
        """
        if adapter.lora.r != self.lora.r or adapter.lora.scaling != self.lora.scaling:
            raise AdapterError(
                "The adapter does not fit these slots",
                got=f"r={adapter.lora.r}, lora_alpha={adapter.lora.lora_alpha}",
                expected=f"r={self.lora.r}, lora_alpha={self.lora.lora_alpha}",
            )
        check_fits(adapter, {name: target.module for name, target in self._targets.items()})
        row = torch.empty_like(self.param_UP[slot])
        for name, target in self._targets.items():
            pair = adapter.pairs[name]
            row[target.at_A], row[target.at_B] = pair.A_RD.flatten(), pair.B_OR.flatten()
        self.param_UP[slot] = row

    def read(self, slot: int) -> Adapter:
        """A copy of what lies in a slot."""
        row = self.param_UP[slot].detach().cpu().clone()
        return Adapter(
            self.lora,
            {
                name: LoraPair(
                    row[target.at_A].view(self.lora.r, target.module.in_features),
                    row[target.at_B].view(target.module.out_features, self.lora.r),
                )
                for name, target in self._targets.items()
            },
        )

    @contextmanager
    def attached(self) -> Iterator["LoraBank"]:
        """While it lasts, the model answers each token of a flight of this bank with its slot's adapter."""
        hooks = [target.module.register_forward_hook(self._hook(target)) for target in self._targets.values()]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, target: _Target):  # type: ignore[no-untyped-def]
        width = target.module.in_features
        kin = [one for one in self._targets.values() if one.family == target.family]
        kin_A, own_A = slice(kin[0].at_A.start, kin[-1].at_A.stop), target.at_A

        def add_update(_: nn.Module, args: tuple[Tensor, ...], y_1TO: Tensor) -> Tensor | None:
            now = flight()
            if now is None or now.bank is not self:
                return None
            x_1TD = args[0]
            if self.dropout:  # drawn anew for each module
                h_TR = self._down(now, self._drop(x_1TD, now.spans), own_A, width)
            else:
                if now.read is None or now.read[0] is not x_1TD or now.read[1] != target.family:
                    now.read = x_1TD, target.family, self._down(now, x_1TD, kin_A, width)
                h_TR = now.read[2][:, target.rank_at]
            B_UOR = self.param_UP[:, target.at_B].view(self.slots, -1, self.lora.r)
            grad_B_WOR = None if now.grads_WP is None else now.grads_WP[:, target.at_B].view(-1, *B_UOR.shape[1:])
            return up_(y_1TO, h_TR, B_UOR, grad_B_WOR, now.spans, self.lora.scaling)

        return add_update

    def _down(self, now: Flight, x_1TD: Tensor, at: slice, width: int) -> Tensor:
        A_UHD = self.param_UP[:, at].view(self.slots, -1, width)
        if now.grads_WP is None:
            return down(x_1TD, A_UHD, None, now.spans)
        # Nothing below the first adapted module needs a gradient, so autograd must be told that this does.
        return down(x_1TD, A_UHD.requires_grad_(), now.grads_WP[:, at].view(-1, *A_UHD.shape[1:]), now.spans)

    def _drop(self, x_1TD: Tensor, spans: Spans) -> Tensor:
        """LoRA dropout, drawn from each slot's own generator: who else is in the batch makes no difference."""
        keep_TD = torch.ones(x_1TD.shape[1:], dtype=torch.float32)
        for slot, at in spans.rows():
            keep_TD[at].bernoulli_(1 - self.dropout, generator=self.generators[slot])
        return x_1TD * keep_TD.to(x_1TD) / (1 - self.dropout)


def _lay_out(modules: list[tuple[str, nn.Linear]], r: int) -> tuple[dict[str, _Target], int]:
    """Where everything lies in a slot's row: family by family, first every A, then every B; and the row's length."""
    families: dict[tuple[str, int], list[tuple[str, nn.Linear]]] = {}
    for number, (name, module) in enumerate(modules):
        parent, _, own = name.rpartition(".")
        kin = next((place for place, names in enumerate(SIBLINGS) if own in names), -1 - number)
        families.setdefault((parent, kin), []).append((name, module))
    targets, end = dict[str, _Target](), 0
    for family, members in enumerate(families.values()):
        start = end
        end += sum(r * module.in_features for _, module in members)
        for place, (name, module) in enumerate(members):
            stop = start + r * module.in_features
            targets[name] = _Target(
                module, slice(start, stop), slice(end, end + r * module.out_features),
                family, slice(place * r, (place + 1) * r),
            )  # fmt: skip
            start, end = stop, end + r * module.out_features
    return {name: targets[name] for name, _ in modules}, end


def check_fits(adapter: Adapter, modules: Mapping[str, nn.Linear]) -> None:
    """Raises an AdapterError where an adapter's modules or shapes are not those of the base's target modules."""
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


def target_modules(model: nn.Module, lora: LoraConfig) -> list[tuple[str, nn.Linear]]:
    """The model's linear modules whose last name is a target, in the model's order.

    Raises:
        BaseModelError: there is none of one name.
    """
    linears = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    found = [(name, module) for name, module in linears if name.rsplit(".", 1)[-1] in lora.target_modules]
    missing = set(lora.target_modules) - {name.rsplit(".", 1)[-1] for name, _ in found}
    if missing:
        raise BaseModelError(
            "The base has no linear module of that name",
            got=", ".join(sorted(missing)),
            expected=f"some of: {', '.join(sorted({name.rsplit('.', 1)[-1] for name, _ in linears}))}",
            hint="name others with --modules",
        )
    return found
