"""The error tree of ownlm, and functions that word messages.

Every error says what failed, what it got, what it expected, and what to do next. No error contains a user's text.
"""

import re
import shlex
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any


def quoted(word: object) -> str:
    """A name or a path quoted for a shell.

    >>> quoted("ada"), quoted("my files; rm")
    ('ada', "'my files; rm'")
    >>> print(quoted("two\\nlines"))
    $'two\\nlines'
    >>> print(quoted("a\\u202eb"))
    $'a\\342\\200\\256b'
    """
    text = str(word)
    if text.isprintable():
        return shlex.quote(text)
    escapes = {"'": "\\'", "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    escaped = (
        escapes.get(one) or (one if one.isprintable() else "".join(f"\\{byte:03o}" for byte in one.encode()))
        for one in text
    )
    return f"$'{''.join(escaped)}'"  # for bash, zsh and ksh, on one line


def shown(name: object) -> str:
    """A name for a message, on one line: unprintable characters are escaped.

    >>> shown("Zoë"), shown("two\\nlines"), shown("a\\u202eb\\x1b")
    ('Zoë', 'two\\\\nlines', 'a\\\\u202eb\\\\x1b')
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(name))


def argument(word: object) -> str:
    """A name or a path quoted as the last argument of a command, where `-` must not begin an option.

    >>> argument("ada"), argument("-ada")
    ('ada', '-- -ada')
    """
    return ("-- " if str(word).startswith("-") else "") + quoted(word)


_PLURALS = {"query": "queries", "history": "histories", "library": "libraries", "loss": "losses"}


def many(count: int, noun: str) -> str:
    """A number with its noun in the singular or plural.

    >>> many(1, "file of weights"), many(1200, "file of weights"), many(2, "more user")
    ('1 file of weights', '1,200 files of weights', '2 more users')
    >>> many(1, "query"), many(0, "query"), many(2, "query with an answer")
    ('1 query', '0 queries', '2 queries with an answer')
    """
    if count == 1:
        return f"1 {noun}"
    part = re.match(r"(?P<before>.*?)(?P<head>\S+)(?P<after>(?: (?:of|with|without|in|for|from|that|who)\b.*)?)$", noun)
    assert part is not None, noun
    head = _PLURALS.get(part["head"], part["head"] + "s")
    return f"{count:,} {part['before']}{head}{part['after']}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word nearest to a typed one; None where none is near.

    Case and punctuation are ignored. A text of over 100 letters is near to no word.

    >>> nearest("ideas", ["bugs", "idea"]), nearest("Exprot", ["export", "import"]), nearest("x", ["idea"])
    ('idea', 'export', None)
    >>> nearest("LaMP2N", ["LaMP_2M", "LaMP_2N"]), nearest("tri", ["triage", "tasks"])
    ('LaMP_2N', 'triage')
    """
    if len(word) > 100:
        return None
    plain = {_plain(one): one for one in reversed(list(known))}
    typed = _plain(word)
    close = get_close_matches(typed, plain, n=1, cutoff=0.75)
    if not close:  # one letter of three
        close = get_close_matches(typed, [one for one in plain if len(one) == len(typed) > 2], n=1, cutoff=0.66)
    if typed not in plain and not close and len(typed) > 2:
        close = [one for one in plain if one.startswith(typed)]
        close = close if len(close) == 1 else []
    return plain[typed] if typed in plain else plain[close[0]] if close else None


def _plain(word: str) -> str:
    letters = "".join(letter for letter in word.casefold() if letter.isalnum())
    return letters or word.casefold().strip()  # such as "++" and "--"


def in_one_line(error: Exception) -> str:
    """The message of a library's error, without class names and shortened, for use in one of ours.

    >>> [in_one_line(error) for error in (ValueError("not\\n  valid: TypeError: bad shape."), KeyError("a"), OSError())]
    ['bad shape', "it looks up 'a', which is not there", 'no reason is given']
    """
    words = re.split(r"\b\w*Error: ", " ".join(str(error).split()))[-1][:300].rstrip(".")
    if isinstance(error, KeyError):
        return f"it looks up {words}, which is not there"
    return words or "no reason is given"


_FITTING = {  # expected values by the first words of pydantic's error type
    "int": "a whole number", "float": "a number", "decimal": "a number", "finite_number": "a finite number",
    "string_too_short": "a text that is not empty", "string": "a text", "bool": "true or false",
    "list": "a list", "tuple": "a list", "set": "a list", "dict": "a table", "mapping": "a table", "model": "a table",
    "path": "a path", "none_required": "nothing", "missing": "a value: it is required",
}  # fmt: skip
_BOUNDS = {
    "greater_than_equal": "{ge} or more", "greater_than": "more than {gt}", "less_than_equal": "{le} or less",
    "less_than": "less than {lt}", "too_short": "{min_length} or more of them", "too_long": "{max_length} at most",
    "literal_error": "{expected}", "enum": "{expected}",
}  # fmt: skip


def fitting(error: Mapping[str, Any]) -> str:
    """The expected value in place of one that pydantic rejects.

    Args:
        error: one of `ValidationError.errors()`.

    >>> fitting({"type": "int_parsing", "msg": "Input should be"}), fitting({"type": "greater_than", "ctx": {"gt": 0}})
    ('a whole number', 'more than 0')
    """
    kind = str(error["type"])
    if kind in _BOUNDS:
        return _BOUNDS[kind].format(**error["ctx"])
    known = [words for start, words in _FITTING.items() if kind.startswith(start)]
    return known[0] if known else str(error["msg"]).removeprefix("Value error, ")


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith(("?", "!")) else sentence.rstrip(".") + "."


class OwnlmError(Exception):
    """Base class of all errors that a user can act on.

    Args:
        what: what failed, as one sentence without a full stop.
        got: what was found instead, if that helps. Never a user's text.
        expected: what would have been right.
        hint: what to do next: an action, in words that do not depend on the caller.
        command: the shell command for that action, without quotes. Only the command line shows it.

    Attributes:
        param: the field of a server's request that is wrong, where that is known.
    """

    param: str | None = None

    def __init__(
        self,
        what: str,
        *,
        got: object = None,
        expected: object = None,
        hint: str | None = None,
        command: str | None = None,
    ) -> None:
        self.what, self.got, self.expected, self.hint, self.command = what, got, expected, hint, command
        super().__init__(self._message(hint))

    def _message(self, hint: str | None) -> str:
        parts = [_ended(self.what)]
        if self.got is not None:
            parts.append(f"Got: {self.got}.")
        if self.expected is not None:
            parts.append(f"Expected: {self.expected}.")
        if hint is not None:
            parts.append(_ended(f"Next: {hint}"))
        return " ".join(parts)

    @property
    def hint_with_command(self) -> str | None:
        """The hint as the command line shows it.

        >>> OwnlmError("There is no base", hint="add one", command="ownlm base add").hint_with_command
        'add one: `ownlm base add`'
        """
        command = None if self.command is None else f"`{self.command}`"
        return ": ".join(part for part in (self.hint, command) if part is not None) or None

    @property
    def with_command(self) -> str:
        """The message as the command line shows it.

        >>> error = OwnlmError("There is no base", hint="add one", command="ownlm base add")
        >>> error.with_command, str(error)
        ('There is no base. Next: add one: `ownlm base add`.', 'There is no base. Next: add one.')
        """
        return self._message(self.hint_with_command)

    def as_dict(self) -> dict[str, str | None]:
        """The error's parts, for `--json`."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "got": None if self.got is None else str(self.got),
            "expected": None if self.expected is None else str(self.expected),
            "hint": self.hint_with_command,
        }


class DataError(OwnlmError, ValueError):
    """A history, query or label file cannot be read as what it claims to be."""


class ChangedRecordError(DataError):
    """A new record has the id of a known one, and another content.

    Attributes:
        user: name of the record's user.
        record: id of the record.
    """

    def __init__(self, user: str, record: str) -> None:
        self.user, self.record = user, record
        super().__init__(
            f"Record {record!r} of user {user!r} is in the home with another text or time",
            hint="nothing was added; change the record that is there, or give the new one an id of its own",
        )


class TaskError(OwnlmError, ValueError):
    """A task file is wrong, or does not fit the data it is used with."""


class BaseModelError(OwnlmError, ValueError):
    """A base model cannot be added, loaded or used."""


class AdapterError(OwnlmError, ValueError):
    """An adapter is damaged, or was made for another base, rank or set of modules."""


class TrainingError(OwnlmError, ArithmeticError):
    """Training one user's adapter failed; the others continue."""


class DeviceMemoryError(OwnlmError, MemoryError):
    """One example alone does not fit into the memory of the device."""


class ConfigError(OwnlmError, ValueError):
    """A setting is out of range, or contradicts another."""


class ConflictError(OwnlmError, RuntimeError):
    """The operation does not fit the present state of its object, such as cancelling a job that has ended."""


class StoreError(OwnlmError, OSError):
    """The home cannot be read or written, or is damaged."""


class StoreBusyError(StoreError):
    """Another process holds the home's database; the same call may succeed later."""


class CopyError(StoreError):
    """Another file in the home contains a copy of the text to delete; nothing was deleted."""


class NotFoundError(OwnlmError, LookupError):
    """No user, task, base or adapter has this name."""


class UnknownUserError(NotFoundError):
    """The home does not know a user, or has no records of them in a task.

    Args:
        what: as one sentence without a full stop, without a suggestion.
        near: the nearest name of another user, for the operator of the home; the server leaves it out.
    """

    def __init__(
        self, what: str, near: str | None = None, *, hint: str | None = None, command: str | None = None
    ) -> None:
        self.near = near
        meant = "" if near is None else f"; did you mean {near!r}?"
        super().__init__(what + meant, hint=hint, command=command)
        self.plain = what

    def without_name(self) -> NotFoundError:
        """The same error without the other user's name."""
        return NotFoundError(self.plain, hint=self.hint, command=self.command)

    def as_dict(self) -> dict[str, str | None]:
        """The error's parts, under the name that scripts know."""
        return super().as_dict() | {"error": NotFoundError.__name__}


class SupersededError(AdapterError, NotFoundError):
    """The adapter was replaced or removed during an answer; the same request gets the newest one."""


class AccessError(OwnlmError, PermissionError):
    """The token of a request is missing, unknown or revoked."""


class ForbiddenError(AccessError):
    """The token of a request is valid but does not permit it."""


class PoolError(OwnlmError, ValueError):
    """A pool of pieces is damaged, or made for another base, rank or set of modules."""
