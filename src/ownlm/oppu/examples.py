"""Examples as token ids, checked against what the base can read."""

from collections.abc import Iterable, Sequence

from ownlm.errors import DataError
from ownlm.model.base import BaseLM
from ownlm.oppu.minibatches import TokenizedExample
from ownlm.prompt.example import Example


def tokenize(base: BaseLM, user: str, examples: Iterable[Example]) -> list[TokenizedExample]:
    """Token ids of a person's examples.

    Raises:
        DataError: there is no example, or one is longer than the base's context.
    """
    known, tokenized = list(examples), []
    prompts = base.encode_prompts([example.prompt for example in known])
    answers = {text: base.encode_answer(text) for text in {example.answer for example in known}}  # labels repeat
    for example, prompt in zip(known, prompts, strict=True):
        answer = answers[example.answer]
        check_length(base, prompt, len(answer), f"Record {example.record_id!r} of user {user!r}")
        tokenized.append(TokenizedExample(prompt, answer))
    if not tokenized:
        raise DataError(
            f"User {user!r} has no record that can be trained on",
            expected="at least one record with the task's answer, and within --since where that is given",
            hint="look at `ownlm history show`",
        )
    return tokenized


def check_length(
    base: BaseLM, prompt: Sequence[int], answer: int, what: str, hint: str = "shorten it, or lower --max-words or --rag"
) -> None:
    """Raises a DataError where `what`'s prompt and answer are longer than the base's context."""
    if len(prompt) + answer > base.max_tokens:
        raise DataError(
            f"{what} is longer than the context of the base {base.name!r}",
            got=f"{len(prompt) + answer} tokens",
            expected=f"at most {base.max_tokens}",
            hint=hint,
        )
