"""Whether a person shares pieces of their adapters: told, given, taken back."""

from collections.abc import Collection
from dataclasses import dataclass

from ownlm.store.consents import check_all_known, give_consent, take_back_consent
from ownlm.store.pools import check_known, consent_of, consents, people_of, pools, sharers_of
from ownlm.store.store import Store
from ownlm.workflows.waiting import named_in, pools_naming

LICENCE = "CC-BY-4.0"


@dataclass(frozen=True, slots=True)
class Consent:
    """Whether a person agrees to share, under which licence and since when; and where pieces of theirs lie.

    Attributes:
        pools: digests of the pools of this home that hold pieces of theirs, agreed to or not.
    """

    user: str
    shares: bool
    licence: str | None = None
    since: str | None = None
    pools: tuple[str, ...] = ()


def consent(store: Store, user: str, share: bool | None, licence: str) -> Consent:
    """Gives consent, or takes it back, or does neither (None); and tells how it stands."""
    if share is None:
        check_known(store, user)
    elif share:
        give_consent(store, user, licence)
    else:
        take_back_consent(store, user)
    pools = pools_naming(store, [sharer for sharer, _ in sharers_of(store, user)])
    given = consent_of(store, user)
    return Consent(user, False, pools=pools) if given is None else Consent(user, True, *given, pools=pools)


def consents_of(store: Store, users: Collection[str]) -> list[Consent]:
    """How the consents of many users stand, in their order.

    Raises:
        NotFoundError: the home does not know some of them.
    """
    with store.database.reading() as db:
        check_all_known(db, users)
    given, ids = consents(store), dict[str, list[str]]()
    for sharer, user in people_of(store).items():
        ids.setdefault(user, []).append(sharer)
    named = [(info.digest, named_in(store, info)) for info in pools(store)]
    told = []
    for user in users:
        mine = tuple(digest for digest, sharers in named if not sharers.isdisjoint(ids.get(user, ())))
        agreed = given.get(user)
        told.append(Consent(user, False, pools=mine) if agreed is None else Consent(user, True, *agreed, pools=mine))
    return told
