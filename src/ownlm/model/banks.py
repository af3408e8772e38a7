"""Banks of several shapes, attached to one model at once."""

from collections.abc import Sequence
from contextlib import ExitStack

from ownlm.model.bank import LoraBank


class Banks:
    """Banks that work in the same passes, without being trained; they come and go, and their slots' numbers differ."""

    dropout = 0.0

    def __init__(self) -> None:
        self._attached: dict[LoraBank, ExitStack] = {}

    @property
    def beside(self) -> Sequence[LoraBank]:
        """All of them."""
        return tuple(self._attached)

    def attach(self, bank: LoraBank) -> None:
        """From now on the model answers its slots' tokens with their adapters, in flights of these banks."""
        self._attached[bank] = stack = ExitStack()
        stack.enter_context(bank.attached())

    def detach(self, bank: LoraBank) -> None:
        """Takes a bank off the model."""
        self._attached.pop(bank).close()
