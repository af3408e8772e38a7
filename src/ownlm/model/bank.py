"""The LoRA bank: the adapters of many people, attached to one frozen model."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn

from ownlm.config import LoraConfig
from ownlm.errors import AdapterError, BaseModelError
from ownlm.model.adapter import Adapter, LoraPair
from ownlm.model.lora import stacked_update
from ownlm.model.packed import PackedBatch


@dataclass(frozen=True, slots=True)
class _Target:
    """One adapted linear module and where its two matrices lie in a slot's row of parameters."""

    module: nn.Linear
    at_A: slice
    at_B: slice


class LoraBank:
    """U slots of LoRA weights for the target linears of a frozen causal LM.

        y = W x + (alpha / r) B_u A_u x        for the tokens x of the person in slot u

    All of a slot's weights lie in one row of `param_UP`, and their gradients in the same row of `grad_UP`, so that an
    optimizer step, a gradient norm, or emptying a slot is one operation on rows. The matrices that the model sees are
    views of these rows. A slot's tokens touch no other slot's weights.

    Args:
        model: the frozen model. Its code and weights are not changed; hooks are added by `attached`, and removed.
        lora: rank, alpha, target modules.
        slots: U.
        trainable: whether gradients are kept.

    Raises:
        BaseModelError: the model has no linear module of one of the target names.

    Source: LoRA (arXiv 2106.09685); many adapters in one pass: ours.
    """

    def __init__(self, model: nn.Module, lora: LoraConfig, slots: int, *, trainable: bool = False) -> None:
        self.lora, self.slots = lora, slots
        weight = next(model.parameters())
        self._targets: dict[str, _Target] = {}
        end = 0
        for name, module in target_modules(model, lora):
            middle = end + lora.r * module.in_features
            self._targets[name] = _Target(
                module, slice(end, middle), slice(middle, middle + lora.r * module.out_features)
            )
            end = middle + lora.r * module.out_features
        # Gradients gather in rows of `grad_UP`; torch warns that such views are not dense, which changes no number.
        warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")
        # As in PEFT, an adapter on a half-precision base is kept, and trained, in float32.
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.param_UP = torch.zeros(slots, end, dtype=dtype, device=weight.device)
        self.grad_UP = torch.zeros_like(self.param_UP) if trainable else None
        self.dropout = 0.0
        self.generators: list[torch.Generator] = []  # one a slot, used by dropout alone
        self._batch: PackedBatch | None = None
        self._views = {name: self._leaves(target) for name, target in self._targets.items()}

    def _leaves(self, target: _Target) -> tuple[Tensor, Tensor]:
        """The module's stacked matrices, as views; trainable ones gather their gradients in `grad_UP`."""
        views = []
        for at, shape in (
            (target.at_A, (self.slots, self.lora.r, target.module.in_features)),
            (target.at_B, (self.slots, target.module.out_features, self.lora.r)),
        ):
            view = self.param_UP[:, at].view(shape)
            if self.grad_UP is not None:
                view.requires_grad_()
                view.grad = self.grad_UP[:, at].view(shape)
            views.append(view)
        return views[0], views[1]

    def initialise(self, slot: int, generator: torch.Generator) -> None:
        """Fresh LoRA weights: A uniform within 1/sqrt(D), B zero, as in PEFT."""
        self.param_UP[slot].zero_()
        for target in self._targets.values():
            bound = 1 / sqrt(target.module.in_features)
            drawn = torch.empty(target.at_A.stop - target.at_A.start, dtype=self.param_UP.dtype)
            self.param_UP[slot, target.at_A] = drawn.uniform_(-bound, bound, generator=generator).to(
                self.param_UP.device
            )

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
        """While it lasts, the model answers each token of a batch given by `reading` with its slot's adapter."""
        hooks = [
            target.module.register_forward_hook(self._hook(*self._views[name]))
            for name, target in self._targets.items()
        ]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def reading(self, batch: PackedBatch) -> Iterator[None]:
        """Tells the attached bank whose tokens the next forward pass holds."""
        self._batch = batch
        try:
            yield
        finally:
            self._batch = None

    def _hook(self, A_URD: Tensor, B_UOR: Tensor):  # type: ignore[no-untyped-def]
        def add_update(_: nn.Module, args: tuple[Tensor, ...], y_1TO: Tensor) -> Tensor | None:
            if self._batch is None:
                return None
            x_TD = self._drop(args[0][0].to(A_URD.dtype), self._batch)
            update_TO = stacked_update(x_TD, A_URD, B_UOR, self._batch.spans, self.lora.scaling)
            return y_1TO + update_TO.to(y_1TO.dtype)

        return add_update

    def _drop(self, x_TD: Tensor, batch: PackedBatch) -> Tensor:
        """LoRA dropout, drawn from each slot's own generator: who else is in the batch makes no difference."""
        if self.dropout == 0:
            return x_TD
        keep = [
            torch.empty(tokens, x_TD.shape[1]).bernoulli_(1 - self.dropout, generator=self.generators[slot])
            for slot, tokens in batch.spans
        ]
        return x_TD * torch.cat(keep).to(x_TD) / (1 - self.dropout)


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
