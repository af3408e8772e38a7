"""The decoder alone, with adapters in memory: what answers are compared with."""

from collections.abc import Mapping, Sequence
from typing import Any

from ownlm.inference.decoder import Decoder
from ownlm.inference.request import Request
from ownlm.inference.sequence import Sequence as RunningSequence
from ownlm.model.adapter import Adapter
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.model.piece_bank import Banks
from ownlm.model.segments import BASE
from ownlm.store.rows import BaseInfo

INFO = BaseInfo("tiny", "", "tiny", 0, "")


def new_sequence(base: BaseLM, slot: int, prompt: Sequence[int], max_tokens: int = 6, **how: Any) -> RunningSequence:
    """A sequence that is ready to join a batch."""
    sequence = RunningSequence(Request(INFO, None, tuple(prompt), max_tokens, **how))
    sequence.begin(base, list(prompt))
    sequence.slot = slot
    return sequence


def generate(
    base: BaseLM, banks: LoraBank | Banks | None, prompts: Sequence[tuple[int, list[int]]], max_tokens: int, **how: Any
) -> list[RunningSequence]:
    """Finished sequences of prompts, each with the slot that answers it."""
    sequences = [new_sequence(base, slot, prompt, max_tokens, **how) for slot, prompt in prompts]
    decoder = Decoder(base, banks)
    for sequence in sequences:
        decoder.join(sequence)
    while decoder.running:
        decoder.step()
    return sequences


def texts_of(sequences: Sequence[RunningSequence]) -> list[str]:
    """The answers."""
    return [one.text.whole for one in sequences]


def answers(
    base: BaseLM, adapters: Mapping[str, Adapter], prompts: Sequence[tuple[str | None, list[int]]], max_tokens: int,
    **how: Any,
) -> list[str]:  # fmt: skip
    """Answers by adapters of one shape, named by their owner, or by the base alone."""
    if not adapters:
        return texts_of(generate(base, None, [(BASE, prompt) for _, prompt in prompts], max_tokens, **how))
    bank = LoraBank(base.model, next(iter(adapters.values())).lora, len(adapters))
    slots: dict[str | None, int] = {None: BASE}
    for slot, (owner, adapter) in enumerate(adapters.items()):
        bank.load(slot, adapter)
        slots[owner] = slot
    with bank.attached():
        return texts_of(generate(base, bank, [(slots[owner], prompt) for owner, prompt in prompts], max_tokens, **how))
