"""Streaming JSON decoder: memory holds the largest item, not the file."""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from ownlm.errors import DataError
from ownlm.filesystem import LINE_BYTES

_CHUNK: Final = 1 << 20
_BLANKS: Final = re.compile(r"[ \t\n\r]*")
_NUMBER_END: Final = re.compile(r"[.eE+-]*")  # before the end of what was read: the number may go on
_CUT_OFF: Final = "perhaps it was cut off while it was written or copied; fetch it again"
_NEAR: Final = 16  # an error so near to the end of what was read may be due to that end


class Repeated(dict[str, Any]):
    """A decoded JSON object with a repeated key; `name` is the first such key."""

    name: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    repeated = Repeated(made)
    names = [name for name, _ in pairs]
    repeated.name = next(name for name in made if names.count(name) > 1)
    return repeated


DECODER: Final = json.JSONDecoder(object_pairs_hook=_object)


def ends_early(text: str, place: int, message: str) -> bool:
    """Whether a decoding error at a place in a text is due to the end of the text."""
    return not text[place:].strip() or message.startswith("Unterminated string")


def read_items(path: Path, file: BinaryIO) -> Iterator[object]:
    """Yields the items of a file that is one JSON array.

    Raises:
        DataError: the file is not UTF-8 or not JSON; the error names the line.
    """
    window = _Window(path, file)
    yield from window.items()
    window.end()


def read_members(path: Path, file: BinaryIO, name: str, take: Callable[[object], None]) -> dict[str, Any] | None:
    """Streams one array of a JSON object: passes its items to `take` one at a time, returns the other members.

    Returns:
        The other members; None where the file is not an object with such an array.

    Raises:
        DataError: as `read_items`; or a name is repeated.
    """
    window, others, found = _Window(path, file), dict[str, Any](), False
    if window.peek() != "{":
        window.value()
        window.end()
        return None
    for member in window.names():
        if member in others or (member == name and found):
            raise DataError(f"A name is repeated in the JSON object of the file {path}", hint="leave one of them out")
        if member == name and window.peek() == "[":
            found = True
            for item in window.items():
                take(item)
        else:
            others[member] = window.value()
    window.end()
    return others if found else None


class _Window:
    """The decoded part of a document, refilled from its file."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at, self._line, self._ended = "", 0, 1, False

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            match = _BLANKS.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def value(self) -> Any:
        """Decodes the next value."""
        self.peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self._text) - _NEAR or error.msg.startswith("Unterminated string")
                if not (cut and self._more()):
                    raise self._error(error.msg, error.pos) from None
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, or [[[[...
                words = "too many brackets within each other" if isinstance(error, RecursionError) else "a long number"
                raise self._error(words, self._at) from None
            else:
                if not _NUMBER_END.fullmatch(self._text, end) or not self._more():
                    self._at = end
                    return value

    def items(self) -> Iterator[Any]:
        """Yields the items of the array at the current position."""
        yield from (self.value() for _ in self._entries("[", "]"))

    def names(self) -> Iterator[str]:
        """Yields the names of the object at the current position; each value is decoded before the next name."""
        for _ in self._entries("{", "}"):
            name = self.value() if self.peek() == '"' else None
            if not isinstance(name, str) or self.peek() != ":":
                raise self._error("Expecting a name and ':'", self._at)
            self._at += 1
            yield name

    def end(self) -> None:
        """Raises a DataError where anything follows."""
        if self.peek():
            raise self._error("Extra data", self._at, "write one array of all objects, or one object a line")

    def _entries(self, first: str, last: str) -> Iterator[None]:
        if self.peek() != first:
            raise self._error(f"Expecting '{first}'", self._at)
        self._at += 1
        if self.peek() == last:
            self._at += 1
            return
        while True:
            yield
            mark = self.peek()
            if not mark or mark not in ("," + last):
                raise self._error("Expecting ',' delimiter", self._at)
            self._at += 1
            if mark == last:
                return

    def _more(self) -> bool:
        """Doubles the undecoded text; False at the end of the file."""
        if self._ended:
            return False
        rest = len(self._text) - self._at
        if rest > LINE_BYTES:
            raise DataError(f"A value in the file {self._path} is too long", expected=f"at most {LINE_BYTES:,} letters")
        content = self._file.read(max(_CHUNK, rest))
        self._line += self._text.count("\n", 0, self._at)
        self._ended = not content
        try:
            self._text = self._text[self._at :] + self._decoder.decode(content, final=self._ended)
        except UnicodeDecodeError:
            raise DataError(f"The file {self._path} is not UTF-8", hint="save it as UTF-8") from None
        self._at = 0
        return not self._ended

    def _error(self, message: str, place: int, hint: str | None = None) -> DataError:
        cut = ends_early(self._text, place, message)
        return DataError(
            f"The file {self._path} is not one whole JSON document",
            got=f"{message}, line {self._line + self._text.count(chr(10), 0, place)}",
            hint=hint or (_CUT_OFF if cut else "correct that line"),
        )
