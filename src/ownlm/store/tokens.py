"""Access tokens for a server. A token is shown once, when it is created; the home stores its hash only.

A token is 256 random bits: too many to guess, so a plain hash is enough.
"""

import hashlib
import re
import secrets
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict, computed_field
from sqlalchemy import Connection, delete, insert, select

from ownlm.errors import ConfigError, NotFoundError
from ownlm.history.values import as_user
from ownlm.store import tables
from ownlm.store.rows import now
from ownlm.store.store import Store
from ownlm.store.tables import in_batches

PREFIX = "own_"  # scanners for leaked secrets recognise it
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


class TokenInfo(BaseModel):
    """A token's public data: it gives a user access to their own data, or an operator (no user) to the server.

    Attributes:
        id: public name of the token.
        created: time of creation, as ISO 8601 in UTC.
        expires: end of its validity, as ISO 8601 in UTC; None for never.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    user: str | None
    created: str
    expires: str | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def scope(self) -> str:
        """ "user" or "operator"."""
        return "operator" if self.user is None else "user"

    @computed_field  # type: ignore[prop-decorator]
    @property
    def expired(self) -> bool:
        """Whether its lifetime is over."""
        return self.expires is not None and datetime.fromisoformat(self.expires) <= datetime.now(UTC)


_COLUMNS = [tables.tokens.c[name] for name in TokenInfo.model_fields]


class Given(BaseModel):
    """A new token and its secret, which is shown once."""

    model_config = ConfigDict(frozen=True)

    info: TokenInfo
    secret: str


def give_token(store: Store, user: str | None, expires: datetime | None = None) -> tuple[TokenInfo, str]:
    """A new token for a user, who need not have data yet; None stands for an operator.

    Args:
        expires: end of its validity; None for never.

    Returns:
        What the home stores of it, and the token itself.

    Raises:
        ConfigError: the user name is invalid. StoreError: the home cannot be written.
    """
    (given,) = give_tokens(store, [user], expires)
    return given.info, given.secret


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
        deliver: saves the tokens before the transaction is committed; if it fails, no token is created.

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
    infos = [TokenInfo(id=secrets.token_hex(8), user=user, created=now(), expires=end) for user in users]
    given = [Given(info=info, secret=PREFIX + secrets.token_urlsafe(32)) for info in infos]
    if not given:
        return given
    with store.database.writing() as db:
        if replace:
            _revoke_of(db, [user for user in users if user is not None])
        own = set(TokenInfo.model_fields)
        rows = [one.info.model_dump(include=own) | {"hash": _hash(one.secret)} for one in given]
        db.execute(insert(tables.tokens), rows)
        deliver(given)
    return given


def expiry_of(text: str) -> datetime:
    """The end of a lifetime such as "12h", "30d", "8w", or an ISO 8601 date or time; in UTC unless it names a zone.

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
        raise ConfigError("Invalid lifetime of a token", got=repr(text[:40]), expected=expected) from None
    if end <= start:
        raise ConfigError("The token would have expired already", got=repr(text), expected=expected)
    return end


def find_token(store: Store, token: str) -> TokenInfo | None:
    """The stored token with this secret, expired ones included; None where it is unknown or was revoked."""
    row = store.database.first(select(*_COLUMNS).where(tables.tokens.c.hash == _hash(token)))
    return None if row is None else TokenInfo(**row._mapping)


def tokens(store: Store, user: str | None = None) -> list[TokenInfo]:
    """All tokens, or those of a user, oldest first."""
    t = tables.tokens.c
    query = select(*_COLUMNS).order_by(t.created, t.id)
    rows = store.database.rows(query if user is None else query.where(t.user == user))
    return [TokenInfo(**row._mapping) for row in rows]


def revoke_token(store: Store, beginning: str) -> TokenInfo:
    """Revokes the token with this beginning of an id.

    Raises:
        NotFoundError: no token matches, or several do.
    """
    found = [one for one in tokens(store) if beginning and one.id.startswith(beginning)]
    if len(found) != 1:
        what = f"{len(found)} tokens' ids begin with {beginning!r}" if found else f"There is no token {beginning!r}"
        raise NotFoundError(what, hint="list the tokens with their ids", command="ownlm users token --list")
    with store.database.writing() as db:
        db.execute(delete(tables.tokens).where(tables.tokens.c.id == found[0].id))
    return found[0]


def revoke_tokens(store: Store, users: Collection[str]) -> list[TokenInfo]:
    """Revokes all tokens of these users in one transaction; returns them."""
    with store.database.writing() as db:
        return _revoke_of(db, users)


def _revoke_of(db: Connection, users: Collection[str]) -> list[TokenInfo]:
    t, revoked = tables.tokens.c, list[TokenInfo]()
    for part in in_batches(users):
        mine = t.user.in_(part)
        rows = db.execute(select(*_COLUMNS).where(mine).order_by(t.created, t.id))
        revoked += [TokenInfo(**row._mapping) for row in rows]
        db.execute(delete(tables.tokens).where(mine))
    return revoked


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf8", "replace")).hexdigest()
