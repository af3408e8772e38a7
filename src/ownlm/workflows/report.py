"""What training, writing profiles and asking came to."""

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal

from ownlm.errors import OwnlmError
from ownlm.history.record import Query
from ownlm.store.rows import AdapterInfo, PoolInfo, ProfileInfo
from ownlm.workflows.standing import Verdict, worth_of

if TYPE_CHECKING:
    from ownlm.workflows.histories import Added


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
    verdict: Verdict | None  # see `Worth`

    @classmethod
    def of(cls, adapter: AdapterInfo) -> "Trained":
        """What a report keeps of an adapter."""
        own = {one.name: getattr(adapter, one.name) for one in fields(cls) if one.name != "verdict"}
        return cls(**own, verdict=worth_of(adapter).verdict)


@dataclass(slots=True)
class Training:
    """What `train` did, so far."""

    trained: list[Trained] = field(default_factory=list)  # in the order they were stored
    skipped: list[tuple[str, str]] = field(default_factory=list)  # person, why
    failed: list[tuple[str, OwnlmError]] = field(default_factory=list)
    not_chosen: Counter[str] = field(default_factory=Counter)  # users outside `top` and `min_records`, by reason
    anew: list[str] = field(default_factory=list)  # people whose last adapter had other settings
    tokens_per_s: float = 0.0
    added: "Added | None" = None  # what the data given with it added
    resumed: int = 0  # users who continued from a checkpoint of an interrupted run
    checkpointed: int = 0  # users in flight who have a checkpoint
    notes: list[str] = field(default_factory=list)  # what went otherwise with checkpoints, a sentence each


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
        added: counts of the file that was given; None without a file.
    """

    people: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)  # person, why
    failed: list[tuple[str, OwnlmError]] = field(default_factory=list)  # of those whose examples were counted
    not_chosen: Counter[str] = field(default_factory=Counter)  # users outside `top` and `min_records`, by reason
    examples: int = 0
    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    bytes: int = 0
    memory_bytes: int = 0
    slots: int = 0
    tokens_per_step: int = 0
    sampled: int | None = None
    added: "Added | None" = None


@dataclass(slots=True)
class Profiles:
    """What `profile` did, so far."""

    written: list[tuple[ProfileInfo, int]] = field(default_factory=list)  # and from how many records
    skipped: list[tuple[str, str]] = field(default_factory=list)  # person, why
    failed: list[tuple[str, OwnlmError]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Drafted:
    """Of how many people adapters, or gates, were trained in this run, and of how many they were there before."""

    trained: int = 0
    there: int = 0


@dataclass(frozen=True, slots=True)
class Shared:
    """A pool that was made.

    Attributes:
        candidates: how many agree.
        sharers: whose pieces lie in it.
        failed: whose training failed.
        adapters, gates: of how many they were trained for it.
    """

    pool: PoolInfo
    candidates: int
    sharers: list[str]
    failed: list[tuple[str, OwnlmError]] = field(default_factory=list)
    adapters: Drafted = Drafted()
    gates: Drafted = Drafted()


@dataclass(frozen=True, slots=True)
class Assembly:
    """A recipe that was made and is kept, in short.

    Attributes:
        id: of this version of the person's adapter.
        kept: what was best on held-back records, where the assembly was adapted.
        top_sharers: random ids, and their share of all weight.
    """

    user: str
    id: str
    bytes: int
    records: int
    tokens: int
    seconds: float
    kept: str | None
    top_sharers: list[tuple[str, float]]

    @classmethod
    def of(cls, adapter: AdapterInfo, top_sharers: list[tuple[str, float]]) -> "Assembly":
        """What a report keeps of a recipe."""
        same = {name: getattr(adapter, name) for name in ("user", "id", "bytes", "records", "tokens", "seconds")}
        return cls(**same, kept=adapter.provenance.get("kept"), top_sharers=top_sharers)


@dataclass(slots=True)
class Assemblies:
    """What `assemble`, or a withdrawal, did so far."""

    assembled: list[Assembly] = field(default_factory=list)  # in the order they were stored
    stale: list[tuple[str, str]] = field(default_factory=list)  # person, why
    skipped: list[tuple[str, str]] = field(default_factory=list)  # person, why
    failed: list[tuple[str, OwnlmError]] = field(default_factory=list)
    added: "Added | None" = None  # what the data given with it added


Tier = Literal["base", "assembled", "adapted", "own"]


@dataclass(frozen=True, slots=True)
class Placed:
    """On which rung of the ladder a person stands, by how many usable records, and why."""

    user: str
    records: int
    rung: Tier
    why: str


@dataclass(slots=True)
class Ladder:
    """Where everybody stands, and what assembling and training them came to, so far."""

    placed: list[Placed] = field(default_factory=list)
    assemblies: Assemblies = field(default_factory=Assemblies)
    training: Training = field(default_factory=Training)
    added: "Added | None" = None  # what the data given with it added


@dataclass(slots=True)
class Withdrawal:
    """What a withdrawal did.

    Attributes:
        sharers: the random ids that are gone.
        pools: digests, each old one with that of the version without them; None where nobody was left.
        affected: people whose recipes used their pieces.
        untouched: how many recipes did not, and go on as they are.
        unread: digests of damaged pools from outside, in which pieces of theirs may lie.
        drafts: how many drafts of theirs were removed: what the next pool would have been made of.
        unfinished: why something may be left in files; the next command that writes removes it. None: nothing is left.
        again: what came of assembling the affected anew.
    """

    sharers: list[str] = field(default_factory=list)
    pools: list[tuple[str, str | None]] = field(default_factory=list)
    affected: list[str] = field(default_factory=list)
    untouched: int = 0
    unread: list[str] = field(default_factory=list)
    drafts: int = 0
    unfinished: str | None = None
    again: Assemblies = field(default_factory=Assemblies)


@dataclass(frozen=True, slots=True)
class Exported:
    """An adapter that was written, and how far what was written is from it: |B A - B' A'| / |B A|, Frobenius."""

    adapter: AdapterInfo
    relative_error: float
    warning: str | None = None  # that it has learnt from records which are gone


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person's own model, or the base alone, said to a query; or why it said nothing."""

    query: Query
    answer: str | None = None
    adapter: str | None = None
    base: str | None = None
    retrieved: tuple[str, ...] = ()
    warning: str | None = None
    error: OwnlmError | None = None
