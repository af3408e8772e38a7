"""Prompts as an engine reads them: token ids that the base knows, and that fit its context."""

from collections.abc import Sequence

from ownlm.errors import DataError
from ownlm.model.base import BaseLM
from ownlm.oppu.examples import encode_up_to


class PromptReader:
    """Turns prompts into token ids of one base.

    Args:
        context: how many tokens a prompt and its answer may have together.
    """

    def __init__(self, base: BaseLM, context: int) -> None:
        self._base, self._context = base, context
        self._ids = min(len(base.tokenizer), base.model.config.get_text_config().vocab_size)

    def read(self, prompt: str | Sequence[int], answer: int = 1) -> list[int]:
        """A prompt's token ids. One that is empty is the token that begins a text, or else the one that ends one.

        Args:
            prompt: a text; or token ids, which are taken as they are.
            answer: how many tokens there must be room for after it.

        Raises:
            DataError: it is too long, or has ids that the base has not.
        """
        if isinstance(prompt, str):
            encoded = encode_up_to(self._base, prompt, self._context - answer)
            if encoded is None:
                raise self._too_long(f"more than {self._context - answer:,} tokens without it")
            ids = encoded
        else:
            ids = list(prompt)
            if max(ids, default=0) >= self._ids:
                raise DataError("The prompt has token ids that the base has not", expected=f"ids below {self._ids:,}")
        if not ids:
            begins = self._base.tokenizer.bos_token_id
            ids = [self._base.end_of_text if begins is None else int(begins)]
        if len(ids) + answer > self._context:
            raise self._too_long(f"{len(ids):,} tokens")
        return ids

    def room(self, prompt: Sequence[int]) -> int:
        """How many tokens an answer may have after a prompt."""
        return self._context - len(prompt)

    def _too_long(self, got: str) -> DataError:
        expected = f"at most {self._context:,} tokens with its answer"
        return DataError("The prompt is too long", got=got, expected=expected, hint="shorten it")
