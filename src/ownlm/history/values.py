"""Checks of values from files. Errors never repeat a value: it may be private."""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeVar
from unicodedata import category, is_normalized
from unicodedata import name as unicode_name

from ownlm.errors import DataError
from ownlm.history.times import read_time

T = TypeVar("T")

_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_IGNORED: Final = re.compile(  # letters and marks without a visible shape
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_JOINERS: Final = "\u200c\u200d"  # part of the spelling in some scripts
_JOINING: Final = re.compile(
    "ARABIC|SYRIAC|MANDAIC|NKO|MONGOLIAN|DEVANAGARI|BENGALI|GURMUKHI|GUJARATI|ORIYA|TAMIL|TELUGU|KANNADA|MALAYALAM|"
    "SINHALA|KHMER|MYANMAR|TIBETAN|BALINESE|JAVANESE"
)
_TIMES: Final = re.compile(
    "time|date|timestamp|datetime|ts|epoch|(creat|updat|post|publish|sent)(ed|ion|e)?(at|time|date|utc)?|pubdate|"
    "unixtime|(unix)?reviewtime|eventtime"
)
_CONTROLS: Final = {"\n": "LINE FEED", "\r": "CARRIAGE RETURN", "\t": "TAB", "\0": "NUL", "\x1b": "ESCAPE"}


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Placeholder for a value or row that could not be read; `what` completes "the field ..."."""

    what: str


def as_text(value: object) -> str | None:
    """Converts a value to stripped text; None for a blank. Whole numbers lose their '.0'.

    Raises:
        ValueError: the value is neither text nor a finite number.

    >>> as_text(4.0), as_text(" rain "), as_text("  "), as_text(None)
    ('4', 'rain', None, None)
    """
    if value is None:
        return None
    if isinstance(value, Unreadable):
        raise ValueError(value.what)
    if isinstance(value, Decimal) and value.is_finite():
        value = int(value) if value == value.to_integral_value() else format(value.normalize(), "f")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"is {_kind(value)}, not text or a number")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("is not a finite number")
        value = int(value) if value.is_integer() else value
    text = str(value).strip()
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # JSON can spell these; UTF-8 cannot
        raise ValueError("holds half a character (a lone surrogate)")
    return text or None


def as_id(value: object) -> str:
    """Checks the id of a record or query.

    Raises:
        ValueError: it is not text or a whole number, is blank, or contains an invisible character.

    >>> as_id("ada\u202e")
    Traceback (most recent call last):
    ValueError: holds RIGHT-TO-LEFT OVERRIDE (U+202E), which cannot be seen; take it out
    """
    if isinstance(value, float):
        raise ValueError("is a number with a point, not text or a whole number")
    text = as_text(value)
    if text is None:
        raise ValueError("is missing or blank")
    if invisible := invisible_in(text):
        raise ValueError(f"holds {invisible}, which cannot be seen; take it out")
    return text


def as_user(value: object) -> str:
    """Checks a user id: as `as_id`, and in NFC with single plain blanks, so that ids that look alike are equal.

    Raises:
        ValueError: as `as_id`, or the id is not in that form.

    >>> as_user("Ada\u00a0Byron")
    Traceback (most recent call last):
    ValueError: holds NO-BREAK SPACE (U+00A0), which looks like a blank; write a blank
    """
    text = as_id(value)
    if blank := next((letter for letter in text if letter != " " and category(letter) == "Zs"), None):
        raise ValueError(f"holds {unicode_name(blank)} (U+{ord(blank):04X}), which looks like a blank; write a blank")
    if "  " in text:
        raise ValueError("holds two blanks in a row, which look like one; write one")
    if not is_normalized("NFC", text):
        raise ValueError("is not in Unicode's composed form (NFC), as which one name is one user; normalise it")
    return text


def invisible_in(name: str) -> str | None:
    """Names the first invisible character of a name: controls, line ends, directional marks.

    Joiners between letters of a script that needs them, such as Arabic or Devanagari, are allowed.

    >>> invisible_in("two\\nlines"), invisible_in("山田 太郎"), invisible_in("علی\u200cرضی")
    ('LINE FEED (U+000A)', None, None)
    """
    if name.isascii() and name.isprintable():
        return None
    for place, letter in enumerate(name):
        if letter in _JOINERS and _joins(name, place):
            continue
        if category(letter) in _INVISIBLE or _IGNORED.match(letter):
            return f"{_CONTROLS.get(letter) or unicode_name(letter, 'a control character')} (U+{ord(letter):04X})"
    return None


def _joins(name: str, place: int) -> bool:
    """Whether a joiner is between letters or marks of one script that needs joiners."""
    scripts = [
        match.group() if (match := _JOINING.match(unicode_name(letter, ""))) and category(letter)[0] in "LM" else ""
        for letter in (name[place - 1 : place] or " ", name[place + 1 : place + 2] or " ")
    ]
    return scripts[0] != "" and scripts[0] == scripts[1]


def is_time_like(name: str) -> bool:
    """Whether a column name other than `time` and `date` suggests a time.

    >>> [is_time_like(name) for name in ("created_at", "Date", "timestamp", "time", "text")]
    [True, True, True, False, False]
    """
    plain = re.sub(r"[^a-z]", "", name.casefold())
    return name not in ("time", "date") and plain not in ("post", "sent") and bool(_TIMES.fullmatch(plain))


def as_time(value: object) -> str | None:
    """Checks a time with `read_time`; None for a blank.

    Raises:
        ValueError: the value is not a time.
    """
    text = value.isoformat() if isinstance(value, date) else as_text(value)
    return None if text is None else read_time(text)


def check_columns(path: Path, columns: Sequence[str], names: Collection[str], required: Collection[str]) -> None:
    """Raises a DataError if a table lacks a required column, or has two columns of a name that is read."""
    if missing := set(required) - set(columns):
        raise DataError(
            f"The file {path} lacks the columns {', '.join(sorted(missing))}",
            expected=f"a table with the columns {', '.join(sorted(required))}",
            hint="rename its columns, or write a task file with its names",
        )
    if twice := next((name for name in names if columns.count(name) > 1), None):
        raise DataError(f"The file {path} has two columns {twice!r}", hint="rename or remove one")


def column(row: Mapping[str, Any], name: str, check: Callable[[object], T]) -> T:
    """The row's value of a name, converted by `check`.

    Raises:
        ValueError: `check` refuses the value; the message names the field.
    """
    try:
        return check(row.get(name))
    except ValueError as error:
        raise ValueError(f"the field {name!r} {error}") from None


def pick_fields(row: Mapping[str, Any], names: Iterable[str], required: Collection[str]) -> dict[str, str]:
    """The row's fields of these names as text, without missing and blank ones.

    Raises:
        ValueError: a required field is missing or blank, or a field is neither text nor a number.
    """
    fields = {}
    for name in names:
        text = column(row, name, as_text)
        if text is not None:
            fields[name] = text
        elif name in required:
            raise ValueError(f"the field {name!r} is missing or blank")
    return fields


def _kind(value: object) -> str:
    kinds = {bool: "true or false", list: "a list", dict: "an object", bytes: "bytes"}
    return kinds.get(type(value), f"a {type(value).__name__}")
