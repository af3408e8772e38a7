"""Prompts as token ids that the base knows and that fit its context."""

from collections.abc import Sequence

from ownlm.errors import DataError
from ownlm.model.base import BaseLM
from ownlm.oppu.examples import encode_up_to


class PromptEncoder:
    """Encodes and checks prompts for one base.

    Args:
        context: Number of tokens that a prompt and its answer may have together.
    """

    def __init__(self, base: BaseLM, context: int) -> None:
        self.context = context
        self._base = base
        self._ids = min(len(base.tokenizer), base.model.config.get_text_config().vocab_size)

    def encode(self, prompt: str | Sequence[int], answer: int = 1) -> list[int]:
        """Returns the token ids. An empty prompt becomes the token that begins a text, else the one that ends it.

        Args:
            prompt: Text, or token ids, which are kept as they are.
            answer: Number of tokens that must fit after the prompt.

        Raises:
            DataError: The prompt is too long, or has ids that the base does not know.
        """
        if isinstance(prompt, str):
            encoded = encode_up_to(self._base, prompt, self.context - answer)
            if encoded is None:
                raise self._too_long(f"more than {self.context - answer:,} tokens without it")
            ids = encoded
        else:
            ids = list(prompt)
            if max(ids, default=0) >= self._ids:
                raise DataError("The prompt has token ids that the base has not", expected=f"ids below {self._ids:,}")
        if not ids:
            begins = self._base.tokenizer.bos_token_id
            ids = [self._base.end_of_text if begins is None else int(begins)]
        if len(ids) + answer > self.context:
            raise self._too_long(f"{len(ids):,} tokens")
        return ids

    def _too_long(self, got: str) -> DataError:
        expected = f"at most {self.context:,} tokens with its answer"
        return DataError("The prompt is too long", got=got, expected=expected, hint="shorten it")
