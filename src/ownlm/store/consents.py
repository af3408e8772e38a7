"""Consent to share pieces of adapters: given and withdrawn, for one user or many in one transaction."""

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, Row, delete, insert, select

from ownlm.errors import ConfigError, NotFoundError
from ownlm.store import tables
from ownlm.store.database import alone
from ownlm.store.drafts import drop
from ownlm.store.pools import sweep
from ownlm.store.records import unknown_user_in
from ownlm.store.rows import now
from ownlm.store.store import Store
from ownlm.store.tables import in_batches
from ownlm.store.withdrawals import mark_waiting, sharers_in

LICENCE = "CC-BY-4.0"

_TABLES = (tables.records, tables.adapters, tables.profiles, tables.consents, tables.sharers)  # with users' names
_NAMED = 20  # unknown users named in a message; the rest is counted


class Consent(BaseModel):
    """Whether a user agrees to share.

    Attributes:
        licence: licence of the shared pieces; None where the user does not share.
        since: time of the consent; None where the user does not share.
        pools: digests of this home's pools with pieces of the user, with consent or without.
    """

    model_config = ConfigDict(frozen=True)

    user: str
    shares: bool
    licence: str | None = None
    since: str | None = None
    pools: tuple[str, ...] = ()


class Changed(BaseModel):
    """Numbers of consents given, withdrawn, and unchanged."""

    model_config = ConfigDict(frozen=True)

    given: int = 0
    withdrawn: int = 0
    unchanged: int = 0


def change_consents(store: Store, give: Mapping[str, str], withdraw: Collection[str]) -> Changed:
    """Gives and withdraws the consents of many users: all in one transaction, or none.

    Pieces of a user who does not share stay in a pool until they are withdrawn. No recipe of such a pool is used until
    then.

    Args:
        give: licences by user, each a name or a text that is stored as given.
        withdraw: users who do not share, or no longer. Their drafts are removed.

    Raises:
        NotFoundError: the home does not know some of them; nothing was changed.
        ConfigError: a licence is empty; nothing was changed.
    """
    if not all(licence.strip() for licence in give.values()):
        raise ConfigError("The licence is empty", expected="a name, such as CC-BY-4.0, or a text")
    users, c = list(dict.fromkeys([*give, *withdraw])), tables.consents.c
    with store.database.writing() as db:
        check_all_known(db, users)
        before = _agreed(db, users)
        changed = [user for user in give if user not in before or before[user].licence != give[user]]
        ended = [user for user in withdraw if user in before]
        for part in in_batches([*changed, *ended]):
            db.execute(delete(tables.consents).where(c.user.in_(part)))
        if changed:
            rows = [{"user": user, "licence": give[user], "created": now()} for user in changed]
            db.execute(insert(tables.consents), rows)
        for user in withdraw:
            drop(db, user)
        mark_waiting(db)
    if withdraw:
        store.sweep()  # even if there was none: a stopped command is given again
        with alone(store.folder) as idle:
            if idle:  # else the pool that is being made does without them
                sweep(store)
    unchanged = len(users) - len(changed) - len(ended)
    return Changed(given=len(changed), withdrawn=len(ended), unchanged=unchanged)


def set_consent(store: Store, user: str, share: bool | None, licence: str) -> Consent:
    """Gives consent, withdraws it, or does neither (None); and returns how it stands.

    Raises:
        NotFoundError: the home does not know the user. ConfigError: the licence is empty.
    """
    if share is not None:
        change_consents(store, {user: licence} if share else {}, [] if share else [user])
    return consents_of(store, [user])[0]


def consents_of(store: Store, users: Collection[str]) -> list[Consent]:
    """How the consents of many users stand, in their order.

    Raises:
        NotFoundError: the home does not know some of them.
    """
    s, ids = tables.sharers.c, dict[str, set[str]]()
    with store.database.reading() as db:
        check_all_known(db, users)
        agreed = _agreed(db, users)
        for part in in_batches(users):
            for user, sharer in db.execute(select(s.user, s.id).where(s.user.in_(part))):
                ids.setdefault(user, set()).add(sharer)
        pools = sharers_in(db) if ids else {}
    found = []
    for user in users:
        own = tuple(digest for digest, sharers in pools.items() if sharers & ids.get(user, set()))
        how = {"licence": agreed[user].licence, "since": agreed[user].created} if user in agreed else {}
        found.append(Consent(user=user, shares=user in agreed, **how, pools=own))
    return found


def check_known(store: Store, user: str) -> None:
    """Raises a NotFoundError where the home does not know a user."""
    with store.database.reading() as db:
        check_all_known(db, [user])


def check_all_known(db: Connection, users: Collection[str]) -> None:
    """Raises a NotFoundError that names the users whom the home does not know."""
    known = set[str]()
    for part in in_batches(users):
        for table in _TABLES:
            known |= set(db.execute(select(table.c.user).where(table.c.user.in_(part)).distinct()).scalars())
    if unknown := [user for user in users if user not in known]:
        if len(users) == 1:
            raise unknown_user_in(db, unknown[0])
        raise UnknownUsersError(unknown, len(users))


class UnknownUsersError(NotFoundError):
    """Some of the users named are not in the home.

    Args:
        unknown: all of them.
        asked: number of users named.
    """

    def __init__(self, unknown: Collection[str], asked: int) -> None:
        self.unknown = list(unknown)
        named = ", ".join(map(repr, self.unknown[:_NAMED]))
        more = f" and {len(self.unknown) - _NAMED:,} more" if len(self.unknown) > _NAMED else ""
        super().__init__(
            f"The home does not know {len(self.unknown):,} of the {asked:,} users; nothing was changed",
            got=named + more,
            hint="take the unknown ones out, or look up their names",
            command="ownlm users ls --contains TEXT",
        )

    def as_dict(self) -> dict[str, str | None]:
        """The error's parts, with all unknown users."""
        return super().as_dict() | {"got": ", ".join(map(repr, self.unknown))}


def _agreed(db: Connection, users: Collection[str]) -> dict[str, Row[Any]]:
    """The rows of those of these users who agree to share."""
    query, user = select(tables.consents), tables.consents.c.user
    return {row.user: row for part in in_batches(users) for row in db.execute(query.where(user.in_(part)))}
