"""Forward and backward passes over users' minibatches, in parts where memory runs out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.model.packed import BatchBuilder
from ownlm.oppu.lower import LowerStates
from ownlm.oppu.malloc import in_halves
from ownlm.oppu.minibatches import Chunk, apart, fill, joined, tokens_of


@dataclass(frozen=True, slots=True)
class Passed:
    """Result of a forward and backward pass for the W slots in it."""

    loss_W: Tensor
    grads_WP: Tensor
    seconds: float


@dataclass(frozen=True, slots=True)
class Passes:
    """Runs passes. Several threads may share it.

    Attributes:
        bank: the attached bank that is trained.
        share_prefix: whether a prefix that a minibatch's prompts share is computed once.
        lower: kept hidden states below the trained layers; None where passes run all layers.
    """

    base: BaseLM
    bank: LoraBank
    share_prefix: bool
    lower: LowerStates | None

    def run(self, chunks: Sequence[Chunk]) -> tuple[Passed, int]:
        """Forward and backward pass for the mean loss of each slot's minibatch, and the number of parts it took."""
        singles = [one for chunk in chunks for one in apart(chunk)]
        parts = list(in_halves(self._part, singles, "One example", lambda one: tokens_of(one.examples, False)))
        if len(parts) == 1:
            return parts[0][1], 1
        slots, first = sorted({chunk.slot for chunk in chunks}), parts[0][1]
        grads_WP, loss_W = (
            first.grads_WP.new_zeros(len(slots), first.grads_WP.shape[1]),
            first.loss_W.new_zeros(len(slots)),
        )
        for own, part in parts:
            at = slots.index(own[0])
            grads_WP[at : at + len(own)] += part.grads_WP
            loss_W[at : at + len(own)] += part.loss_W
        return Passed(loss_W, grads_WP, sum(part.seconds for _, part in parts)), len(parts)

    def _part(self, singles: Sequence[Chunk]) -> tuple[list[int], Passed]:
        """A pass over chunks of one example each: its slots, which are neighbours, and its result."""
        started, row, chunks = time.perf_counter(), BatchBuilder(), joined(singles)
        parts = fill(row, chunks, self.share_prefix)
        batch = row.pack(self.base.device)
        grads_WP = self.bank.new_grads(batch)
        hidden_TD = self.lower.of(parts) if self.lower else None
        logits_PV = wide(self.base.logits(batch, self.bank, grads_WP=grads_WP, hidden_TD=hidden_TD))
        losses_P = F.cross_entropy(logits_PV, batch.target_P, reduction="none") * batch.weight_P.to(logits_PV.dtype)
        losses_P.sum().backward()
        loss_W = losses_P.new_zeros(len(batch.segments.slots), dtype=torch.float64)
        loss_W.index_add_(0, batch.place_P, losses_P.detach().double())
        return [chunk.slot for chunk in chunks], Passed(loss_W, grads_WP, time.perf_counter() - started)


def wide(logits_PV: Tensor) -> Tensor:
    """Logits in float32 or float64, for the loss."""
    return logits_PV.to(torch.promote_types(logits_PV.dtype, torch.float32))
