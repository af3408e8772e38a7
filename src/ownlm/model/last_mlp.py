"""The last layer's MLP on the asked positions only: what it makes of the others, nobody reads."""

from typing import Any

from torch import Tensor, nn

from ownlm.model.forward_context import forward_context

WORTH = 2  # at most one in so many positions must be asked for


def trim_last_mlp(model: Any) -> None:
    """Hooks onto a decoder's last MLP, its code untouched; they act within a flight alone.

    The MLP's output at other positions is zero instead. Nothing but the head reads it, and the head runs on the asked
    ones: no logit and no gradient changes. A decoder whose last MLP is not of the plain gated kind runs whole.

    Source: ours.
    """
    layers = getattr(model.get_decoder(), "layers", None)
    mlp: Any = getattr(layers[-1], "mlp", None) if layers else None
    if isinstance(getattr(mlp, "down_proj", None), nn.Linear):
        mlp.register_forward_pre_hook(_take_asked)
        mlp.register_forward_hook(_put_back)


def _take_asked(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    now = forward_context()
    if now is None or not now.trim or WORTH * len(now.batch.asked_A) > now.batch.tokens:
        return None
    if now.bank is not None and now.bank.dropout:  # draws a number for each token: as many, whoever is in the row
        return None
    if not args or args[0].shape[:-1] != (1, now.batch.tokens):
        return None
    return (args[0][:, now.batch.asked_A], *args[1:])


def _put_back(_: nn.Module, __: tuple[Tensor, ...], y_1AD: Tensor) -> Tensor | None:
    now = forward_context()
    if now is None or y_1AD.shape[1] == now.batch.tokens:
        return None
    y_1TD = y_1AD.new_zeros(1, now.batch.tokens, y_1AD.shape[2])
    return y_1TD.index_copy(1, now.batch.asked_A, y_1AD)
