"""Prompts of many people, put into one row."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ownlm.model.packed import BatchBuilder, TokenPositions, common_prefix


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as token ids, and the slot of the adapter that answers it (`BASE` for none)."""

    slot: int
    tokens: list[int]


def add_prompts(row: BatchBuilder, prompts: Sequence[Prompt]) -> Iterator[tuple[Prompt, TokenPositions]]:
    """Adds prompts to a row, and yields each with its chain as soon as it is there, so that it can be continued.

    One person's prompts share their common beginning.

    Args:
        prompts: in ascending order of slot.
    """
    for indices in by_slot(prompts, range(len(prompts))):
        own = [prompts[index] for index in indices]
        shared = min(common_prefix([prompt.tokens for prompt in own]), min(len(p.tokens) for p in own) - 1)
        prefix = row.add(own[0].slot, own[0].tokens[:shared])
        for prompt in own:
            yield prompt, row.add(prompt.slot, prompt.tokens[shared:], after=prefix)


def in_passes(prompts: Sequence[Prompt], extra: int, tokens_per_pass: int) -> Iterator[list[int]]:
    """Indices of prompts, in ascending order of slot, cut so that a pass holds about `tokens_per_pass` tokens.

    Args:
        extra: tokens that each prompt needs beside its own.
    """
    indices, size = list[int](), 0
    for index in sorted(range(len(prompts)), key=lambda i: prompts[i].slot):
        need = len(prompts[index].tokens) + extra
        if indices and size + need > tokens_per_pass:
            yield indices
            indices, size = [], 0
        indices.append(index)
        size += need
    if indices:
        yield indices


def by_slot(prompts: Sequence[Prompt], indices: Iterable[int]) -> list[list[int]]:
    """Indices of prompts, those of one slot together."""
    groups: dict[int, list[int]] = {}
    for index in indices:
        groups.setdefault(prompts[index].slot, []).append(index)
    return list(groups.values())
