"""Greedy generation for many people at once."""

from collections.abc import Callable, Sequence

from ownlm.inference.decoder import Decoder, Reply
from ownlm.inference.prompt_row import Prompt, by_slot, in_passes
from ownlm.inference.text import AnswerText
from ownlm.model.bank import LoraBank
from ownlm.model.banks import Banks
from ownlm.model.base import BaseLM


def generate(
    base: BaseLM,
    bank: LoraBank | Banks | None,
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
    decoder = Decoder(base, bank, prompt_tokens=tokens_per_pass, places=2 * tokens_per_pass)
    replies = [Reply(one.slot, list(one.tokens), max_new_tokens, AnswerText(base, (), one_line)) for one in prompts]
    groups = [
        [replies[index] for index in own]
        for together in in_passes(prompts, max_new_tokens, tokens_per_pass)
        for own in by_slot(prompts, together)
    ]
    while groups or decoder.live:
        while groups and decoder.has_room(sum(reply.need for reply in groups[0])):
            decoder.join(*groups.pop(0))
        ended = sum(reply.finish is not None for reply in decoder.step())
        if on_done and ended:
            on_done(ended)
    return [reply.text.whole for reply in replies]
