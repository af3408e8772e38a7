"""Pieces of sharers' adapters, and the choice of modules that each sharer gives."""

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ownlm.errors import ConfigError
from ownlm.oppu.fleet import job_seed


@dataclass(frozen=True, slots=True)
class Piece:
    """One module's share of one sharer's adapter, and the gate that says what it is good for."""

    A_RD: Tensor
    B_OR: Tensor
    gate_D: Tensor


def new_sharer_id() -> str:
    """A random id for a sharer, 16 hexadecimal digits, which tells nothing about the user."""
    return secrets.token_hex(8)


def kept_modules(seed: int, sharer: str, modules: Sequence[str], ratio: float) -> list[str]:
    """The modules of which a sharer gives their piece: round(ratio M) of them, and at least one.

    Args:
        seed, sharer: seed and name that the random choice depends on; neither is stored in the pool.
        modules: all M, in the model's order.
        ratio: above 0, at most 1.

    Returns:
        Names, in the model's order.

    Raises:
        ConfigError: the ratio is out of range.

    Source: Per-Pcs (arXiv 2406.10471), the sharing ratio. Differs: each sharer's choice is independent of the others'.

    >>> kept_modules(0, "00000000000000aa", ["q", "k", "v", "o"], 0.5)
    ['q', 'v']
    """
    if not 0 < ratio <= 1:
        raise ConfigError("The sharing ratio is out of range", got=ratio, expected="above 0, at most 1")
    count = max(1, round(ratio * len(modules)))
    drawn = random.Random(job_seed(seed, sharer)).sample(range(len(modules)), count)
    return [modules[place] for place in sorted(drawn)]
