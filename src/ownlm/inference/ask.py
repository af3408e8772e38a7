"""Questions of many people, each answered with their own adapter, in mixed batches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ownlm.inference.generate import generate
from ownlm.inference.label_scoring import choose
from ownlm.inference.prompt_row import Prompt
from ownlm.model.adapter import Adapter
from ownlm.model.bank import LoraBank
from ownlm.model.banks import Banks, attached
from ownlm.model.base import BaseLM
from ownlm.model.piece_bank import PieceBank
from ownlm.model.segments import BASE
from ownlm.perpcs.materialise import recipe_bank
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and whose adapter or recipe answers it; None for the base alone."""

    prompt: list[int]
    owner: str | None


def answer(
    base: BaseLM,
    adapters: Mapping[str, Adapter],
    questions: Sequence[Question],
    *,
    recipes: Mapping[str, Recipe] | None = None,
    pool: Pool | None = None,
    labels: Sequence[str] = (),
    max_new_tokens: int,
    one_line: bool = False,
    on_done: Callable[[int], None] | None = None,
) -> list[str]:
    """Answers in the questions' order.

    Args:
        adapters: owners' adapters, all of one shape.
        recipes: other owners' recipes of `product`, all of one pool,
        pool: which is this.
        labels: choose among these by likelihood; none to generate text.
        max_new_tokens: the longest generated answer.
        one_line: whether a generated answer ends with its first line.
        on_done: called with the number of questions answered since the last call.

    Raises:
        AdapterError: an adapter does not fit the base or the others.
        PoolError: a recipe is for another pool.
    """
    slots = {owner: slot for slot, owner in enumerate([*adapters, *(recipes or ())])}
    prompts = [
        Prompt(BASE if question.owner is None else slots[question.owner], question.prompt) for question in questions
    ]

    def run(bank: Banks | None) -> list[str]:
        if labels:
            texts = [f" {label}" for label in labels]
            return [choice.label for choice in choose(base, bank, prompts, texts, on_done=on_done)]
        return generate(base, bank, prompts, max_new_tokens=max_new_tokens, one_line=one_line, on_done=on_done)

    if not slots:
        return run(None)
    with attached(*banks_of(base, adapters, recipes or {}, pool)) as banks:
        return run(banks)


def banks_of(
    base: BaseLM, adapters: Mapping[str, Adapter], recipes: Mapping[str, Recipe], pool: Pool | None
) -> list[LoraBank | PieceBank]:
    """A slot for each adapter, then one for each recipe; arguments as for `answer`."""
    banks = list[LoraBank | PieceBank]()
    if adapters:
        bank = LoraBank(base.model, next(iter(adapters.values())).lora, len(adapters))
        for slot, adapter in enumerate(adapters.values()):
            bank.load(slot, adapter)
        banks.append(bank)
    if recipes:
        assert pool is not None
        banks.append(recipe_bank(base, pool, list(recipes.values()), first=len(adapters)))
    return banks
