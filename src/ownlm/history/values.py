"""Values as they come in a file, checked. What is wrong is told without repeating the value: it may be private."""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Final, TypeVar
from unicodedata import category, is_normalized
from unicodedata import name as unicode_name

from ownlm.history.times import read_time

T = TypeVar("T")

_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_IGNORED: Final = re.compile(  # letters and marks that are not shown
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_JOINERS: Final = "\u200c\u200d"  # between letters of some scripts they are a part of the spelling
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
    """Stands in a row for a value, or for a row, that a reader could not read; `what` ends "the field ..."."""

    what: str


def as_text(value: object) -> str | None:
    """A field's text, without blanks around it; None where there is none. Whole numbers lose their '.0'.

    Raises:
        ValueError: it is neither text nor a finite number.

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
    """A record's or query's id.

    Raises:
        ValueError: it is no text or whole number, is empty, or holds a character that cannot be seen.

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
    """A user's id: as `as_id`, in Unicode's composed form (NFC), with single plain blanks: others look the same.

    Raises:
        ValueError: as `as_id`, or it is in another form.

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
    """The first character of a name that is not seen, or changes how others are shown: controls, line ends, directions.

    Joiners between letters of a script that needs them, such as Arabic or Devanagari, are no such characters.

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
    """Whether a joiner stands between letters, or marks of letters, of one script that needs joiners."""
    scripts = [
        match.group() if (match := _JOINING.match(unicode_name(letter, ""))) and category(letter)[0] in "LM" else ""
        for letter in (name[place - 1 : place] or " ", name[place + 1 : place + 2] or " ")
    ]
    return scripts[0] != "" and scripts[0] == scripts[1]


def is_time_like(name: str) -> bool:
    """Whether a column's name is that of a time, but for `time` and `date`, which are read.

    >>> [is_time_like(name) for name in ("created_at", "Date", "timestamp", "time", "text")]
    [True, True, True, False, False]
    """
    plain = re.sub(r"[^a-z]", "", name.casefold())
    return name not in ("time", "date") and plain not in ("post", "sent") and bool(_TIMES.fullmatch(plain))


def as_time(value: object) -> str | None:
    """A time as `read_time` keeps it; None where there is none.

    Raises:
        ValueError: it is no time.
    """
    text = value.isoformat() if isinstance(value, date) else as_text(value)
    return None if text is None else read_time(text)


def column(row: Mapping[str, Any], name: str, check: Callable[[object], T]) -> T:
    """What `check` makes of the row's value of that name.

    Raises:
        ValueError: the check refuses the value.
    """
    try:
        return check(row.get(name))
    except ValueError as error:
        raise ValueError(f"the field {name!r} {error}") from None


def pick_fields(row: Mapping[str, Any], names: Iterable[str], required: Collection[str]) -> dict[str, str]:
    """The row's fields of these names, as text; those that are missing or blank are left out.

    Raises:
        ValueError: a required one is missing or blank, or one is neither text nor a number.
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
