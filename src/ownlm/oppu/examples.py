"""Examples as token ids, checked against the context of the base."""

from collections.abc import Iterable, Sequence

from ownlm.errors import DataError, argument
from ownlm.model.base import BaseLM
from ownlm.model.lora import activation_start
from ownlm.model.packed import common_prefix
from ownlm.oppu.minibatches import TokenizedExample
from ownlm.prompt.example import Example

INVOCATION = 4  # last tokens of the instruction, from which on an activated adapter acts


def invocation_tokens(base: BaseLM, instruction: str) -> tuple[int, ...]:
    """The invocation tokens of activated adapters: the last ones of the instruction, however the prompt goes on."""
    alone, continued = base.encode_prompts([instruction, f"{instruction}\n\nx"])
    return tuple(alone[: common_prefix([alone, continued])][-INVOCATION:])


def tokenize(
    base: BaseLM, user: str, examples: Iterable[Example], invocation: Sequence[int] | None = None
) -> list[TokenizedExample]:
    """Token ids of a user's examples.

    Args:
        invocation: invocation tokens of an activated adapter; None for one that acts on all tokens.

    Raises:
        DataError: there is no example, or one is longer than the base's context.
    """
    known, tokenized = list(examples), []
    prompts = base.encode_prompts([example.prompt for example in known])
    answers = {text: base.encode_answer(text) for text in {example.answer for example in known}}  # labels repeat
    for example, prompt in zip(known, prompts, strict=True):
        answer = answers[example.answer]
        check_length(base, prompt, len(answer), f"Record {example.record_id!r} of user {user!r}")
        start = activation_start(prompt, invocation) if invocation else 0
        assert start is not None, "the prompt begins with the instruction"
        tokenized.append(TokenizedExample(prompt, answer, start))
    if not tokenized:
        raise DataError(
            f"User {user!r} has no record that can be trained on",
            expected="at least one record with the task's answer, no older than the setting 'since'",
            hint="look at the history",
            command=f"ownlm history show {argument(user)}",
        )
    return tokenized


LONG = "shorten it, or use fewer words per field or fewer retrieved records"
CHARACTERS = 16  # per token, more than texts have on average
_EDGE = 64  # extra tokens that cutting a text in two may cause


def encode_within(base: BaseLM, text: str, answer: int, what: str) -> list[int]:
    """Token ids of a prompt that leaves room for an answer of this many tokens.

    Raises:
        DataError: it does not fit; a very long text is not encoded whole to find out.
    """
    tokens = encode_up_to(base, text, base.max_tokens - answer)
    if tokens is None:
        got = f"more than {max(0, base.max_tokens - answer):,} tokens, and {answer:,} of the answer"
        what = f"{what} is longer than the context of the base {base.name!r}"
        raise DataError(what, got=got, expected=f"at most {base.max_tokens:,}", hint=LONG)
    return tokens


def encode_up_to(base: BaseLM, text: str, most: int) -> list[int] | None:
    """Token ids of a prompt; None if there are more than `most`. A very long text is not encoded whole."""
    size, count = CHARACTERS * most, 0
    if most <= 0:
        return None
    for start in range(0, len(text) if size < len(text) else 0, size):
        count += len(base.encode_prompt(text[start : start + size])) - _EDGE
        if count > most:
            return None
    tokens = base.encode_prompt(text)
    return tokens if len(tokens) <= most else None


def check_length(base: BaseLM, prompt: Sequence[int], answer: int, what: str, hint: str = LONG) -> None:
    """Raises a DataError where `what`'s prompt and answer are longer than the base's context."""
    if len(prompt) + answer > base.max_tokens:
        raise DataError(
            f"{what} is longer than the context of the base {base.name!r}",
            got=f"{len(prompt) + answer} tokens",
            expected=f"at most {base.max_tokens}",
            hint=hint,
        )
