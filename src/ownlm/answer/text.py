"""An answer's text, piece by piece, while its tokens come."""

from collections.abc import Sequence

from ownlm.model.base import BaseLM

WINDOW = 32  # tokens decoded together; what a token adds to the text depends on the few before it
_UNFINISHED = "\ufffd"  # stands where a character's last bytes are missing


class AnswerText:
    """What an answer says so far, and how much of it is sure.

    The pieces that `take` gives make up just what `BaseLM.decode` makes of all tokens, cut before the first stop text:
    without white space at either end. So these are kept back: white space at the end, an unfinished character, and what
    may be the beginning of a stop text. Where tokens are bytes, and a run of them breaks off within a character, a
    decoder may take back characters before it: then what was given stays.

    Args:
        stop: texts that end the answer, and do not belong to it.
        one_line: whether the answer ends with its first line.
    """

    def __init__(self, base: BaseLM, stop: Sequence[str] = (), one_line: bool = False) -> None:
        self.base = base
        self.stop = (*stop, "\n") if one_line else tuple(stop)
        self.tokens: list[int] = []
        self.stopped = False  # a stop text was met
        self.ended = False
        self._text = ""  # of the tokens, up to the last whole character
        self._first = 0  # token of the window,
        self._window = ""  # and the text of those since
        self._given = 0

    def add(self, token: int) -> None:
        """The next token."""
        self.tokens.append(token)
        window = self._decode(self._first)
        if window.endswith(_UNFINISHED):
            return
        self._text = (self._text + window[len(self._window) :]).lstrip()
        self._window = window
        if len(self.tokens) - self._first >= WINDOW:
            self._first = len(self.tokens) - WINDOW // 4
            self._window = self._decode(self._first)
        self._find_stop()

    def end(self) -> None:
        """Nothing more comes: what was kept back is sure now."""
        self.ended = True
        if not self.stopped:
            whole = self.base.decode(self.tokens)
            if whole.startswith(self._text[: self._given]):  # else bytes that made a character make none with the last
                self._text = whole
            self._find_stop()
        self._text = self._text.rstrip()

    def take(self) -> str:
        """What has become sure since it was asked last."""
        sure = len(self._text) if self.ended else self._sure()
        piece = self._text[self._given : sure]
        self._given = max(self._given, sure)
        return piece

    @property
    def whole(self) -> str:
        """All of the answer, once it has ended."""
        assert self.ended
        return self._text

    def _decode(self, first: int) -> str:
        return str(self.base.tokenizer.decode(self.tokens[first:], skip_special_tokens=True))

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
        return len(self._text[:sure].rstrip())
