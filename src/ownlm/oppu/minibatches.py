"""Minibatches of a user's examples, and minibatches as segments of a packed row."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, zip_longest

import torch

from ownlm.config import TrainConfig
from ownlm.model.packed import BatchBuilder, common_prefix
from ownlm.model.segments import BASE


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """A prompt and its answer as token ids; the answer ends with the end-of-text token.

    Attributes:
        unadapted: number of the prompt's first tokens on which an activated adapter does not act.
    """

    prompt: list[int]
    answer: list[int]
    unadapted: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """Examples of one user that are in the same pass."""

    slot: int
    examples: list[TokenizedExample]
    weight: float  # weight of one answer token in the minibatch's mean loss
    seeds: list[int] = field(default_factory=list)  # each example's dropout seed; empty without dropout


@dataclass(frozen=True, slots=True)
class Part:
    """The input tokens from `start` to `stop` of a user's example, in a row."""

    slot: int
    example: TokenizedExample
    start: int
    stop: int


def minibatches(examples: int, config: TrainConfig, generator: torch.Generator) -> list[list[int]]:
    """Indices of the examples of each optimizer step: every epoch in a new order, cut into batches."""
    total, batches = config.steps_for(examples), list[list[int]]()
    while len(batches) < total:
        order: list[int] = torch.randperm(examples, generator=generator).tolist()
        batches += [order[at : at + config.batch_size] for at in range(0, examples, config.batch_size)]
    return batches[:total]


def tokens_of(examples: Sequence[TokenizedExample], share_prefix: bool) -> int:
    """Number of tokens of a minibatch; a prefix that its prompts share counts once."""
    shared = shared_prefix(examples, share_prefix)
    return shared + sum(_length(example) - shared for example in examples)


def in_chunks(
    slot: int, examples: Sequence[TokenizedExample], tokens_per_step: int, share_prefix: bool, at_least: int = 1,
    seeds: Sequence[int] = (),
) -> list[Chunk]:  # fmt: skip
    """A minibatch in as few parts of at most about `tokens_per_step` tokens as possible, of about equal size.

    Args:
        slot: slot of the user.
        examples: examples of the minibatch.
        tokens_per_step: approximate number of tokens in one pass.
        share_prefix: whether a prefix that the prompts share is computed once.
        at_least: the smallest number of parts, if there are as many examples.
        seeds: each example's dropout seed; empty without dropout.
    """
    weight = 1 / sum(len(example.answer) for example in examples)
    shared = shared_prefix(examples, share_prefix)
    own = [_length(example) - shared for example in examples]
    count = min(max(at_least, -(-sum(own) // max(tokens_per_step - shared, 1))), len(examples))
    parts: list[list[int]] = [[] for _ in range(count)]
    before = 0
    for place, length in enumerate(own):
        parts[(2 * before + length) * count // (2 * sum(own))].append(place)  # by the position of its middle
        before += length
    return [
        Chunk(slot, [examples[place] for place in part], weight, [seeds[place] for place in part] if seeds else [])
        for part in parts
        if part
    ]


def apart(chunk: Chunk) -> list[Chunk]:
    """A chunk's examples as chunks of one."""
    if not chunk.seeds:
        return [replace(chunk, examples=[example]) for example in chunk.examples]
    pairs = zip(chunk.examples, chunk.seeds, strict=True)
    return [replace(chunk, examples=[example], seeds=[seed]) for example, seed in pairs]


def joined(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Chunks with neighbours of one slot joined."""
    whole = list[Chunk]()
    for _, of_slot in groupby(chunks, key=lambda chunk: chunk.slot):
        own = list(of_slot)
        examples, seeds = [e for one in own for e in one.examples], [s for one in own for s in one.seeds]
        whole.append(replace(own[0], examples=examples, seeds=seeds))
    return whole


def fill(row: BatchBuilder, chunks: Sequence[Chunk], share_prefix: bool) -> list[Part]:
    """Adds chunks, in ascending order of slot, to a row; a prefix that a chunk's prompts share is added once.

    Tokens on which no adapter acts are the base's, and all users' chunks share them. Under dropout no other prefix is
    shared.

    Returns:
        The parts of examples that the row consists of, in its order.
    """
    parts = list[Part]()
    unadapted = {_unadapted(chunk.examples): 0 if chunk.seeds else None for chunk in chunks}
    before = {tokens: row.add(BASE, tokens, seed=seed) for tokens, seed in unadapted.items()}
    whose = {_unadapted(chunk.examples): chunk for chunk in chunks}
    parts += [Part(whose[tokens].slot, whose[tokens].examples[0], 0, len(tokens)) for tokens in before]
    for chunk in chunks:
        own, shared = _unadapted(chunk.examples), shared_prefix(chunk.examples, share_prefix)
        prefix = row.add(chunk.slot, chunk.examples[0].prompt[len(own) : shared], after=before[own])
        parts.append(Part(chunk.slot, chunk.examples[0], len(own), shared))
        for example, seed in zip_longest(chunk.examples, chunk.seeds):
            parts.append(Part(chunk.slot, example, shared, _length(example)))
            chain = row.add(chunk.slot, (example.prompt + example.answer[:-1])[shared:], after=prefix, seed=seed)
            row.predict(chunk.slot, chain[len(example.prompt) - 1 :], example.answer, chunk.weight)
    return parts


def _unadapted(examples: Sequence[TokenizedExample]) -> tuple[int, ...]:
    """The tokens before those on which the user's adapter acts: the same in all of a user's prompts."""
    return tuple(examples[0].prompt[: examples[0].unadapted])


def _length(example: TokenizedExample) -> int:
    """Number of input tokens: the answer's last token is only predicted."""
    return len(example.prompt) + len(example.answer) - 1


def shared_prefix(examples: Sequence[TokenizedExample], share_prefix: bool = True) -> int:
    """Length of the prefix that is computed once: all that the prompts share, else what no adapter acts on.

    Each prompt keeps at least its last token, which predicts the answer.
    """
    if not share_prefix:
        return examples[0].unadapted
    return min(common_prefix([example.prompt for example in examples]), min(len(e.prompt) for e in examples) - 1)
