"""The LoRA bank: the adapters of many users, attached to one frozen model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import sqrt
from typing import Literal

import torch
from torch import Tensor, nn

from ownlm.config import LoraConfig
from ownlm.errors import AdapterError
from ownlm.model.adapter import Adapter, LoraPair
from ownlm.model.dropout import keep_mask
from ownlm.model.forward_context import ForwardContext, forward_context
from ownlm.model.lora import down, up_
from ownlm.model.packed import PackedBatch
from ownlm.model.segments import Segments, renumbered
from ownlm.model.targets import Target, check_fits, lay_out, target_modules

Scaled = Literal["gates", "weights"]


class LoraBank:
    """U slots of LoRA weights for the target linears of a frozen causal LM.

        y = W x + (alpha / r) B_u (e * A_u x)        for the tokens x of the user in slot u

    For plain adapters e is 1. A bank may also scale by numbers of each slot; then these numbers are trained:

        gates      e = sigmoid(g_u . x)              one number a module and token
        weights    e = w_u (x) 1_r                   K numbers a module, for the K pieces stacked in its A and B

    A slot's trained parameters are one row of `param_UP`, so an optimizer step, a gradient norm and clearing a slot are
    operations on rows. The matrices that the model sees are views of these rows. Each forward pass has separate
    gradients, so threads may share a bank. A slot's tokens touch no other slot's weights.

    Args:
        model: the frozen model. Its code and weights are not changed; hooks are added by `attached`, and removed.
        lora: rank, alpha and target modules.
        slots: the number of slots, U.
        scaled: what scales the update: gates, weights, or None for plain adapters.
        pieces: K pieces of rank r in each slot.
        first: the number of the first slot; other banks of the same passes have lower ones.
        beside: frozen banks that work in the same passes.

    Raises:
        BaseModelError: the model has no linear module of one of the target names.

    Source: LoRA (arXiv 2106.09685); gates: Per-Pcs (arXiv 2406.10471), section 3; many adapters in one pass: ours.
    """

    def __init__(
        self,
        model: nn.Module,
        lora: LoraConfig,
        slots: int,
        *,
        scaled: Scaled | None = None,
        pieces: int = 1,
        first: int = 0,
        beside: Sequence["LoraBank"] = (),
    ) -> None:
        self.lora, self.slots, self.scaled, self.pieces = lora, slots, scaled, pieces
        self.first, self.beside = first, tuple(beside)
        self.rank = pieces * lora.r
        weight = next(model.parameters())
        self._targets = lay_out(target_modules(model, lora), self.rank, pieces)
        # As in PEFT, an adapter on a half-precision base is kept, and trained, in float32.
        dtype, last = torch.promote_types(weight.dtype, torch.float32), list(self._targets.values())

        def zeros(rows: int, ends: Iterator[int]) -> Tensor:
            return torch.zeros(rows, max(ends), dtype=dtype, device=weight.device)

        self.pairs_UP = zeros(slots, (one.at_B.stop for one in last))
        self.param_UP = self.pairs_UP
        if scaled == "gates":
            self.param_UP = zeros(slots, (one.at_gate.stop for one in last))
        elif scaled == "weights":
            self.param_UP = zeros(slots, (one.at_weights.stop for one in last))
        self.dropout = 0.0
        self.before: Callable[[str, Tensor, ForwardContext], None] | None = None  # called before a module is adapted

    def new_grads(self, batch: PackedBatch) -> Tensor:
        """Zeros for the gradients of a row's W slots, grads_WP."""
        return self.param_UP.new_zeros(len(batch.segments.slots), self.param_UP.shape[1])

    def initialise(self, slot: int, generator: torch.Generator) -> None:
        """Fresh LoRA weights: A uniform within 1/sqrt(D), B zero, as in PEFT; or gates or weights of zero."""
        if self.scaled:
            self.param_UP[slot] = 0
            return
        row_P = torch.zeros(self.pairs_UP.shape[1], dtype=self.pairs_UP.dtype)
        for target in self._targets.values():
            bound = 1 / sqrt(target.module.in_features)
            row_P[target.at_A].uniform_(-bound, bound, generator=generator)
        self.param_UP[slot] = row_P.to(self.param_UP.device)

    def load(self, slot: int, adapter: Adapter) -> None:
        """Puts an adapter, or pieces stacked into one, into a slot.

        Raises:
            AdapterError: its rank, scaling, modules or shapes are not this bank's.
        """
        if adapter.lora.r != self.rank or adapter.lora.scaling != self.lora.scaling:
            raise AdapterError(
                "The adapter does not fit these slots",
                got=f"r={adapter.lora.r}, lora_alpha={adapter.lora.lora_alpha}",
                expected=f"r={self.rank}, lora_alpha={self.pieces * self.lora.lora_alpha}",
            )
        check_fits(adapter, {name: target.module for name, target in self._targets.items()})
        row = torch.empty_like(self.pairs_UP[slot])
        for name, target in self._targets.items():
            pair = adapter.pairs[name]
            row[target.at_A], row[target.at_B] = pair.A_RD.flatten(), pair.B_OR.flatten()
        self.pairs_UP[slot] = row

    def load_pair(self, slot: int, name: str, A_HD: Tensor, B_OH: Tensor) -> None:
        """Puts one module's matrices into a slot."""
        target = self._targets[name]
        self.pairs_UP[slot, target.at_A] = A_HD.flatten().to(self.pairs_UP)
        self.pairs_UP[slot, target.at_B] = B_OH.flatten().to(self.pairs_UP)

    def load_weights(self, slot: int, weights: Mapping[str, Tensor]) -> None:
        """Puts weights into a slot: w_K by module."""
        for name, weight_K in weights.items():
            self.param_UP[slot, self._targets[name].at_weights] = weight_K.to(self.param_UP)

    def clear(self, slot: int) -> None:
        """Sets a slot to zero."""
        self.param_UP[slot] = self.pairs_UP[slot] = 0

    def read(self, slot: int) -> Adapter:
        """A copy of the adapter, or the stacked pieces, in a slot."""
        row = self.pairs_UP[slot].detach().cpu().clone()
        stacked = {"r": self.rank, "lora_alpha": self.pieces * self.lora.lora_alpha}
        return Adapter(
            self.lora.model_copy(update=stacked),
            {
                name: LoraPair(
                    row[target.at_A].view(self.rank, target.module.in_features),
                    row[target.at_B].view(target.module.out_features, self.rank),
                )
                for name, target in self._targets.items()
            },
        )

    def read_scales(self, slot: int) -> dict[str, Tensor]:
        """A copy of a slot's gates or weights: by module, g_D or w_K."""
        row = self.param_UP[slot].detach().cpu().clone()
        gates = self.scaled == "gates"
        return {name: row[one.at_gate if gates else one.at_weights] for name, one in self._targets.items()}

    @contextmanager
    def attached(self) -> Iterator["LoraBank"]:
        """Within this context, forward passes of this bank apply each token's slot's adapter."""
        with ExitStack() as stack:
            for bank in self.beside:
                stack.enter_context(bank.attached())
            for target in self._targets.values():
                stack.callback(target.module.register_forward_hook(self._hook(target)).remove)
            yield self

    def _hook(self, target: Target):  # type: ignore[no-untyped-def]
        kin = [one for one in self._targets.values() if one.family == target.family]

        def add_update(_: nn.Module, args: tuple[Tensor, ...], y_1TO: Tensor) -> Tensor | None:
            now = forward_context()
            if now is None or not now.has(self):
                return None
            x_1TD = args[0]
            own = self._segments(now, target.name, x_1TD)
            if self.before is not None:  # A and B may change before each module is reached
                self.before(target.name, x_1TD.view(1, -1, x_1TD.shape[-1]), now)
            if self.before is not None or self.dropout:  # drawn again for each module
                h_TH = self._reduced(now, own, x_1TD, [target])
            else:
                read = now.read.get(id(self))
                if read is None or read[0] is not x_1TD or read[1] != target.family:
                    parts = self._reduced(now, own, x_1TD, kin).split(self.rank, dim=1)
                    read = now.read[id(self)] = x_1TD, target.family, parts
                h_TH = read[2][kin.index(target)]
            B_UOH = self.pairs_UP[:, target.at_B].view(self.slots, -1, self.rank)
            grad_B_WOH = self._grads(now, target.at_B, *B_UOH.shape[1:]) if self.scaled is None else None
            return up_(y_1TO, h_TH, B_UOH, grad_B_WOH, own, self.lora.scaling)

        return add_update

    def _reduced(self, now: ForwardContext, own: Segments, x_1TD: Tensor, kin: list[Target]) -> Tensor:
        """e * A x, of modules that read the same input, side by side."""
        x_dropped_1TD = self._drop(now, kin[0].name, x_1TD) if self.dropout else x_1TD
        width, at_A = x_1TD.shape[-1], slice(kin[0].at_A.start, kin[-1].at_A.stop)
        A_UHD = self.pairs_UP[:, at_A].view(self.slots, -1, width)
        grad_A_WHD = self._grads(now, at_A, *A_UHD.shape[1:]) if self.scaled is None else None
        h_TH = _down(x_dropped_1TD, A_UHD, grad_A_WHD, own)
        if self.scaled is None:
            return h_TH
        if self.scaled == "gates":
            at = slice(kin[0].at_gate.start, kin[-1].at_gate.stop)
            gate_UMD = self.param_UP[:, at].view(self.slots, -1, width)
            e_TM = torch.sigmoid(_down(x_1TD, gate_UMD, self._grads(now, at, *gate_UMD.shape[1:]), own))
        else:
            at, ones_1T1 = slice(kin[0].at_weights.start, kin[-1].at_weights.stop), x_1TD.new_ones(*x_1TD.shape[:-1], 1)
            weight_UM1 = self.param_UP[:, at].view(self.slots, -1, 1)
            e_TM = _down(ones_1T1, weight_UM1, self._grads(now, at, *weight_UM1.shape[1:]), own)
        return h_TH * e_TM.repeat_interleave(self.lora.r, dim=1)

    def _grads(self, now: ForwardContext, at: slice, *shape: int) -> Tensor | None:
        """The part of this pass's gradients for some columns of the slots' rows; None where nothing is trained."""
        wanted = now.grads_WP is not None and now.bank is self
        return now.grads_WP[:, at].view(-1, *shape) if wanted else None  # type: ignore[index]

    def _segments(self, now: ForwardContext, name: str, x_1TD: Tensor) -> Segments:
        """The segments of a module's input, by this bank's slots."""
        row = now.segments_of(name, x_1TD)
        key = id(self), id(row)
        if key not in now.views:
            now.views[key] = renumbered(row, self.first, self.slots, self.pairs_UP.device)
        segments: Segments = now.views[key]
        return segments

    def _drop(self, now: ForwardContext, name: str, x_1TD: Tensor) -> Tensor:
        """LoRA dropout of a module's input."""
        keep_TD = keep_mask(now.dropout_keys_of(x_1TD), name, x_1TD.shape[-1], self.dropout)
        return x_1TD * keep_TD.view(x_1TD.shape) / (1 - self.dropout)


def _down(x_1TI: Tensor, weight_UHI: Tensor, grad_WHI: Tensor | None, segments: Segments) -> Tensor:
    """`down`, with the weight marked as needing a gradient: else autograd would skip the first adapted module."""
    return down(x_1TI, weight_UHI if grad_WHI is None else weight_UHI.requires_grad_(), grad_WHI, segments)
