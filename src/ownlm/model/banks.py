"""Several banks attached to one model at once."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from ownlm.model.bank import LoraBank
from ownlm.model.piece_bank import PieceBank


class Banks:
    """A changing set of frozen banks that work in the same passes; no two have a slot number in common."""

    dropout = 0.0

    def __init__(self) -> None:
        self._attached: dict[LoraBank | PieceBank, ExitStack] = {}

    @property
    def beside(self) -> Sequence[LoraBank | PieceBank]:
        """The attached banks."""
        return tuple(self._attached)

    def attach(self, bank: LoraBank | PieceBank) -> None:
        """Adds a bank to the forward passes of this set."""
        self._attached[bank] = stack = ExitStack()
        stack.enter_context(bank.attached())

    def detach(self, bank: LoraBank | PieceBank) -> None:
        """Removes a bank from the model."""
        self._attached.pop(bank).close()


@contextmanager
def attached(*banks: LoraBank | PieceBank) -> Iterator[Banks]:
    """Attaches banks within a context."""
    together = Banks()
    try:
        for bank in banks:
            together.attach(bank)
        yield together
    finally:
        for bank in together.beside:
            together.detach(bank)
