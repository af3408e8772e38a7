"""The optimizer of a bank: AdamW, gradient clipping and the learning rate, for all slots at once.

U slots, P parameters of a slot. A slot that takes no step gets a learning rate of 0 and is left exactly as it was.
"""

import torch
from torch import Tensor


def adamw_(
    param_UP: Tensor,
    grad_UP: Tensor,
    first_UP: Tensor,
    second_UP: Tensor,
    step_U: Tensor,
    lr_U: Tensor,
    *,
    weight_decay: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> None:
    """One step of AdamW for every slot, in place.

        m = b1 m + (1 - b1) g                v = b2 v + (1 - b2) g^2
        p = (1 - lr wd) p  -  lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    Args:
        param_UP, grad_UP: parameters and gradients.
        first_UP, second_UP: the running moments m and v, updated.
        step_U: t, each slot's own count of steps, this one included; from 1. float64, for 1 - b^t.
        lr_U: each slot's learning rate; float64.

    Source: Decoupled Weight Decay Regularization (arXiv 1711.05101), algorithm 2; equals `torch.optim.AdamW`.
    """
    first_UP.lerp_(grad_UP, 1 - beta1)
    second_UP.mul_(beta2).addcmul_(grad_UP, grad_UP, value=1 - beta2)
    scale_U = (lr_U / (1 - beta1**step_U)).to(param_UP.dtype)
    root_U = (1 - beta2**step_U).sqrt().to(param_UP.dtype)
    decay_U = (1 - lr_U * weight_decay).to(param_UP.dtype)
    update_UP = (second_UP.sqrt() / root_U[:, None]).add_(eps).reciprocal_().mul_(first_UP).mul_(scale_U[:, None])
    param_UP.mul_(decay_U[:, None]).sub_(update_UP)


def clip_(grad_UP: Tensor, max_norm: float) -> Tensor:
    """Scales each slot's gradient down to a norm of at most `max_norm`, in place; returns the norms before, norm_U.

    Source: as `torch.nn.utils.clip_grad_norm_`, per slot.
    """
    norm_U: Tensor = torch.linalg.vector_norm(grad_UP, dim=1)
    grad_UP.mul_((max_norm / (norm_U + 1e-6)).clamp(max=1.0)[:, None])
    return norm_U


def linear_schedule(step: int, total: int, warmup_ratio: float) -> float:
    """Returns the learning-rate factor at a step (0 to total - 1): linear warm-up, then linear decay towards zero.

    Differs: the released code's first warm-up step has a rate of zero and changes nothing, which wastes one of few
    steps; here the rise begins one step later in its ramp, so that every step counts.

    >>> [round(linear_schedule(step, 4, 0.5), 2) for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    warmup = -int(-total * warmup_ratio // 1)
    if step < warmup:
        return (step + 1) / warmup
    return (total - step) / (total - warmup)


def fresh_moments(param_UP: Tensor) -> tuple[Tensor, Tensor]:
    """Zero moments for `adamw_`."""
    return torch.zeros_like(param_UP), torch.zeros_like(param_UP)
