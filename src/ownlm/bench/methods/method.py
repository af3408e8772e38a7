"""The declaration of a benchmark's method, and the types of its settings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from ownlm.bench.case import Case
from ownlm.bench.results import Costs
from ownlm.history.record import Query
from ownlm.history.task import Task
from ownlm.home import Home

Records = Annotated[int, Field(ge=0)]  # number of records that a prompt shows
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Made:
    """A method that is ready to answer.

    Attributes:
        answer: Gives the answers to queries in order, one by one, so that a killed run keeps those it has.
        costs: Costs of training and assembly.
    """

    answer: Callable[[Sequence[Query]], Iterator[str]]
    costs: Costs


def asking(
    case: Case, home: Home, costs: Costs, *, rag: int = 0, profile: bool = False, base_only: bool = False
) -> Made:
    """A method that asks each user's newest adapter in a home, or its base alone; arguments as for `Case.ask`."""
    case.loaded(home)
    return Made(lambda queries: case.ask(home, queries, rag=rag, profile=profile, base_only=base_only), costs)


def _no_check(given: Mapping[str, Any], task: Task | None) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Method:
    """A method that plans can name.

    Attributes:
        name: Name in plans.
        make: Makes the method of a case. Its keyword arguments are the method's settings.
        check: Raises a ConfigError where settings do not go together, or not with a task.
        labels: Whether it needs a task with labels.
        options: Whether it applies to tasks that show options in their queries.
        learns: Whether it learns from records with answers, or from adapters that do.
        model: Whether a model writes its answers.
        stage_1: Whether it uses the adapted base.
        pool: Whether it needs a pool of sharers' pieces.
    """

    name: str
    make: Callable[..., Made]
    check: Callable[[Mapping[str, Any], Task | None], None] = _no_check
    labels: bool = False
    options: bool = True
    learns: bool = False
    model: bool = True
    stage_1: bool = True
    pool: bool = False
