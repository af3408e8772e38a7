"""The next token: the likeliest, or drawn by a request's own dice."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

FEW = 1024  # tokens in which a nucleus is looked for before all are sorted


@dataclass(frozen=True, slots=True)
class Dice:
    """How one answer's tokens are drawn. The same seed draws the same ones, whoever shares the batch.

    Attributes:
        temperature: above 0.
        top_p: draw from the likeliest tokens that together have this much probability.
        seed: of the draws; None takes a fresh one.
    """

    temperature: float
    top_p: float = 1.0
    seed: int | None = None
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_random", random.Random(self.seed))

    def roll(self) -> float:
        """The next number between 0 and 1."""
        return self._random.random()


def next_tokens(logits_PV: Tensor, dice: Sequence[Dice | None]) -> list[int]:
    """Each position's next token: the likeliest where there are no dice."""
    tokens: list[int] = logits_PV.argmax(dim=-1).tolist()
    for place, own in enumerate(dice):
        if own is not None:
            tokens[place] = draw(logits_PV[place], own.temperature, own.top_p, own.roll())
    return tokens


def draw(logits_V: Tensor, temperature: float, top_p: float, roll: float) -> int:
    """A token drawn from the nucleus, by the inverse of its distribution.

        p = softmax(logits / temperature);  the smallest set of likeliest tokens whose p sum to top_p or more

    Args:
        roll: uniform between 0 and 1.

    Source: Holtzman et al. (arXiv 1904.09751), section 3.1.
    """
    wide_V = logits_V.double()
    p_V = ((wide_V - wide_V.max()) / temperature).softmax(dim=0)  # no temperature is so low that this overflows
    p_N, token_N = (p_V, None) if top_p >= 1 else _nucleus(p_V, top_p)
    sum_N = p_N.cumsum(dim=0)
    place = min(int(torch.searchsorted(sum_N, roll * float(sum_N[-1]), right=True)), len(sum_N) - 1)
    return place if token_N is None else int(token_N[place])


def _nucleus(p_V: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The likeliest tokens that together have `top_p`, likeliest first: their probabilities, and which they are."""
    p_N, token_N = p_V.topk(min(FEW, len(p_V)))
    if float(p_N.sum()) < top_p:
        p_N, token_N = p_V.sort(descending=True, stable=True)
    count = int((p_N.cumsum(dim=0) < top_p).sum()) + 1
    return p_N[:count], token_N[:count]
