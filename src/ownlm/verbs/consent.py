"""Whether a person shares pieces of their adapters: told, given, taken back."""

from dataclasses import dataclass

from ownlm.store.pools import check_known, consent_of, give_consent, sharers_of, take_back_consent
from ownlm.store.store import Store
from ownlm.verbs.waiting import pools_naming

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
