"""LoRA's equations, and their gradients for many adapters in one row."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ownlm.model.segments import Segments, add_mm_, add_outer_, mm


def lora_update(x_TD: Tensor, lora_A_RD: Tensor, lora_B_OR: Tensor, scaling: float) -> Tensor:
    """The update that one adapter adds to a linear module's output.

        dy = (alpha / r) B A x

    Args:
        x_TD: the module's input.
        lora_A_RD, lora_B_OR: the adapter's two matrices.
        scaling: alpha / r.

    Returns:
        dy_TO.

    Source: LoRA (arXiv 2106.09685), section 4.1.
    """
    return (x_TD @ lora_A_RD.T) @ lora_B_OR.T * scaling


def lora_merge(weight_OD: Tensor, lora_A_RD: Tensor, lora_B_OR: Tensor, scaling: float) -> Tensor:
    """The weight that gives the same output without an adapter.

        W' = W + (alpha / r) B A

    Computed in float32 at least, returned in the weight's own type.

    Source: LoRA (arXiv 2106.09685), section 4.1.
    """
    wide = torch.promote_types(weight_OD.dtype, torch.float32)
    return (weight_OD.to(wide) + lora_B_OR.to(wide) @ lora_A_RD.to(wide) * scaling).to(weight_OD.dtype)


def activation_start(prompt: Sequence[int], invocation: Sequence[int]) -> int | None:
    """The first token on which an activated adapter acts: where its invocation tokens begin. None if they are absent.

    >>> activation_start([5, 6, 7, 8], [6, 7])
    1

    Source: activated LoRA (arXiv 2504.12397). Differs: the first place of the tokens counts, in PEFT the last one, so
        that no text of a user moves it.
    """
    length = len(invocation)
    for start in range(len(prompt) - length + 1):
        if prompt[start] == invocation[0] and list(prompt[start : start + length]) == list(invocation):
            return start
    return None


def down(x_1TD: Tensor, lora_A_UHD: Tensor, grad_A_WHD: Tensor | None, segments: Segments) -> Tensor:
    """h = A_u x for each token x of the user in slot u; the backward pass adds A's gradient to grad_A_WHD.

    Args:
        x_1TD: the modules' input, [1, T, D] or [T, D].
        lora_A_UHD: A of all slots; A of several modules with the same input is stacked, so H is R times their number.
        grad_A_WHD: gradients of the row's W slots, to be added to; None to train nothing.
        segments: the slot of each token.

    Returns:
        h_TH, in the matrices' type.

    Source: ours.
    """
    h_TH: Tensor = _Down.apply(x_1TD, lora_A_UHD, grad_A_WHD, segments)  # type: ignore[no-untyped-call]
    return h_TH


def up_(
    y_1TO: Tensor, h_TR: Tensor, lora_B_UOR: Tensor, grad_B_WOR: Tensor | None, segments: Segments, scaling: float
) -> Tensor:
    """y + (alpha / r) B_u h for each token of the user in slot u, in place on y; B's gradient as in `down`.

    Args:
        y_1TO: the base's output, [1, T, O] or [T, O].
        h_TR: the output of `down` for this module.
        lora_B_UOR: B of all slots.
        grad_B_WOR: gradients of the row's W slots, to be added to; None to train nothing.
        segments: the slot of each token.
        scaling: alpha / r.

    Returns:
        y_1TO.

    Source: ours.
    """
    added_1TO: Tensor = _Up.apply(y_1TO, h_TR, lora_B_UOR, grad_B_WOR, segments, scaling)  # type: ignore[no-untyped-call]
    return added_1TO


# Autograd does not save the matrices: it would take another slot's optimizer step for a change to this one's.


class _Down(Function):
    @staticmethod
    def forward(ctx: Any, x_1TD: Tensor, lora_A_UHD: Tensor, grad_A_WHD: Tensor | None, segments: Segments) -> Tensor:
        ctx.save_for_backward(x_1TD)
        ctx.A_UHD, ctx.grad_WHD, ctx.segments = lora_A_UHD, grad_A_WHD, segments
        return mm(x_1TD.flatten(0, -2), lora_A_UHD.transpose(1, 2), segments)

    @staticmethod
    def backward(ctx: Any, g_TH: Tensor) -> tuple[Tensor | None, None, None, None]:
        (x_1TD,) = ctx.saved_tensors
        if ctx.grad_WHD is not None:
            add_outer_(ctx.grad_WHD, g_TH, x_1TD.flatten(0, -2), ctx.segments)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        return mm(g_TH, ctx.A_UHD, ctx.segments).view(x_1TD.shape).to(x_1TD.dtype), None, None, None


class _Up(Function):
    @staticmethod
    def forward(
        ctx: Any,
        y_1TO: Tensor,
        h_TR: Tensor,
        lora_B_UOR: Tensor,
        grad_B_WOR: Tensor | None,
        segments: Segments,
        scaling: float,
    ) -> Tensor:
        ctx.save_for_backward(h_TR)
        ctx.B_UOR, ctx.grad_WOR, ctx.segments, ctx.scaling = lora_B_UOR, grad_B_WOR, segments, scaling
        add_mm_(y_1TO.view(-1, y_1TO.shape[-1]), h_TR, lora_B_UOR.transpose(1, 2), segments, scaling)
        ctx.mark_dirty(y_1TO)
        return y_1TO

    @staticmethod
    def backward(ctx: Any, g_1TO: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        (h_TR,) = ctx.saved_tensors
        if ctx.grad_WOR is not None:
            add_outer_(ctx.grad_WOR, g_1TO.flatten(0, -2), h_TR, ctx.segments, ctx.scaling)
        return g_1TO, mm(g_1TO.flatten(0, -2), ctx.B_UOR, ctx.segments, ctx.scaling), None, None, None, None
