"""Authentication: bearer tokens in the `Authorization` header, and the FastAPI dependencies that need them.

Unknown tokens, revoked tokens and tokens of deleted users get the same error. Only the
holder of a token learns that it has expired.
"""

from dataclasses import dataclass
from typing import Annotated

from anyio import to_thread
from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from starlette.datastructures import Headers
from starlette.types import Scope

from ownlm.errors import AccessError, ForbiddenError, NotFoundError
from ownlm.server.http.connections import CALLER
from ownlm.server.state import State
from ownlm.store.tokens import TokenInfo, find_token

_bearer = HTTPBearer(auto_error=False, description="A token, as `ownlm users token USER` gives it.")


@dataclass(frozen=True, slots=True)
class Caller:
    """Sender of a request.

    Attributes:
        token: What the home knows of the token.
        secret: The token itself, for later checks that it is still valid. Never shown.
    """

    token: TokenInfo
    secret: str

    @property
    def is_operator(self) -> bool:
        """Whether the token may be used for all users."""
        return self.token.user is None

    def check_still_there(self, state: State) -> None:
        """Raises an AccessError where the token has expired, was revoked, or its user was deleted."""
        if find_token(state.home.store, self.secret) != self.token:
            raise _invalid_token()
        if self.token.expired:
            raise _expired_token()


async def authorise(scope: Scope, state: State) -> Caller:
    """Finds the caller of a request, before its body is read, and keeps it in the scope.

    Raises:
        AccessError: The token is missing, unknown or expired.
        Busy: The token has sent too many requests.
    """
    scheme, secret = get_authorization_scheme_param(Headers(scope=scope).get("authorization"))
    if scheme.lower() != "bearer" or not secret:
        raise _invalid_token()
    token = await to_thread.run_sync(find_token, state.home.store, secret, limiter=state.readers)
    if token is None:
        raise _invalid_token()
    if token.expired:
        raise _expired_token()
    state.meter.count(token.id, operator=token.user is None)
    caller = Caller(token, secret)
    scope.setdefault("state", {})[CALLER] = caller  # copies of a scope share its state
    return caller


async def _caller(request: Request, _: Annotated[object, Depends(_bearer)]) -> Caller:
    caller: Caller | None = request.scope.get("state", {}).get(CALLER)
    if caller is None:
        raise _invalid_token()
    return caller


CurrentCaller = Annotated[Caller, Depends(_caller)]


async def _operator(caller: CurrentCaller) -> Caller:
    if not caller.is_operator:
        raise ForbiddenError("This is for operators", hint="send an operator's token")
    return caller


async def _user(caller: CurrentCaller) -> str:
    if caller.token.user is None:
        raise NotFoundError("An operator's token belongs to no user", hint="send the token of a user")
    return caller.token.user


Operator = Annotated[Caller, Depends(_operator)]
CurrentUser = Annotated[str, Depends(_user)]


def _invalid_token() -> AccessError:
    return AccessError("Missing or invalid token", hint="send `Authorization: Bearer TOKEN`")


def _expired_token() -> AccessError:
    return AccessError("The token has expired", hint="ask whoever runs the server for a new one")
