"""The next token: the likeliest, or drawn by the request's own sampler."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

FEW = 1024  # tokens in which the nucleus is searched before all are sorted


class Sampler:
    """Draws the tokens of one answer. The same seed draws the same tokens in any batch.

    Args:
        temperature: Above 0.
        top_p: Probability mass of the nucleus.
        seed: Seed of the draws; None takes a random one.
    """

    def __init__(self, temperature: float, top_p: float = 1.0, seed: int | None = None) -> None:
        self._temperature, self._top_p, self._random = temperature, top_p, random.Random(seed)

    def sample(self, logits_V: Tensor) -> int:
        """Draws the next token."""
        return sample_nucleus(logits_V, self._temperature, self._top_p, self._random.random())


def next_tokens(logits_PV: Tensor, samplers: Sequence[Sampler | None]) -> list[int]:
    """Returns the next token of each position: the likeliest where the sampler is None."""
    tokens: list[int] = logits_PV.argmax(dim=-1).tolist()
    for place, sampler in enumerate(samplers):
        if sampler is not None:
            tokens[place] = sampler.sample(logits_PV[place])
    return tokens


def sample_nucleus(logits_V: Tensor, temperature: float, top_p: float, uniform: float) -> int:
    """Draws a token from the nucleus, by the inverse of its distribution.

        p = softmax(logits / temperature);  the smallest set of likeliest tokens with a sum of p of top_p or more

    Args:
        uniform: Number between 0 and 1 that selects the token.

    Source: Holtzman et al. (arXiv 1904.09751), section 3.1.
    """
    wide_V = logits_V.double()
    p_V = ((wide_V - wide_V.max()) / temperature).softmax(dim=0)  # the maximum is 0, so no temperature overflows
    p_N, token_N = (p_V, None) if top_p >= 1 else _nucleus(p_V, top_p)
    sum_N = p_N.cumsum(dim=0)
    place = min(int(torch.searchsorted(sum_N, uniform * float(sum_N[-1]), right=True)), len(sum_N) - 1)
    return place if token_N is None else int(token_N[place])


def _nucleus(p_V: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Returns the probabilities and ids of the likeliest tokens that together have `top_p`, likeliest first."""
    p_N, token_N = p_V.topk(min(FEW, len(p_V)))
    if float(p_N.sum()) < top_p:
        p_N, token_N = p_V.sort(descending=True, stable=True)
    count = int((p_N.cumsum(dim=0) < top_p).sum()) + 1
    return p_N[:count], token_N[:count]
