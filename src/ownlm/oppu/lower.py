"""Hidden states below the layers that are trained, computed once an example and kept."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ownlm.model.base import BaseLM
from ownlm.model.packed import BatchBuilder
from ownlm.model.segments import BASE
from ownlm.oppu.minibatches import Part, TokenizedExample, shared_prefix


@dataclass(frozen=True, slots=True)
class _States:
    """The hidden states of an example's input, and what they add to the memory.

    Attributes:
        prefix_SD: those of the first tokens, which other examples of the same pass share.
        own_TD: those of the other tokens.
    """

    prefix_SD: Tensor
    own_TD: Tensor
    bytes: int

    def part(self, start: int, stop: int) -> list[Tensor]:
        """Those from `start` to `stop`."""
        before = len(self.prefix_SD)
        return [self.prefix_SD[start:stop], self.own_TD[max(start - before, 0) : max(stop - before, 0)]]


class LowerStates:
    """Hidden states of examples at the layer that the base is split at. No adapter acts below it.

    Several threads may use it at once, each for other examples. What does not fit is computed in every epoch.

    Args:
        base: the base.
        room: bytes that the kept states may take.
    """

    def __init__(self, base: BaseLM, room: int) -> None:
        self.base, self.room, self._lock = base, room, threading.Lock()
        self._kept: dict[int, dict[int, _States]] = {}  # by slot, and by the example's id

    def of(self, parts: Sequence[Part]) -> Tensor:
        """The hidden states of a row of these parts, hidden_TD."""
        wanted = {(part.slot, id(part.example)): part.example for part in parts}
        states = {(slot, key): self._kept.get(slot, {}).get(key) for slot, key in wanted}
        missing = [key for key, known in states.items() if known is None]
        if missing:
            computed = self._compute([wanted[key] for key in missing])
            states.update(zip(missing, computed, strict=True))
            self._keep(dict(zip(missing, computed, strict=True)))
        pieces = list[Tensor]()
        for part in parts:
            own = states[part.slot, id(part.example)]
            assert own is not None
            pieces += own.part(part.start, part.stop)
        return torch.cat(pieces)

    def begin(self, slot: int, *, again: bool) -> None:
        """Takes a new user into a slot.

        Args:
            again: whether the user's examples are trained on more than once; otherwise their states are not kept.
        """
        if again:
            self._kept[slot] = {}

    def end(self, slot: int) -> None:
        """Drops the states of a slot."""
        with self._lock:
            self.room += sum(states.bytes for states in self._kept.pop(slot, {}).values())

    def _keep(self, computed: dict[tuple[int, int], _States]) -> None:
        """Keeps new states, as far as there is room."""
        with self._lock:
            for (slot, key), states in computed.items():
                if slot in self._kept and states.bytes <= self.room:
                    self._kept[slot][key] = states
                    self.room -= states.bytes

    def _compute(self, examples: Sequence[TokenizedExample]) -> list[_States]:
        """One pass over examples of any users; a prefix that all of them share is computed once."""
        row, shared = BatchBuilder(), shared_prefix(examples)
        prefix = row.add(BASE, examples[0].prompt[:shared])
        inputs = [(one.prompt + one.answer[:-1])[shared:] for one in examples]
        for tokens in inputs:
            row.add(BASE, tokens, after=prefix)
        hidden_TD = self.base.lower_hidden(row.pack(self.base.device))
        prefix_SD, *own = hidden_TD.split([shared, *map(len, inputs)])
        prefix_SD = prefix_SD.clone()  # else it would hold on to the whole row
        return [_States(prefix_SD, own_TD.clone(), own_TD.nbytes + prefix_SD.nbytes // len(examples)) for own_TD in own]
