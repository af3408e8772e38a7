"""Tokens: who may ask a server. A token is shown once, when it is given; the home keeps its hash alone.

A token is 256 random bits, so that a plain hash is enough: nobody can guess one, and equal ones are never given.
"""

import hashlib
import re
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete, insert, select

from ownlm.errors import ConfigError, NotFoundError
from ownlm.history.values import as_user
from ownlm.store import tables
from ownlm.store.rows import TokenInfo
from ownlm.store.store import Store

PREFIX = "own_"  # so that a scanner for leaked secrets knows one
BATCH = 10_000  # users of one query
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def give_token(store: Store, user: str | None, expires: datetime | None = None) -> tuple[TokenInfo, str]:
    """A new token of a person, known to the home or not yet; or, with None, of an operator.

    Args:
        expires: from when on it is refused; None for never.

    Returns:
        What the home keeps of it, and the token itself.

    Raises:
        ConfigError: the name is empty, has blanks around it, or is no user id that `as_user` reads. StoreError: the
            home cannot be written.
    """
    (given,) = give_tokens(store, [user], expires)
    return given.info, given.secret


@dataclass(frozen=True, slots=True)
class Given:
    """A new token, and the secret that is shown once."""

    info: TokenInfo
    secret: str


def give_tokens(
    store: Store,
    users: Sequence[str | None],
    expires: datetime | None = None,
    *,
    replace: bool = False,
    deliver: Callable[[list[Given]], None] = lambda given: None,
) -> list[Given]:
    """A new token for each user, all in one transaction.

    Args:
        users: as for `give_token`.
        replace: revoke the users' earlier tokens in the same transaction.
        deliver: writes the tokens down; where it fails, none is given.

    Raises:
        ConfigError, StoreError: as `give_token`; nothing was changed.
    """
    if any(user is not None and (not user or user != user.strip()) for user in users):
        raise ConfigError("Invalid user name", got="an empty name, or one with blanks around it")
    for user in users:
        try:
            _ = None if user is None else as_user(user)
        except ValueError as error:
            raise ConfigError(f"Invalid user name: it {error}", hint="give another name") from None
    end = None if expires is None else expires.astimezone(UTC).isoformat(timespec="seconds")
    given = [
        Given(TokenInfo(secrets.token_hex(8), user, expires=end), PREFIX + secrets.token_urlsafe(32)) for user in users
    ]
    if not given:
        return given
    with store.database.writing() as db:
        if replace:
            _revoke_of(db, [user for user in users if user is not None])
        db.execute(insert(tables.tokens), [asdict(one.info) | {"hash": _hash(one.secret)} for one in given])
        deliver(given)
    return given


def expiry_of(text: str) -> datetime:
    """The end of a lifetime given as "12h", "30d", "8w", or as a date or time in ISO 8601; UTC where no zone is named.

    Raises:
        ConfigError: it is none of these, or not in the future.
    """
    expected, start = "a lifetime such as 12h, 30d or 8w, or a later date such as 2030-01-31", datetime.now(UTC)
    try:
        if match := re.fullmatch(r"([0-9]{1,6})([hdw])", text):
            end = start + timedelta(**{_UNITS[match[2]]: int(match[1])})
        else:
            given = datetime.fromisoformat(text)
            end = given.astimezone(UTC) if given.tzinfo else given.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ConfigError("The lifetime of a token cannot be read", got=repr(text[:40]), expected=expected) from None
    if end <= start:
        raise ConfigError("The token would have expired already", got=repr(text), expected=expected)
    return end


def find_token(store: Store, token: str) -> TokenInfo | None:
    """Whose a token is; None of one that was never given, was revoked, or whose user was forgotten.

    One that has expired is found: its `expired` says so.
    """
    t = tables.tokens.c
    query = select(t.id, t.user, t.created, t.expires).where(t.hash == _hash(token))
    with store.database.reading() as db:
        row = db.execute(query).first()
    return None if row is None else TokenInfo(**row._mapping)


def tokens(store: Store, user: str | None = None) -> list[TokenInfo]:
    """All tokens, or a person's, oldest first."""
    t = tables.tokens.c
    query = select(t.id, t.user, t.created, t.expires).order_by(t.created, t.id)
    with store.database.reading() as db:
        return [TokenInfo(**row._mapping) for row in db.execute(query if user is None else query.where(t.user == user))]


def revoke_token(store: Store, beginning: str) -> TokenInfo:
    """Makes the token whose id begins so worth nothing, from now on.

    Raises:
        NotFoundError: there is none, or there are several.
    """
    found = [one for one in tokens(store) if beginning and one.id.startswith(beginning)]
    if len(found) != 1:
        what = f"{len(found)} tokens' ids begin with {beginning!r}" if found else f"There is no token {beginning!r}"
        raise NotFoundError(what, hint="`ownlm users token --list` shows their ids")
    with store.database.writing() as db:
        db.execute(delete(tables.tokens).where(tables.tokens.c.id == found[0].id))
    return found[0]


def revoke_tokens(store: Store, users: Collection[str]) -> list[TokenInfo]:
    """Makes all tokens of these users worth nothing, in one transaction; returns what the home kept of them."""
    with store.database.writing() as db:
        return _revoke_of(db, users)


def _revoke_of(db: Connection, users: Collection[str]) -> list[TokenInfo]:
    t, wanted, revoked = tables.tokens.c, list(dict.fromkeys(users)), list[TokenInfo]()
    for at in range(0, len(wanted), BATCH):
        mine = t.user.in_(wanted[at : at + BATCH])
        rows = db.execute(select(t.id, t.user, t.created, t.expires).where(mine).order_by(t.created, t.id))
        revoked += [TokenInfo(**row._mapping) for row in rows]
        db.execute(delete(tables.tokens).where(mine))
    return revoked


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf8", "replace")).hexdigest()
