"""An answer's text, piece by piece, while its tokens come."""

import re
from collections.abc import Sequence

from ownlm.model.base import BaseLM

WINDOW = 32  # tokens decoded together; what a token adds to the text depends on the few before it
CHARACTER = 4  # bytes, each of which may be a token
_CONTEXT = 12  # tokens of a prompt among which its last character is looked for: control tokens are no text
_UNFINISHED = "\ufffd"  # stands where a character's last bytes are missing
_ITSELF = re.compile("(\u00ef\u00bf\u00bd|<0xEF><0xBF><0xBD>|\ufffd)+")  # tokens of U+FFFD where a text contains it


class AnswerText:
    """What an answer says so far, and how much of it is sure.

    The pieces that `take` gives make up the text of all tokens, cut before the first stop text. An answer by itself has
    no white space at either end; the continuation of a prompt has all of it, as the prompt with it decodes to. What is
    not sure is kept back: an unfinished character, what may be the beginning of a stop text, and white space that may
    be the end. Where tokens are bytes, and a run of them breaks off within a character, a decoder may take back
    characters before it: then what was given stays.

    Args:
        stop: texts that end the answer, and do not belong to it; empty ones end nothing.
        one_line: whether the answer ends with its first line.
        continues: the prompt that the answer continues as it stands; None for an answer by itself.
    """

    def __init__(
        self, base: BaseLM, stop: Sequence[str] = (), one_line: bool = False, continues: Sequence[int] | None = None
    ) -> None:
        self.base = base
        self.stop = (*filter(None, stop), *(["\n"] if one_line else []))
        self.stopped = False  # a stop text was met
        self.ended = False
        self._strips = continues is None
        self._tokens, self._prompt = self._context(continues or ())  # the prompt's last tokens, then the answer's
        self._own = len(self._tokens)
        self._text = ""  # of the answer's tokens, up to the last whole character
        self._first = 0  # token of the window,
        self._window = self._prompt  # and the text of those since
        self._given = 0

    def add(self, token: int) -> None:
        """The next token."""
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

    def end(self) -> None:
        """Nothing more comes: what was kept back is sure now."""
        self.ended = True
        if not self.stopped:
            whole = self._decoded()
            if whole.startswith(self._text[: self._given]):  # else bytes that made a character make none with the last
                self._text = whole
            self._find_stop()
        if self._strips:
            self._text = self._text.rstrip()

    def take(self) -> str:
        """What has become sure since it was asked last."""
        sure = len(self._text) if self.ended else self._sure()
        piece = self._text[self._given : sure]
        self._given = max(self._given, sure)
        return piece

    @property
    def tokens(self) -> list[int]:
        """The answer's tokens."""
        return self._tokens[self._own :]

    @property
    def whole(self) -> str:
        """All of the answer, once it has ended."""
        assert self.ended
        return self._text

    def _context(self, prompt: Sequence[int]) -> tuple[list[int], str]:
        """The last tokens of a prompt, and the text of those that make up whole characters.

        A decoder may drop the first token's space, so that tokens decode to their own text only after others. Tokens
        of a character that the prompt leaves unfinished belong to the answer's text, which finishes it.
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
        """Whether tokens, which decode to a text, begin with a whole character; U+FFFD itself is one."""
        return text[:1] != _UNFINISHED or _ITSELF.match(self._written(tokens[:CHARACTER])) is not None

    def _written(self, tokens: Sequence[int]) -> str:
        """Tokens as the vocabulary writes them, special ones left out."""
        special = set(self.base.tokenizer.all_special_ids)
        written = self.base.tokenizer.convert_ids_to_tokens([id for id in tokens if id not in special])
        return "".join(token or "" for token in written)  # a model may have more ids than its tokenizer

    def _slide(self) -> None:
        """Moves the window on, to begin with a whole character."""
        latest = len(self._tokens) - WINDOW // 4
        starts = range(latest, latest - CHARACTER, -1)
        whole = (n for n in starts if self._begins_whole(self._tokens[n:], self._decode(n)))
        self._first = next(whole, latest)
        self._window = self._decode(self._first)

    def _decoded(self) -> str:
        """The text of all tokens of the answer."""
        text = self._decode(0)
        if self._strips:
            return text.strip()
        if text.startswith(self._prompt):
            return text[len(self._prompt) :]
        return self._text_of(self.tokens)  # bytes that make no character with the prompt's last ones

    def _decode(self, first: int) -> str:
        return self._text_of(self._tokens[first:])

    def _text_of(self, tokens: Sequence[int]) -> str:
        return str(self.base.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _find_stop(self) -> None:
        """Cuts the text before the stop text that is complete first, however many characters come at once."""
        found = [(at + len(stop), at) for stop in self.stop if (at := self._text.find(stop)) >= 0]
        if found:
            self._text, self.stopped = self._text[: min(found)[1]], True

    def _sure(self) -> int:
        """How much of the text will stay, whatever comes."""
        sure = len(self._text)
        for stop in self.stop:
            begun = next((n for n in range(len(stop) - 1, 0, -1) if self._text.endswith(stop[:n])), 0)
            sure = min(sure, len(self._text) - begun)
        return len(self._text[:sure].rstrip()) if self._strips else sure
