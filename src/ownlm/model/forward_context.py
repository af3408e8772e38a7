"""The forward pass of this thread: from it, hooks on a model's modules learn whose tokens they see.

Several threads may run one model at once, each on a row of its own.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ownlm.errors import BaseModelError
from ownlm.model.packed import PackedBatch
from ownlm.model.segments import Segments


@dataclass(slots=True)
class ForwardContext:
    """A forward pass under way.

    Attributes:
        batch: its row.
        bank: whose slots the row names, together with the banks beside it; None for the base alone.
        grads_WP: where the gradients of the row's W slots gather; None where none are wanted.
        trim: whether the last MLP may leave out positions that are not asked for.
        read: by bank, the input that a module has read last, its family, and what the bank makes of it for that family.
        views: by bank and segments of the batch, these segments as the bank numbers its slots.
    """

    batch: PackedBatch
    bank: Any
    grads_WP: Tensor | None
    trim: bool = True
    read: dict[int, tuple[Tensor, int, Tensor]] = field(default_factory=dict)
    views: dict[tuple[int, int], Any] = field(default_factory=dict)

    def has(self, bank: Any) -> bool:
        """Whether a bank's slots are among those that the row names."""
        return self.bank is not None and (self.bank is bank or bank in self.bank.beside)

    def segments_of(self, name: str, x: Tensor) -> Segments:
        """The segments of a module's input: [1, T, D] or [T, D] for the whole row, or [A, D] for its asked positions.

        Raises:
            BaseModelError: the input is neither, so its tokens cannot be attributed to slots.
        """
        tokens, batch = x.numel() // x.shape[-1], self.batch
        if tokens == batch.tokens:  # also where every position is asked for: the two segments are then the same
            return batch.segments
        if tokens == len(batch.asked_A):
            return batch.asked
        raise BaseModelError(
            f"The module {name!r} cannot be adapted: it does not see a row's tokens one by one",
            got=f"an input of shape {list(x.shape)} in a row of {batch.tokens} tokens",
            expected="one vector for each token of the row, or for each position that predicts",
            hint="leave the module out of --modules",
        )


_now = threading.local()


@contextmanager
def set_forward_context(batch: PackedBatch, bank: Any, grads_WP: Tensor | None, trim: bool = True) -> Iterator[None]:
    """While it lasts, this thread's forward pass holds `batch`."""
    _now.context = ForwardContext(batch, bank, grads_WP, trim)
    try:
        yield
    finally:
        _now.context = None


def forward_context() -> ForwardContext | None:
    """This thread's forward pass; None where the caller is not ownlm."""
    return getattr(_now, "context", None)
