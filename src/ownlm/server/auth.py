"""Who asks: a token in the `Authorization` header says it.

From outside, a token that was never given, one that was revoked, and one of a person who was forgotten look the same;
that one has expired is said to those who have it.
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
from ownlm.store.rows import TokenInfo
from ownlm.store.tokens import find_token

_bearer = HTTPBearer(auto_error=False, description="A token, as `ownlm users token USER` gives it.")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as their token says.

    Attributes:
        secret: the token itself, to see later whether it is still worth something; it is shown nowhere.
    """

    token: TokenInfo
    secret: str

    @property
    def is_operator(self) -> bool:
        """Whether they may ask for everybody."""
        return self.token.user is None

    def check_still_there(self, state: State) -> None:
        """Raises an AccessError where the token has expired, was revoked, or its user forgotten since."""
        if find_token(state.home.store, self.secret) != self.token:
            raise _nobody()
        if self.token.expired:
            raise _expired()


async def authorise(scope: Scope, state: State) -> Caller:
    """Finds out who sends a request, before its body is read, and keeps it in the request's scope.

    Raises:
        AccessError: the token is missing, unknown or expired. Busy: it asked too often.
    """
    scheme, secret = get_authorization_scheme_param(Headers(scope=scope).get("authorization"))
    if scheme.lower() != "bearer" or not secret:
        raise _nobody()
    found = await to_thread.run_sync(find_token, state.home.store, secret, limiter=state.readers)
    if found is None:
        raise _nobody()
    if found.expired:
        raise _expired()
    state.meter.count(found.id, operator=found.user is None)
    scope.setdefault("state", {})[CALLER] = Caller(found, secret)  # copies of a scope share its state
    return Caller(found, secret)


async def caller(request: Request, _: Annotated[object, Depends(_bearer)]) -> Caller:
    """Who asks, as `authorise` found out; an AccessError where it was not asked to."""
    found: Caller | None = request.scope.get("state", {}).get(CALLER)
    if found is None:
        raise _nobody()
    return found


async def operator(caller: Annotated[Caller, Depends(caller)]) -> Caller:
    """Who asks, an operator; else a ForbiddenError."""
    if not caller.is_operator:
        raise ForbiddenError("This is for operators", hint="send an operator's token")
    return caller


async def me(caller: Annotated[Caller, Depends(caller)]) -> str:
    """The person who asks about themselves.

    Raises:
        NotFoundError: it is an operator, who is nobody in particular.
    """
    if caller.token.user is None:
        raise NotFoundError("An operator's token belongs to no person", hint="ask with a person's own token")
    return caller.token.user


def _nobody() -> AccessError:
    return AccessError("The token is missing, or worth nothing", hint="send `Authorization: Bearer TOKEN`")


def _expired() -> AccessError:
    return AccessError("The token has expired", hint="ask whoever runs the server for a new one")


AnyCaller = Annotated[Caller, Depends(caller)]
Operator = Annotated[Caller, Depends(operator)]
Me = Annotated[str, Depends(me)]
