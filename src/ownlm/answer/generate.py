"""Greedy generation for many people at once, with a key-value cache."""

from collections.abc import Callable, Sequence

import torch
from transformers import DynamicCache

from ownlm.answer.prompt_row import Prompt, add_prompts, in_passes
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.model.packed import Chain, PackedBatch, Row


@torch.inference_mode()
def generate(
    base: BaseLM,
    bank: LoraBank | None,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    one_line: bool = False,
    tokens_per_pass: int = 4096,
    on_done: Callable[[int], None] | None = None,
) -> list[str]:
    """The most likely next token, again and again, until each answer ends.

    Args:
        bank: an attached bank that holds the slots the prompts name; None for the base alone.
        max_new_tokens: the longest answer, in tokens.
        one_line: whether an answer ends with its first line.
        tokens_per_pass: how many prompt tokens go through the model together.
        on_done: called with the number of prompts answered since the last call.

    Returns:
        One answer a prompt, in the prompts' order.
    """
    answers = [""] * len(prompts)
    for indices in in_passes(prompts, max_new_tokens, tokens_per_pass):
        together = [prompts[index] for index in indices]
        given = _generate_pass(base, bank, together, max_new_tokens, one_line)
        for index, tokens in zip(indices, given, strict=True):
            text = base.decode(tokens)
            answers[index] = text.split("\n", 1)[0].rstrip() if one_line else text
        if on_done:
            on_done(len(indices))
    return answers


def _generate_pass(
    base: BaseLM, bank: LoraBank | None, prompts: list[Prompt], max_new_tokens: int, one_line: bool
) -> list[list[int]]:
    row, chains = Row(), list[Chain]()
    for prompt, chain in add_prompts(row, prompts):
        row.predict(prompt.slot, chain[-1:])
        chains.append(chain)
    answers: list[list[int]] = [[] for _ in prompts]
    cache = DynamicCache()  # one flat row of everybody's tokens: chains say which of them are whose
    ended = base.stop_tokens
    cached, live = 0, list(range(len(prompts)))
    for _ in range(max_new_tokens):
        batch = row.pack(base.device)
        tokens = _next_tokens(base, bank, batch, cache)
        cached += batch.tokens
        for place, token in zip(live, tokens, strict=True):
            answers[place].append(token)
        live = [place for place in live if answers[place][-1] not in ended]
        live = [place for place in live if len(chains[place]) + 1 < base.max_tokens]
        if one_line:
            live = [place for place in live if "\n" not in base.tokenizer.decode(answers[place]).lstrip()]
        if not live:
            break
        row = _next_row(prompts, chains, answers, live, cached)
    return [answer[:-1] if answer and answer[-1] in ended else answer for answer in answers]


def _next_tokens(base: BaseLM, bank: LoraBank | None, batch: PackedBatch, cache: DynamicCache) -> list[int]:
    tokens: list[int] = base.logits(batch, bank, cache).argmax(dim=-1).tolist()
    return tokens


def _next_row(
    prompts: list[Prompt], chains: list[Chain], answers: list[list[int]], live: list[int], cached: int
) -> Row:
    """The token just chosen by each answer that goes on."""
    row = Row(start=cached)
    for place in live:
        chains[place] = row.add(prompts[place].slot, answers[place][-1:], after=chains[place])
        row.predict(prompts[place].slot, chains[place][-1:])
    return row
