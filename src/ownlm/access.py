"""Consents and tokens of a home's users, one or many at once."""

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ownlm.store.consents import LICENCE, Changed, Consent, change_consents, consents_of
from ownlm.store.rows import TokenInfo
from ownlm.store.tokens import Given, give_tokens, revoke_token, revoke_tokens, tokens
from ownlm.workflows.user_list import ListedUser, read_user_list

if TYPE_CHECKING:
    from ownlm.home import Home


class Access:
    """Who shares, and who may ask a server: `home.access`."""

    def __init__(self, home: "Home") -> None:
        self._home = home

    def read_users(self, path: str | Path) -> list[ListedUser]:
        """The users that a file lists: a name a line, JSON Lines or CSV; "-" reads stdin.

        Raises:
            DataError: the file cannot be read; or lines are wrong, all of which are named.
        """
        return read_user_list(Path(path))

    def consents(self, users: Collection[str]) -> list[Consent]:
        """Whether these users share, in their order; a NotFoundError that names who is unknown."""
        return consents_of(self._home.store, users)

    def change_consents(self, give: Mapping[str, str] | Iterable[str] = (), withdraw: Collection[str] = ()) -> Changed:
        """Gives and withdraws the consents of many users: all in one transaction, or none.

        Args:
            give: licences by user; or users, who share under CC-BY-4.0.

        Raises:
            NotFoundError: some users are unknown, all of whom it has in `unknown`. ConfigError: a licence is empty.
        """
        licences = dict(give) if isinstance(give, Mapping) else dict.fromkeys(give, LICENCE)
        return change_consents(self._home.store, licences, withdraw)

    def tokens(self, user: str | None = None) -> list[TokenInfo]:
        """All tokens, or those of a user, oldest first."""
        return tokens(self._home.store, user)

    def give_tokens(
        self,
        users: Iterable[str | None],
        *,
        expires: datetime | None = None,
        replace: bool = False,
        deliver: Callable[[list[Given]], None] = lambda given: None,
    ) -> list[Given]:
        """A new token for each of these users, known to the home or not; None is an operator.

        Args:
            expires: from when on they are refused; None for never.
            replace: revoke the users' earlier tokens in the same transaction.
            deliver: writes the tokens down before they are valid; where it fails, none is given.

        Raises:
            ConfigError: a name is empty, or has blanks around it; nothing was changed.
        """
        return give_tokens(self._home.store, list(users), expires, replace=replace, deliver=deliver)

    def revoke_token(self, beginning: str) -> TokenInfo:
        """Revokes the token whose id begins so; a NotFoundError where there is none, or several."""
        return revoke_token(self._home.store, beginning)

    def revoke_tokens(self, users: Collection[str]) -> list[TokenInfo]:
        """Revokes all tokens of these users, and returns them; a user without a token is no error."""
        return revoke_tokens(self._home.store, users)
