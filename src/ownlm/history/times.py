"""Parsing of the times of records and queries.

Dates are ISO 8601 (a year, a month, a date, a week date, a date-time; UTC where no zone is named) or RFC 2822, as in
mail. 24:00 is midnight of the next day, and second 60 is the first second of the next minute. Numbers, also
in texts, are read by their size alone:

    up to 4 digits                      a year
    8 digits that are a date            YYYYMMDD
    14 digits that are a date-time      YYYYMMDDhhmmss, from 1900 to 2100
    otherwise, since 1970               below 1e11 seconds, 1e14 milliseconds, 1e17 microseconds, 1e20 nanoseconds

All numbers of a file must have one unit (`UnitCheck`): mixed units would give a wrong order. Ambiguous numbers (202103,
202103041015, 2021.5) and ambiguous dates (03/04/2021) are refused.
"""

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

EXPECTED: Final = "an ISO 8601 date or date-time, a year, or a number of seconds since 1970"

_NUMBER: Final = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", re.ASCII)
_LIMITS: Final = ((1e11, "seconds"), (1e14, "milliseconds"), (1e17, "microseconds"), (1e20, "nanoseconds"))
_IN_A_SECOND: Final = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
_CALENDAR: Final = "years or dates"
_MONTH: Final = re.compile(r"\d{4}-\d{2}", re.ASCII)
_UTC: Final = re.compile(r"(?<=\d)(z| ?(UTC|GMT))$", re.ASCII)
_MIDNIGHT: Final = re.compile(r"(?<=[T ])24(?=(:?00(:?00([.,]0+)?)?)?($|[Z+ -]))", re.ASCII)
_LEAP: Final = re.compile(r"(?<=:59:)60(?=$|[.,Z+ -])", re.ASCII)
_MAIL: Final = re.compile(
    r"((Mon|Tue|Wed|Thu|Fri|Sat|Sun), )?\d{1,2} (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) \d{4} "
    r"\d\d:\d\d(:\d\d)? ([+-]\d{4}|GMT|UT|UTC|Z)",
    re.ASCII,
)
_NAT: Final = -(2**63)  # pandas' and NumPy's value for a missing time
_SERIAL: Final = (10_000, 73_051)  # numbers that may be a spreadsheet's days since 1900, up to the year 2100
_SLASHES: Final = re.compile(r"\d{1,4}[/.]\d{1,2}[/.]\d{1,4}\b.*", re.ASCII | re.DOTALL)


def time_key(time: str) -> float:
    """Seconds since 1970 of a time from `read_time`; the sort key of records.

    Raises:
        ValueError: the text is not a time.

    >>> time_key("1970-01-02") == time_key("86400") == 86400.0
    True
    >>> time_key("1612011212345"), time_key("1612011212345000")
    (1612011212.345, 1612011212.345)
    """
    text = time.strip()
    if text.isdigit():
        if len(text) <= 4 and text != "0":
            text = f"{int(text):04d}-01-01"
        elif len(text) != 8:  # Python would read 1612011212345 as a moment in the year 1612
            return _since_1970(float(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return _since_1970(float(text))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def read_time(text: str) -> str:
    """Checks a time; returns it as given, or in ISO 8601 where `time_key` needs that.

    Raises:
        ValueError: the text is not a time, or is ambiguous.

    >>> read_time("2021-03-04"), read_time("Thu, 04 Mar 2021 10:15:00 +0100")
    ('2021-03-04', '2021-03-04T10:15:00+01:00')
    >>> read_time("2021-12-31T24:00Z"), read_time("20210304101500")
    ('2022-01-01T00:00:00+00:00', '2021-03-04T10:15:00')
    """
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return _read_number(text)
    iso, later = _UTC.sub("Z", text), timedelta()
    if _MONTH.fullmatch(iso):
        iso += "-01"
    if _MIDNIGHT.search(iso):
        iso, later = _MIDNIGHT.sub("00", iso), timedelta(days=1)
    elif _LEAP.search(iso):
        iso, later = _LEAP.sub("59", iso), timedelta(seconds=1)
    try:
        moment = datetime.fromisoformat(iso) + later
    except (ValueError, OverflowError):
        return _read_mail_date(text)
    return text if iso == text else moment.isoformat()


def _read_mail_date(text: str) -> str:
    if _MAIL.fullmatch(text):
        try:
            return parsedate_to_datetime(text).isoformat()
        except ValueError:
            pass
    if _SLASHES.fullmatch(text):
        raise ValueError("is a date with an ambiguous order of day and month; write it as 2021-03-04")
    raise ValueError(f"is not a time; expected: {EXPECTED}")


def _read_number(text: str) -> str:
    number, digits = float(text), len(text) if text.isdigit() else 0
    if abs(number) >= _LIMITS[-1][0]:
        raise ValueError("is a number too large for a time")
    if digits == 14 and (moment := _compact(text, "%Y%m%d%H%M%S")):
        return moment.isoformat()
    if (digits == 6 and _compact(text, "%Y%m")) or (digits == 12 and _compact(text, "%Y%m%d%H%M")):
        raise ValueError("is a number that may be a date or a time since 1970; write it as 2021-03-04")
    if any(number in (_NAT // unit, -(-_NAT // unit)) for unit in (1, 10**3, 10**6, 10**9)):
        raise ValueError("is the number that stands for a missing time (NaT); leave it blank")
    if _SERIAL[0] <= number < _SERIAL[1]:
        raise ValueError("is a number that may be a spreadsheet's days or seconds since 1970; write it as 2021-03-04")
    if not digits and 1000 <= number < 10_000:
        raise ValueError("is a number with a point or a sign that may be a year; write it as 2021-03-04")
    if digits in (2, 3, 4) and number == 0:
        raise ValueError("is the year 0, which does not exist")
    return text


def _compact(text: str, form: str) -> datetime | None:
    """Parses digits without separators as a moment from 1900 to 2100."""
    try:
        moment = datetime.strptime(text, form)
    except ValueError:
        return None
    return moment if 1900 <= moment.year <= 2100 else None


def _since_1970(number: float) -> float:
    return number / _IN_A_SECOND[_unit(number)]


def _unit(number: float) -> str:
    return next((unit for limit, unit in _LIMITS if abs(number) < limit), _LIMITS[-1][1])


def unit_of(time: str) -> str | None:
    """The unit of a numeric time; None for a date.

    >>> unit_of("2021"), unit_of("86400"), unit_of("1612011212345"), unit_of("2021-03-04")
    ('years or dates', 'seconds', 'milliseconds', None)
    """
    if not _NUMBER.fullmatch(time):
        return None
    if time.isdigit() and time != "0" and len(time) in (1, 2, 3, 4, 8):
        try:
            datetime.fromisoformat(time.zfill(4) + "-01-01" if len(time) <= 4 else time)
            return _CALENDAR
        except ValueError:
            pass
    return _unit(float(time))


class UnitCheck:
    """Checks that all numeric times of a file have the unit of the first one."""

    def __init__(self) -> None:
        self._first: tuple[str, str] | None = None
        self._zero: str | None = None
        self._alike = 0
        self._differ, self._place = 0, ""

    def check(self, time: str | None, place: str) -> None:
        """Raises a ValueError if a numeric time has another unit than the first one.

        0 fits every unit but years.
        """
        unit = None if time is None else unit_of(time)
        if unit is None:
            return
        if time == "0":
            self._zero = self._zero or place
            if self._first is None or self._first[0] != _CALENDAR:
                return
        elif self._first is None:
            if unit != _CALENDAR or self._zero is None:
                self._first, self._alike = (unit, place), 1
                return
            self._first, self._alike = ("seconds", self._zero), 1
        if unit != self._first[0] or time == "0":
            message = (
                f"the time is a number of {unit} by its size, and the one at {self._first[1]} of {self._first[0]}; "
                "write all of them in one unit, or as ISO 8601 dates"
            )
            self._differ, self._place = self._differ + 1, self._place or f"{place}: {message}"
            raise ValueError(message)
        self._alike += 1

    @property
    def outnumbered(self) -> str | None:
        """The first place with another unit, if most times differ from the first one; else None."""
        return self._place if self._differ > self._alike else None
