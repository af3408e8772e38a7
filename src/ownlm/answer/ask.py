"""Questions of many people, each answered with their own adapter, in mixed batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ownlm.answer.choose import choose
from ownlm.answer.generate import generate
from ownlm.answer.prompt_row import Prompt
from ownlm.model.adapter import Adapter
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.model.spans import BASE


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and whose adapter answers it; None for the base alone."""

    prompt: list[int]
    owner: str | None


def answer(
    base: BaseLM,
    adapters: dict[str, Adapter],
    questions: Sequence[Question],
    *,
    labels: Sequence[str] = (),
    max_new_tokens: int,
    one_line: bool = False,
    on_done: Callable[[int], None] | None = None,
) -> list[str]:
    """Answers in the questions' order.

    Args:
        adapters: each owner's adapter, all of one shape; none is needed where no question names an owner.
        labels: choose among these by likelihood; none to generate text.
        max_new_tokens: the longest generated answer.
        one_line: whether a generated answer ends with its first line.
        on_done: called with the number of questions answered since the last call.

    Raises:
        AdapterError: an adapter does not fit the base or the others.
    """
    slots = {owner: slot for slot, owner in enumerate(adapters)}
    prompts = [
        Prompt(BASE if question.owner is None else slots[question.owner], question.prompt) for question in questions
    ]

    def run(bank: LoraBank | None) -> list[str]:
        if labels:
            texts = [f" {label}" for label in labels]
            return [choice.label for choice in choose(base, bank, prompts, texts, on_done=on_done)]
        return generate(base, bank, prompts, max_new_tokens=max_new_tokens, one_line=one_line, on_done=on_done)

    if not adapters:
        return run(None)
    bank = LoraBank(base.model, next(iter(adapters.values())).lora, len(adapters))
    for owner, slot in slots.items():
        bank.load(slot, adapters[owner])
    with bank.attached():
        return run(bank)
