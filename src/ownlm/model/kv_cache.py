"""Key-value cache of the tokens of live sequences: written in place, and its places are reused."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Cache

from ownlm.model.packed import TokenPositions
from ownlm.model.segments import to_device

FIRST = 256  # places at first; their number doubles when they run out


class KvCache(Cache):
    """S places, one for each token of each live sequence, the same in every layer.

    Sequences take places for their next tokens, and give them back when they end. A sequence's places lie anywhere, and
    its chain names them, so nothing is moved to make room. Before a pass, `writing` names the places of its tokens.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._free = np.arange(FIRST)  # a stack: what was given back last is taken first
        self._places = FIRST
        self._at_T: Tensor | None = None
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}  # by layer: key_SGE, value_SGE

    @property
    def used(self) -> int:
        """The number of taken places."""
        return self._places - len(self._free)

    def take(self, count: int) -> TokenPositions:
        """Takes free places."""
        while count > len(self._free):
            self._free = np.concatenate([np.arange(self._places, 2 * self._places), self._free])
            self._places *= 2
        taken, self._free = self._free[len(self._free) - count :], self._free[: len(self._free) - count]
        return taken

    def give_back(self, places: TokenPositions) -> None:
        """Frees places that were taken."""
        self._free = np.concatenate([self._free, places])

    def writing(self, places: TokenPositions, device: torch.device) -> "KvCache":
        """The cache, set to write the next row's tokens to these places."""
        self._at_T = to_device((torch.from_numpy(places),), device)[0]
        return self

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes a row's keys and values, [1, G, T, E] each, to their places; returns all places', [1, G, S, E]."""
        assert self._at_T is not None
        kept = self._kept.get(layer_idx)
        if kept is None or len(kept[0]) < self._places:
            kept = self._kept[layer_idx] = self._grown(kept, key_states), self._grown(kept, value_states, 1)
        for part_SGE, new_1GTE in zip(kept, (key_states, value_states), strict=True):
            part_SGE.index_copy_(0, self._at_T, new_1GTE[0].transpose(0, 1))
        return kept[0].transpose(0, 1)[None], kept[1].transpose(0, 1)[None]

    def _grown(self, kept: tuple[Tensor, Tensor] | None, new_1GTE: Tensor, part: int = 0) -> Tensor:
        """A tensor for all places with the cached ones copied; new places are not read before they are written."""
        _, heads, _, width = new_1GTE.shape
        larger_SGE = new_1GTE.new_empty(self._places, heads, width)
        if kept is not None:
            larger_SGE[: len(kept[part])] = kept[part]
        return larger_SGE
