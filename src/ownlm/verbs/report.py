"""What training, writing profiles and asking came to."""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from ownlm.errors import OwnlmError
from ownlm.history.record import Query
from ownlm.store.rows import AdapterInfo, ProfileInfo

if TYPE_CHECKING:
    from ownlm.verbs.histories import Added


@dataclass(frozen=True, slots=True)
class Trained:
    """An adapter that was trained and is kept, in short: of these there may be very many."""

    user: str
    id: str
    parent: str | None
    method: str
    records: int
    steps: int
    tokens: int
    loss_first: float
    loss_last: float
    seconds: float
    bytes: int

    @classmethod
    def of(cls, adapter: AdapterInfo) -> "Trained":
        """What a report keeps of an adapter."""
        return cls(**{field.name: getattr(adapter, field.name) for field in fields(cls)})


@dataclass(slots=True)
class Training:
    """What `train` did, so far."""

    trained: list[Trained] = field(default_factory=list)  # in the order they were stored
    skipped: list[tuple[str, str]] = field(default_factory=list)  # person, why
    failed: list[tuple[str, OwnlmError]] = field(default_factory=list)
    anew: list[str] = field(default_factory=list)  # people whose last adapter had other settings
    tokens_per_s: float = 0.0
    added: "Added | None" = None  # what the data given with it added


@dataclass(slots=True)
class Estimate:
    """What `train` would do and take.

    Attributes:
        people: who would get an adapter.
        examples, tokens, steps: of all of them; tokens as they go through the model, over all epochs.
        seconds: of reading their records and training, as fast as both went just now; about.
        bytes: of the adapters.
        memory_bytes: of the base and training at their peak, beside Python and its libraries; about.
        slots, tokens_per_step: as `train` would choose them, or as given.
        sampled: how many people's examples were counted, where they stand for the rest; None where everybody's were.
    """

    people: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)  # person, why
    failed: list[tuple[str, OwnlmError]] = field(default_factory=list)  # of those whose examples were counted
    examples: int = 0
    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    bytes: int = 0
    memory_bytes: int = 0
    slots: int = 0
    tokens_per_step: int = 0
    sampled: int | None = None


@dataclass(slots=True)
class Profiles:
    """What `profile` did, so far."""

    written: list[tuple[ProfileInfo, int]] = field(default_factory=list)  # and from how many records
    skipped: list[tuple[str, str]] = field(default_factory=list)  # person, why
    failed: list[tuple[str, OwnlmError]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person's own model, or the base alone, said to a query; or why it said nothing."""

    query: Query
    answer: str | None = None
    adapter: str | None = None
    base: str | None = None
    retrieved: tuple[str, ...] = ()
    error: OwnlmError | None = None
