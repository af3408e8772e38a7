"""What all requests of one server have in common."""

from dataclasses import dataclass

from anyio import CapacityLimiter
from fastapi import Request

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
        readers: threads that look things up for answers. Requests that change the home may all wait for each other in
            threads of their own.
    """

    home: Home
    engine: Engine
    jobs: Jobs
    forgetting: Forgetting
    limits: Limits
    meter: Meter
    metrics: Metrics
    readers: CapacityLimiter


def state_of(request: Request) -> State:
    """The server that a request came to."""
    state: State = request.app.state.ownlm
    return state
