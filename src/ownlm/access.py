"""Consents and access tokens of users, one or many at once: `home.access`, and the files that list users."""

import csv
import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ownlm.errors import DataError
from ownlm.filesystem import DOCUMENT_BYTES, read_regular
from ownlm.store.consents import LICENCE, Changed, Consent, change_consents, consents_of
from ownlm.store.store import Store
from ownlm.store.tokens import Given, TokenInfo, give_tokens, revoke_token, revoke_tokens, tokens

STDIN = Path("-")
_KEYS = ("user", "share", "licence")
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_NAMED = 20  # wrong lines in a message; the rest is counted


class Access:
    """Consents to share and access tokens: `home.access`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read_users(self, path: str | Path) -> list["UserLine"]:
        """The users that a file lists; see `read_user_list`."""
        return read_user_list(Path(path))

    def consents(self, users: Collection[str]) -> list[Consent]:
        """Consents of these users, in their order; a NotFoundError names the unknown ones."""
        return consents_of(self._store, users)

    def change_consents(self, give: Mapping[str, str] | Iterable[str] = (), withdraw: Collection[str] = ()) -> Changed:
        """Gives and withdraws the consents of many users: all in one transaction, or none.

        Args:
            give: licences by user; or users, who share under CC-BY-4.0.

        Raises:
            NotFoundError: some users are unknown; its `unknown` lists them. ConfigError: a licence is empty.
        """
        licences = dict(give) if isinstance(give, Mapping) else dict.fromkeys(give, LICENCE)
        return change_consents(self._store, licences, withdraw)

    def tokens(self, user: str | None = None) -> list[TokenInfo]:
        """All tokens, or those of a user, oldest first."""
        return tokens(self._store, user)

    def give_tokens(
        self,
        users: Iterable[str | None],
        *,
        expires: datetime | None = None,
        replace: bool = False,
        deliver: Callable[[list[Given]], None] = lambda given: None,
    ) -> list[Given]:
        """A new token for each of these users, who need not have data yet; see `store.tokens.give_tokens`."""
        return give_tokens(self._store, list(users), expires, replace=replace, deliver=deliver)

    def revoke_token(self, beginning: str) -> TokenInfo:
        """Revokes the token with this beginning of an id; a NotFoundError where none or several match."""
        return revoke_token(self._store, beginning)

    def revoke_tokens(self, users: Collection[str]) -> list[TokenInfo]:
        """Revokes all tokens of these users, and returns them; a user without a token is no error."""
        return revoke_tokens(self._store, users)


class UserLine(BaseModel):
    """One line of a file that lists users.

    Attributes:
        line: line number.
        share: consent to share; None where the line does not say.
        licence: licence of the consent; None where the line does not say.
    """

    model_config = ConfigDict(frozen=True)

    line: int
    user: str
    share: bool | None = None
    licence: str | None = None


def read_user_list(path: Path) -> list[UserLine]:
    """The users of a file, each once, in its order.

    A line is a user's name, or a JSON object in a file that begins with "{", or a row in a .csv file or below a header
    with the column `user`. Objects and rows may have `share` (true or false) and `licence`.

    Args:
        path: the file; "-" for stdin.

    Raises:
        DataError: it cannot be read, or some lines are wrong: the message names them.
    """
    name = "stdin" if path == STDIN else str(path)
    listed: dict[str, UserLine] = {}
    wrong: list[str] = []
    for line, row in _rows(_text(path, name), path.suffix.lower()):
        try:
            one = _user_line(line, row)
        except ValueError as error:
            wrong.append(f"line {line}: {error}")
            continue
        first = listed.setdefault(one.user, one)
        if (first.share, first.licence) != (one.share, one.licence):
            wrong.append(f"line {line}: something else than line {first.line} says of the same user")
    if wrong:
        more = f"; and {len(wrong) - _NAMED:,} more" if len(wrong) > _NAMED else ""
        raise DataError(
            f"The list of users in {name} is wrong in {len(wrong):,} lines; nothing was changed",
            got="; ".join(wrong[:_NAMED]) + more,
            expected='a user a line; or objects {"user": ..., "share": true, "licence": ...}; or CSV with such columns',
        )
    if not listed:
        raise DataError(f"The list of users in {name} is empty", expected="a user a line")
    return list(listed.values())


def _text(path: Path, name: str) -> str:
    try:
        content = sys.stdin.buffer.read() if path == STDIN else read_regular(path, DOCUMENT_BYTES)
        return content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"The list of users in {name} cannot be read", got=error.strerror or error) from None
    except UnicodeDecodeError as error:
        got = f"another byte at {error.start:,}"
        raise DataError(f"The list of users in {name} is not UTF-8", got=got, hint="save it as UTF-8") from None


def _rows(text: str, suffix: str) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Lines with their numbers: as keys and values, or as the error in them."""
    first = text.lstrip().split("\n", 1)[0].rstrip("\r")
    columns = {one.strip() for one in next(csv.reader([first]), [])}
    if not first.startswith("{") and (suffix == ".csv" or ("user" in columns and columns <= set(_KEYS))):
        yield from _csv_rows(text)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        row: object = {"user": line.strip()}
        if first.startswith("{"):
            with suppress(ValueError, RecursionError):
                row = None
                row = json.loads(line)
        yield number, row if isinstance(row, dict) else "not a JSON object"


def _csv_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    columns: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = [one.strip() for one in cells]
                if "user" not in columns:
                    yield reader.line_num, "a header without a column `user`"
                    return
            elif len(cells) != len(columns):
                yield reader.line_num, f"{len(cells)} cells under {len(columns)} columns"
            else:
                row = {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
                yield reader.line_num, {name: cell for name, cell in row.items() if cell or name == "user"}
    except csv.Error as error:
        yield reader.line_num, f"no CSV: {error}"


def _user_line(line: int, row: Mapping[str, Any] | str) -> UserLine:
    """A row as a listed user; a ValueError says what is wrong with it."""
    if isinstance(row, str):
        raise ValueError(row)
    if unknown := sorted(row.keys() - set(_KEYS)):
        raise ValueError(f"an unknown key {unknown[0]!r}")
    user, share, licence = (row.get(key) for key in _KEYS)
    if isinstance(share, str):
        share = _WORDS.get(share.strip().lower(), share)
    if not isinstance(user, str) or not user or user != user.strip():
        raise ValueError("no user's name, or one with blanks around it")
    if not isinstance(share, bool | None):
        raise ValueError("a `share` that is neither true nor false")
    if not isinstance(licence, str | None) or (licence is not None and not licence.strip()):
        raise ValueError("an empty licence, or one that is no text")
    if licence is not None and share is False:
        raise ValueError("a licence for a user who does not share")
    return UserLine(line=line, user=user, share=share, licence=licence)
