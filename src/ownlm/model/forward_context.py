"""The forward context: the batch and the bank of this thread's forward pass, for hooks on a model's modules.

Several threads may run one model at once, each on a separate row.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ownlm.errors import BaseModelError
from ownlm.model.packed import PackedBatch
from ownlm.model.segments import Segments


@dataclass(slots=True)
class Cut:
    """A pass of a part of the layers: of the lower ones, to find hidden states, or of the upper ones, from these.

    Attributes:
        lower: whether the lower layers run.
        hidden_1TD: the hidden states between the two parts.
    """

    lower: bool
    hidden_1TD: Tensor | None = None


@dataclass(slots=True)
class ForwardContext:
    """The state of one forward pass.

    Attributes:
        batch: the packed row.
        bank: the bank that has the row's slots, with the banks beside it; None for the base alone.
        grads_WP: gradients of the row's W slots, to be added to; None to train nothing.
        cut: what a pass of a model `split_at` a layer runs; None for a whole pass.
        trim: whether the last MLP may skip positions that predict nothing.
        read: the latest input by bank, with its family of modules and A x of that family, in a bank of LoRA by module.
        views: segments by bank and by the batch's segments, with that bank's slot numbers.
    """

    batch: PackedBatch
    bank: Any
    grads_WP: Tensor | None
    trim: bool = True
    cut: "Cut | None" = None
    read: dict[int, tuple[Tensor, int, Any]] = field(default_factory=dict)
    views: dict[tuple[int, int], Any] = field(default_factory=dict)

    def has(self, bank: Any) -> bool:
        """Whether the row may have slots of a bank."""
        return self.bank is not None and (self.bank is bank or bank in self.bank.beside)

    def segments_of(self, name: str, x: Tensor) -> Segments:
        """The segments of a module's input: [1, T, D] or [T, D] for the whole row, or [A, D] where it predicts.

        Raises:
            BaseModelError: the input is neither, so its tokens cannot be attributed to slots.
        """
        tokens, batch = x.numel() // x.shape[-1], self.batch
        if tokens == batch.tokens:  # also where every position predicts: the two segments are then the same
            return batch.segments
        if tokens == len(batch.asked_A):
            return batch.asked
        raise BaseModelError(
            f"The module {name!r} cannot be adapted: it does not see a row's tokens one by one",
            got=f"an input of shape {list(x.shape)} in a row of {batch.tokens} tokens",
            expected="one vector for each token of the row, or for each position that predicts",
            hint="leave the module out of the target modules",
        )

    def dropout_keys_of(self, x: Tensor) -> Tensor:
        """The dropout keys of the tokens of a module's input, which `segments_of` has accepted."""
        key_T = self.batch.dropout_key_T
        assert key_T is not None
        return key_T if x.numel() // x.shape[-1] == self.batch.tokens else key_T.index_select(0, self.batch.asked_A)


TRIM_ONE_IN = 2  # the last MLP is trimmed where at most one in so many positions is asked for
_now = threading.local()


@contextmanager
def set_forward_context(
    batch: PackedBatch, bank: Any, grads_WP: Tensor | None, trim: bool = True, cut: Cut | None = None
) -> Iterator[None]:
    """Within this context, this thread's forward pass is that of `batch`."""
    _now.context = ForwardContext(batch, bank, grads_WP, trim, cut)
    try:
        yield
    finally:
        _now.context = None


def forward_context() -> ForwardContext | None:
    """This thread's forward pass; None outside of `set_forward_context`."""
    return getattr(_now, "context", None)


def trim_last_mlp(model: Any) -> None:
    """Adds hooks that run a decoder's last MLP only at positions that predict, within a forward context.

    At other positions its output is zero. Only the head reads it, and only at predicting positions, so no logit and no
    gradient changes. Decoders with another kind of last MLP run whole.

    Source: ours.
    """
    layers = getattr(model.get_decoder(), "layers", None)
    mlp: Any = getattr(layers[-1], "mlp", None) if layers else None
    if isinstance(getattr(mlp, "down_proj", None), nn.Linear):
        mlp.register_forward_pre_hook(_take_asked)
        mlp.register_forward_hook(_put_back)


def _take_asked(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    now = forward_context()
    if now is None or not now.trim or TRIM_ONE_IN * len(now.batch.asked_A) > now.batch.tokens:
        return None
    if not args or args[0].shape[:-1] != (1, now.batch.tokens):
        return None
    return (args[0].index_select(1, now.batch.asked_A), *args[1:])


def _put_back(_: nn.Module, __: tuple[Tensor, ...], y_1AD: Tensor) -> Tensor | None:
    now = forward_context()
    if now is None or y_1AD.shape[1] == now.batch.tokens:
        return None
    y_1TD = y_1AD.new_zeros(1, now.batch.tokens, y_1AD.shape[2])
    return y_1TD.index_copy(1, now.batch.asked_A, y_1AD)


@contextmanager
def split_at(layers: Sequence[nn.Module], first: int) -> Iterator[None]:
    """Within this context, passes with a `Cut` run either the layers below `first`, or that one and those above.

    Embeddings, positions and masks are computed by the model's own code in both. Layers that do not run return the
    hidden states between the parts. Other passes, and other threads' passes, run whole.

    Source: ours.
    """

    def cut_forward(place: int, layer: Any) -> Callable[..., Any]:
        whole, is_lower = layer.forward, place < first

        def forward(hidden_states: Tensor, *args: Any, **named: Any) -> Any:
            now = forward_context()
            cut = None if now is None else now.cut
            if cut is None or cut.lower == is_lower:
                return whole(hidden_states, *args, **named)
            if cut.hidden_1TD is None:
                cut.hidden_1TD = hidden_states
            return cut.hidden_1TD

        return forward

    with ExitStack() as stack:
        for place, layer in enumerate(layers):
            layer.forward = cut_forward(place, layer)
            stack.callback(delattr, layer, "forward")
        yield
