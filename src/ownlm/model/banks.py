"""Banks of several shapes, attached to one model at once."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from ownlm.model.bank import LoraBank
from ownlm.model.piece_bank import PieceBank


class Banks:
    """Banks that work in the same passes, without being trained; they come and go, and their slots' numbers differ."""

    dropout = 0.0

    def __init__(self) -> None:
        self._attached: dict[LoraBank | PieceBank, ExitStack] = {}

    @property
    def beside(self) -> Sequence[LoraBank | PieceBank]:
        """All of them."""
        return tuple(self._attached)

    def attach(self, bank: LoraBank | PieceBank) -> None:
        """From now on the model answers its slots' tokens with their adapters, in flights of these banks."""
        self._attached[bank] = stack = ExitStack()
        stack.enter_context(bank.attached())

    def detach(self, bank: LoraBank | PieceBank) -> None:
        """Takes a bank off the model."""
        self._attached.pop(bank).close()


@contextmanager
def attached(*banks: LoraBank | PieceBank) -> Iterator[Banks]:
    """Banks that are attached while it lasts."""
    together = Banks()
    try:
        for bank in banks:
            together.attach(bank)
        yield together
    finally:
        for bank in together.beside:
            together.detach(bank)
