"""LoRA's equations."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ownlm.model.packed import BASE


def lora_update(x_TD: Tensor, lora_A_RD: Tensor, lora_B_OR: Tensor, scaling: float) -> Tensor:
    """What one adapter adds to one linear module's output.

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


def stacked_update(
    x_TD: Tensor, lora_A_URD: Tensor, lora_B_UOR: Tensor, spans: Sequence[tuple[int, int]], scaling: float
) -> Tensor:
    """`lora_update` of many adapters over one row, each on its own tokens.

    Args:
        x_TD: the module's input.
        lora_A_URD, lora_B_UOR: the matrices of U adapters.
        spans: (slot, tokens) in row order; slot `BASE` adds nothing.

    Returns:
        dy_TO.

    Source: ours.
    """
    A_U, B_U = lora_A_URD.unbind(0), lora_B_UOR.unbind(0)  # one stack in the backward pass, not one zero-fill a slot
    parts = [
        x_TD.new_zeros(tokens, lora_B_UOR.shape[1])
        if slot == BASE
        else lora_update(x_tD, A_U[slot], B_U[slot], scaling)
        for (slot, tokens), x_tD in zip(spans, x_TD.split([tokens for _, tokens in spans]), strict=True)
    ]
    return torch.cat(parts)
