"""What all requests of one server have in common."""

from dataclasses import dataclass
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request

from ownlm.home import Home
from ownlm.serve.engine import Engine
from ownlm.serve.forgetting import Forgetting
from ownlm.serve.jobs import Jobs
from ownlm.serve.limits import Limits, Meter
from ownlm.serve.metrics import Metrics


@dataclass(frozen=True, slots=True)
class State:
    """A server: its home, and what works for it.

    Attributes:
        readers: threads that look things up. Requests that change the home may all wait for each other in threads of
            their own.
        binders: threads that make prompts, for which a long history may be searched.
    """

    home: Home
    engine: Engine
    jobs: Jobs
    forgetting: Forgetting
    limits: Limits
    meter: Meter
    metrics: Metrics
    readers: CapacityLimiter
    binders: CapacityLimiter


async def _state_of(request: Request) -> State:  # a coroutine, as FastAPI runs else in threads that may all wait
    state: State = request.app.state.ownlm
    return state


AnyState = Annotated[State, Depends(_state_of)]
