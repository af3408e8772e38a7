"""Incremental detokenization: an answer's text as its tokens come, cut at stop texts."""

import re
from collections.abc import Sequence

from ownlm.model.base import BaseLM

WINDOW = 32  # tokens decoded together: the text of a token depends on the few before it
CHARACTER = 4  # bytes of the longest character; each may be a token
_CONTEXT = 12  # last tokens of a prompt that are searched for a whole character: control tokens have no text
_UNFINISHED = "\ufffd"  # replaces an unfinished character
_ITSELF = re.compile("(\u00ef\u00bf\u00bd|<0xEF><0xBF><0xBD>|\ufffd)+")  # tokens of U+FFFD where a text contains it


class Detokenizer:
    """The text of one answer, token by token, and how much of it is final.

    The pieces that `take` returns make up the text of all tokens, cut before the first stop text. An answer to a prompt
    has no white space at either end. The continuation of a prompt keeps its white space, as prompt and continuation
    decode to together. `take` holds back what may still change: an unfinished character, the possible beginning of a
    stop text, and white space that may be the end. Where tokens are bytes and a run of them ends within a character,
    the tokenizer may change characters before it: text that was taken then stays as it was.

    Args:
        stop: Texts that end the answer and do not belong to it; empty ones are ignored.
        one_line: Whether the answer ends with its first line.
        continues: Token ids of the prompt that the answer continues as it stands; None for an answer to a prompt.
    """

    def __init__(
        self, base: BaseLM, stop: Sequence[str] = (), one_line: bool = False, continues: Sequence[int] | None = None
    ) -> None:
        self.base = base
        self.stop = (*filter(None, stop), *(["\n"] if one_line else []))
        self.stopped = False  # a stop text was found
        self._finished = False
        self._strips = continues is None
        self._tokens, self._prompt = self._context(continues or ())  # the prompt's last tokens, then the answer's
        self._prompt_tokens = len(self._tokens)
        self._text = ""  # of the answer's tokens, up to the last whole character
        self._first = 0  # first token of the window
        self._window = self._prompt  # text of the tokens in the window
        self._taken = 0

    def append(self, token: int) -> None:
        """Adds the next token."""
        self._tokens.append(token)
        window = self._decode(self._first)
        whole = window.rstrip(_UNFINISHED)
        if len(whole) > len(self._window):
            self._text += whole[len(self._window) :]
            self._window = whole
        if self._strips:
            self._text = self._text.lstrip()
        if window == whole and len(self._tokens) - self._first >= WINDOW:
            self._slide()
        self._find_stop()

    def finish(self) -> None:
        """Ends the answer, so that all of its text is final."""
        self._finished = True
        if not self.stopped:
            whole = self._decoded()
            if whole.startswith(self._text[: self._taken]):  # else the last bytes undid a character already taken
                self._text = whole
            self._find_stop()
        if self._strips:
            self._text = self._text.rstrip()

    def take(self) -> str:
        """Returns the text that has become final since the last call."""
        final = len(self._text) if self._finished else self._final()
        piece = self._text[self._taken : final]
        self._taken = max(self._taken, final)
        return piece

    @property
    def tokens(self) -> list[int]:
        """Token ids of the answer."""
        return self._tokens[self._prompt_tokens :]

    @property
    def whole(self) -> str:
        """The whole text of a finished answer."""
        assert self._finished
        return self._text

    def _context(self, prompt: Sequence[int]) -> tuple[list[int], str]:
        """Returns the last tokens of a prompt, and the text of those of them that make up whole characters.

        A tokenizer may drop the space of the first token, so tokens decode to their own text only after others. Tokens
        of a character that the prompt leaves unfinished belong to the answer, which finishes the character.
        """
        complete = re.search(f"{_ITSELF.pattern}$", self._written(prompt[-_CONTEXT:])) is not None
        for unfinished in range(1 if complete else CHARACTER):
            end = len(prompt) - unfinished
            for start in range(end - 1, max(-1, end - 1 - _CONTEXT), -1):
                text = self._text_of(prompt[start:end])
                if text and self._begins_whole(prompt[start:end], text) and (complete or text[-1] != _UNFINISHED):
                    return list(prompt[start:]), text
        last = list(prompt[-_CONTEXT:])
        return last, self._text_of(last).rstrip(_UNFINISHED)

    def _begins_whole(self, tokens: Sequence[int], text: str) -> bool:
        """Whether tokens, which decode to `text`, begin with a whole character; U+FFFD itself is one."""
        return text[:1] != _UNFINISHED or _ITSELF.match(self._written(tokens[:CHARACTER])) is not None

    def _written(self, tokens: Sequence[int]) -> str:
        """Returns tokens as the vocabulary writes them, without special tokens."""
        special = set(self.base.tokenizer.all_special_ids)
        written = self.base.tokenizer.convert_ids_to_tokens([id for id in tokens if id not in special])
        return "".join(token or "" for token in written)  # a model may have more ids than its tokenizer

    def _slide(self) -> None:
        """Moves the window forward, so that it begins with a whole character."""
        latest = len(self._tokens) - WINDOW // 4
        starts = range(latest, latest - CHARACTER, -1)
        whole = (n for n in starts if self._begins_whole(self._tokens[n:], self._decode(n)))
        self._first = next(whole, latest)
        self._window = self._decode(self._first)

    def _decoded(self) -> str:
        """Returns the text of all tokens of the answer."""
        text = self._decode(0)
        if self._strips:
            return text.strip()
        if text.startswith(self._prompt):
            return text[len(self._prompt) :]
        return self._text_of(self.tokens)  # the bytes make no character with the prompt's last ones

    def _decode(self, first: int) -> str:
        return self._text_of(self._tokens[first:])

    def _text_of(self, tokens: Sequence[int]) -> str:
        return str(self.base.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _find_stop(self) -> None:
        """Cuts the text before the stop text that is complete first."""
        found = [(at + len(stop), at) for stop in self.stop if (at := self._text.find(stop)) >= 0]
        if found:
            self._text, self.stopped = self._text[: min(found)[1]], True

    def _final(self) -> int:
        """Returns the length of the text that no further token can change."""
        final = len(self._text)
        for stop in self.stop:
            begun = next((n for n in range(len(stop) - 1, 0, -1) if self._text.endswith(stop[:n])), 0)
            final = min(final, len(self._text) - begun)
        return len(self._text[:final].rstrip()) if self._strips else final
