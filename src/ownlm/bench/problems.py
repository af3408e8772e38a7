"""What is wrong with a plan, collected: one error lists everything."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

from ownlm.errors import ConfigError, OwnlmError


class Problems:
    """Errors found in a check, each once.

    Args:
        at_once: raise each when it is found, instead of collecting it.
    """

    def __init__(self, at_once: bool = False) -> None:
        self._at_once = at_once
        self._found: dict[str, OwnlmError] = {}

    def __bool__(self) -> bool:
        """Whether something was found."""
        return bool(self._found)

    def take(self, others: "Problems") -> None:
        """Adds what another check found."""
        for error in others._found.values():
            self.add(error)

    @contextmanager
    def collect(self, where: str = "") -> Iterator[None]:
        """Errors raised within are collected, and the check goes on behind it.

        Args:
            where: begins the message: "The plan's method 'own' is wrong".
        """
        try:
            yield
        except OwnlmError as error:
            self.add(_at(where, error) if where else error)

    def add(self, error: OwnlmError) -> None:
        """One more error; raised where errors are not collected."""
        if self._at_once:
            raise error from None
        self._found.setdefault(str(error), error)

    def raise_all(self, what: str) -> None:
        """Raises what was found: one error as it is, several as a ConfigError that lists them.

        Args:
            what: was checked: "The plan 'main'".
        """
        found = list(self._found.values())
        if len(found) == 1:
            raise found[0]
        if found:
            lines = (f"\n  {number}. {_in_short(error)}" for number, error in enumerate(found, 1))
            raise ConfigError(f"{what} is wrong in {len(found)} places; nothing has run:{''.join(lines)}")


def nearest(word: str, known: Sequence[str]) -> str | None:
    """What may have been meant, for a hint.

    >>> nearest("epochz", ["epochs", "rag"]), nearest("zzz", ["epochs"])
    ("did you mean 'epochs'?", None)
    """
    close = get_close_matches(word, known, 1)
    return f"did you mean {close[0]!r}?" if close else None


def _at(where: str, error: OwnlmError) -> OwnlmError:
    kind = type(error) if type(error).__init__ is OwnlmError.__init__ else ConfigError
    return kind(f"{where}: {error.what}", got=error.got, expected=error.expected, hint=error.hint)


def _in_short(error: OwnlmError) -> str:
    parts = {"got": error.got, "expected": error.expected}
    found = ", ".join(f"{name}: {value}" for name, value in parts.items() if value is not None)
    hint = f"; {error.hint}" if error.hint else ""
    return f"{error.what.rstrip('.')}{f' ({found})' if found else ''}{hint}"
