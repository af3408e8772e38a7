"""What training, writing profiles and asking came to."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ownlm.errors import OwnlmError
from ownlm.history.record import Query
from ownlm.store.rows import AdapterInfo, ProfileInfo

if TYPE_CHECKING:
    from ownlm.verbs.histories import Added


@dataclass(slots=True)
class Training:
    """What `train` did, so far."""

    trained: list[AdapterInfo] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)  # person, why
    failed: list[tuple[str, OwnlmError]] = field(default_factory=list)
    anew: list[str] = field(default_factory=list)  # people whose last adapter had other settings
    tokens_per_s: float = 0.0
    added: "Added | None" = None  # what the data given with it added


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
