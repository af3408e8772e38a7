"""Prompts become tokens, and too long ones are refused before they have cost much."""

from types import SimpleNamespace
from typing import Any

import pytest

from ownlm.errors import DataError
from ownlm.model.base import BaseLM
from ownlm.oppu.examples import CHARACTERS, encode_up_to, encode_within


@pytest.mark.parametrize("text", ["", "a", "some words " * 20, " " * 300, "\n\n", "ünïcödé 😀 " * 20, "x" * 500])
def test_tokens_are_those_of_the_base(text: str, base: BaseLM) -> None:
    assert encode_up_to(base, text, 900) == base.encode_prompt(text)


def test_the_longest_prompt_fits_and_one_token_more_does_not(base: BaseLM) -> None:
    text = "some words " * 40
    count = len(base.encode_prompt(text))
    assert encode_up_to(base, text, count) == base.encode_prompt(text)
    for most in (count - 1, 0, -3):
        assert encode_up_to(base, text, most) is None
    assert encode_within(base, text, base.max_tokens - count, "It") == base.encode_prompt(text)
    with pytest.raises(DataError, match="longer than the context") as refused:
        encode_within(base, text, base.max_tokens - count + 1, "It")
    assert "some words" not in str(refused.value)


def test_a_text_of_few_tokens_for_its_length_fits() -> None:
    """However long it is, it is its tokens that count."""
    words: Any = SimpleNamespace(encode_prompt=lambda text: [len(word) for word in text.split()])
    text = ("w" * 500 + " ") * 20
    assert len(text) > CHARACTERS * 20 and encode_up_to(words, text, 20) == [500] * 20
    assert encode_up_to(words, text, 19) is None


@pytest.mark.parametrize("text", ["some words ", "x", " ", "\0", "语"])
def test_much_more_is_not_encoded(text: str, base: BaseLM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, encode = 0, BaseLM.encode_prompt

    def counted(self: BaseLM, part: str) -> list[int]:
        nonlocal seen
        seen += len(part)
        return encode(self, part)

    monkeypatch.setattr(BaseLM, "encode_prompt", counted)
    assert encode_up_to(base, text * 200_000, 1000) is None
    assert seen <= 8 * CHARACTERS * 1000
