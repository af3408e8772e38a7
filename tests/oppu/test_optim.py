"""The stacked optimizer equals torch's, row by row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ownlm.oppu.optim import adamw_, clip_, fresh_moments, linear_schedule


def test_adamw_equals_torch_row_by_row() -> None:
    torch.manual_seed(0)
    param_UP = torch.randn(3, 11, dtype=torch.float64)
    singles = [torch.nn.Parameter(row.clone()) for row in param_UP]
    optimizers = [torch.optim.AdamW([row], lr=1.0, weight_decay=0.01) for row in singles]
    moments, steps = fresh_moments(param_UP), torch.zeros(3, dtype=torch.float64)
    for round_ in range(12):
        grad_UP = torch.randn_like(param_UP)
        lr_U = torch.tensor([0.1, 0.01 * round_, 0.3 if round_ < 7 else 0.0], dtype=torch.float64)
        if round_ >= 7:  # the last slot has ended
            grad_UP[2] = 0
        steps[: 3 if round_ < 7 else 2] += 1
        adamw_(param_UP, grad_UP.clone(), *moments, steps, lr_U, weight_decay=0.01)
        for slot, (row, optimizer) in enumerate(zip(singles, optimizers, strict=True)):
            if slot == 2 and round_ >= 7:
                continue
            row.grad, optimizer.param_groups[0]["lr"] = grad_UP[slot].clone(), float(lr_U[slot])
            optimizer.step()
    for slot, row in enumerate(singles):
        torch.testing.assert_close(param_UP[slot], row.detach(), atol=1e-13, rtol=1e-12)


def test_clip_equals_torch_row_by_row() -> None:
    grad_UP = torch.randn(4, 9, dtype=torch.float64) * torch.tensor([[0.01], [0.1], [1.0], [10.0]])
    expected = grad_UP.clone()
    norms = [float(torch.nn.utils.clip_grad_norm_(row, 0.3)) for row in _as_parameters(expected)]
    assert clip_(grad_UP, 0.3).tolist() == pytest.approx(norms)
    torch.testing.assert_close(grad_UP, expected)


def _as_parameters(grad_UP: torch.Tensor) -> list[torch.nn.Parameter]:
    rows = [torch.nn.Parameter(torch.zeros_like(row)) for row in grad_UP]
    for row, grad in zip(rows, grad_UP, strict=True):
        row.grad = grad
    return rows


@given(st.integers(1, 300), st.floats(0, 1))
def test_the_rate_rises_once_and_never_again(total: int, warmup: float) -> None:
    rates = [linear_schedule(step, total, warmup) for step in range(total)]
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(rates[peak:], reverse=True)
    assert max(rates) == pytest.approx(1.0) and min(rates) > 0
