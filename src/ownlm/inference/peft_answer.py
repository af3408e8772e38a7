"""Questions of one person, answered with an adapter of another method than LoRA."""

from collections.abc import Callable, Sequence

from ownlm.inference.ask import Question, answer
from ownlm.model.base import BaseLM
from ownlm.model.peft_adapter import PeftAdapter


def answer_with_peft(
    base: BaseLM,
    adapter: PeftAdapter,
    questions: Sequence[Question],
    *,
    labels: Sequence[str] = (),
    max_new_tokens: int,
    one_line: bool = False,
    on_done: Callable[[int], None] | None = None,
) -> list[str]:
    """Answers in the questions' order; the base is as before when this returns, or fails.

    Args:
        adapter: answers all of the questions.
        labels, max_new_tokens, one_line, on_done: as for `answer`.

    Raises:
        AdapterError: the adapter is damaged, or for another base.
    """
    with adapter.attached(base.model) as attached:
        longer = [Question(attached.virtual_tokens + question.prompt, None) for question in questions]
        return answer(
            base, {}, longer, labels=labels, max_new_tokens=max_new_tokens, one_line=one_line, on_done=on_done
        )
