"""Results of operations: the same pydantic models for Python, `--json` and the server."""

from collections import Counter
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, model_serializer
from typing_extensions import TypedDict

from ownlm.errors import OwnlmError
from ownlm.filesystem import folder_bytes
from ownlm.perpcs.signing import fingerprint
from ownlm.store.rows import AdapterInfo, PoolInfo, ProfileInfo
from ownlm.workflows.adapters import Verdict, worth_of
from ownlm.workflows.histories import Added

if TYPE_CHECKING:
    from ownlm.history.record import Query


class Skip(TypedDict):
    """A user who was left out, as JSON."""

    user: str
    reason: str


class Failure(TypedDict):
    """A failed user, as JSON."""

    user: str
    error: str


class AddedCounts(TypedDict):
    """Numbers of records that a file added, as JSON."""

    new: int
    known: int
    forgotten: int


class Share(TypedDict):
    """A sharer's share of all weight in a recipe, as JSON."""

    sharer: str
    share: float


class WrittenProfile(TypedDict):
    """A profile that was written, as JSON."""

    user: str
    records: int
    writer: str
    profile: str


def _skips(pairs: list[tuple[str, str]]) -> list[Skip]:
    return [{"user": user, "reason": reason} for user, reason in pairs]


def _failures(pairs: list[tuple[str, OwnlmError]]) -> list[Failure]:
    return [{"user": user, "error": error.with_command} for user, error in pairs]


def _counts(added: Added | None) -> AddedCounts | None:
    return None if added is None else {"new": added.new, "known": added.known, "forgotten": added.forgotten}


def _shares(pairs: list[tuple[str, float]]) -> list[Share]:
    return [{"sharer": sharer, "share": share} for sharer, share in pairs]


def _profiles(pairs: list[tuple[ProfileInfo, int]]) -> list[WrittenProfile]:
    return [{"user": p.user, "records": records, "writer": p.writer, "profile": p.text} for p, records in pairs]


Skipped = Annotated[list[tuple[str, str]], PlainSerializer(_skips)]  # users and reasons
Failed = Annotated[list[tuple[str, OwnlmError]], PlainSerializer(_failures)]
OneDecimal = Annotated[float, PlainSerializer(lambda value: round(value, 1), return_type=float)]
FromFile = Annotated[Added | None, PlainSerializer(_counts)]  # what the data given with an operation added


class Report(BaseModel):
    """Base of all results."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    def as_dict(self) -> dict[str, Any]:
        """The result as `--json` prints it."""
        return self.model_dump(mode="json", by_alias=True)


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained and stored adapter, in short: a report may hold very many of them."""

    user: str
    id: Annotated[str, Field(serialization_alias="adapter")]
    parent: str | None
    method: Annotated[str, Field(exclude=True)]
    records: int
    steps: int
    tokens: int
    loss_first: float
    loss_last: float
    seconds: float
    bytes: Annotated[int, Field(exclude=True)]
    verdict: Verdict | None  # see `Worth`

    @classmethod
    def of(cls, adapter: AdapterInfo) -> "Trained":
        """The entry of a stored adapter."""
        own = {one.name: getattr(adapter, one.name) for one in fields(cls) if one.name != "verdict"}
        return cls(**own, verdict=worth_of(adapter).verdict)


class Training(Report):
    """Result of `train`, so far.

    Attributes:
        trained: adapters, in the order they were stored.
        skipped: users who were not trained, each with the reason.
        not_chosen: number of users outside `top` and `min_records`, by reason.
        failed: users with failed training, each with the error.
        restarted: users with other settings than in their last adapter, trained from fresh weights.
        added: counts of the file given with the call.
        tokens_per_s: tokens trained on per second.
        resumed: number of users who continued from a checkpoint of an interrupted run.
        checkpointed: number of users in flight who have a checkpoint.
        notes: problems with checkpoints, one sentence each.
        interrupted: True if the run was stopped by Ctrl-C.
    """

    trained: list[Trained] = Field(default_factory=list)
    skipped: Skipped = Field(default_factory=list)
    not_chosen: Counter[str] = Field(default_factory=Counter)
    failed: Failed = Field(default_factory=list)
    restarted: list[str] = Field(default_factory=list, serialization_alias="anew")
    added: FromFile = None
    tokens_per_s: OneDecimal = 0.0
    resumed: int = 0
    checkpointed: int = 0
    notes: list[str] = Field(default_factory=list)
    interrupted: bool = Field(False, exclude_if=lambda value: not value)


class Estimate(Report):
    """Result of `estimate`: what `train` would do and need.

    Attributes:
        people: number of users who would get an adapter.
        skipped: users who would not be trained, each with the reason.
        failed: users without valid examples, each with the error.
        not_chosen: number of users outside `top` and `min_records`, by reason.
        examples, tokens, steps: totals over all users and epochs.
        seconds: approximate time of reading records and training, at the speed just measured.
        bytes: size of all adapters.
        memory_bytes: approximate peak memory of base and training, besides Python and its libraries.
        slots, tokens_per_step: as `train` would choose them, or as given.
        sampled: number of sampled users; None if all users were counted.
        added: counts of the file given with the call.
    """

    people: int = 0
    skipped: Skipped = Field(default_factory=list)
    failed: Failed = Field(default_factory=list)
    not_chosen: Counter[str] = Field(default_factory=Counter)
    examples: int = 0
    tokens: int = 0
    steps: int = 0
    seconds: OneDecimal = 0.0
    bytes: int = 0
    memory_bytes: int = 0
    slots: int = 0
    tokens_per_step: int = 0
    sampled: int | None = None
    added: FromFile = None


class Profiles(Report):
    """Result of `profile`, so far.

    Attributes:
        written: profiles, each with the number of records it was written from.
        skipped: users who were not processed, each with the reason.
        failed: users with a failed profile, each with the error.
        interrupted: True if the run was stopped by Ctrl-C.
    """

    written: Annotated[list[tuple[ProfileInfo, int]], PlainSerializer(_profiles)] = Field(default_factory=list)
    skipped: Skipped = Field(default_factory=list)
    failed: Failed = Field(default_factory=list)
    interrupted: bool = Field(False, exclude_if=lambda value: not value)


@dataclass(frozen=True, slots=True)
class Drafted:
    """Numbers of adapters or gates trained in this run, and reused."""

    trained: int = 0
    there: int = 0


class Shared(Report):
    """Result of `pools.share`.

    Attributes:
        pool: the pool that was made.
        bytes: size of its files.
        candidates: number of users who agreed to share.
        sharers: users with pieces in the pool.
        failed: users with failed training, each with the error.
        adapters, gates: numbers of drafts that were trained for the pool, and found.
    """

    pool: PoolInfo
    bytes: int
    candidates: int
    sharers: list[str]
    adapters: Drafted = Drafted()
    gates: Drafted = Drafted()
    failed: Failed = Field(default_factory=list)

    @model_serializer(mode="wrap")
    def _flat(self, dump: Any) -> dict[str, Any]:
        """The pool's main fields among the others, without its provenance."""
        own: dict[str, Any] = dump(self)
        pool = own.pop("pool")
        same = {name: pool[name] for name in ("task", "base", "version", "parent", "folder")}
        return {"pool": pool["digest"], **same, **own}


@dataclass(frozen=True, slots=True)
class Assembly:
    """An assembled and stored recipe, in short.

    Attributes:
        id: id of this version of the user's adapter.
        kept: what was best on held-back records, where the assembly was adapted.
        top_sharers: random ids of the sharers with the largest weights, each with its share of all weight.
    """

    user: str
    id: Annotated[str, Field(serialization_alias="recipe")]
    bytes: int
    records: int
    tokens: Annotated[int, Field(exclude=True)]
    seconds: float
    top_sharers: Annotated[list[tuple[str, float]], PlainSerializer(_shares)]
    kept: str | None

    @classmethod
    def of(cls, adapter: AdapterInfo, top_sharers: list[tuple[str, float]]) -> "Assembly":
        """The entry of a stored recipe."""
        same = {name: getattr(adapter, name) for name in ("user", "id", "bytes", "records", "tokens", "seconds")}
        return cls(**same, kept=adapter.provenance.get("kept"), top_sharers=top_sharers)


class Assemblies(Report):
    """Result of `assemble`, or of a withdrawal, so far.

    Attributes:
        assembled: recipes, in the order they were stored.
        stale: users with a stale assembly, each with the reason.
        skipped: users who were not assembled, each with the reason.
        failed: users with a failed assembly, each with the error.
        added: counts of the file given with the call.
        interrupted: True if the run was stopped by Ctrl-C.
    """

    assembled: list[Assembly] = Field(default_factory=list)
    stale: Skipped = Field(default_factory=list)
    skipped: Skipped = Field(default_factory=list)
    failed: Failed = Field(default_factory=list)
    added: Added | None = Field(None, exclude=True)
    interrupted: bool = Field(False, exclude_if=lambda value: not value)


Tier = Literal["base", "assembled", "adapted", "own"]


@dataclass(frozen=True, slots=True)
class Placed:
    """A user's tier on the cold-start ladder, by the number of usable records, and the reason."""

    user: str
    records: int
    tier: Annotated[Tier, Field(serialization_alias="rung")]
    why: str


class ColdStart(Report):
    """Result of `ladder`: every user's tier, and the results of assembling and training, so far."""

    placed: list[Placed] = Field(default_factory=list)
    assemblies: Assemblies = Field(default_factory=Assemblies)
    training: Training = Field(default_factory=Training)
    added: FromFile = None
    interrupted: bool = False

    @model_serializer(mode="wrap")
    def _flat(self, dump: Any) -> dict[str, Any]:
        """What `train` and `assemble` report, as one document, with the users' tiers."""
        own = dump(self)
        trained, assembled = own["training"], own["assemblies"]
        both = {name: assembled[name] + trained[name] for name in ("skipped", "failed")}
        ended = {"interrupted": True} if self.interrupted else {}
        return {**trained, **assembled, **both, "ladder": own["placed"], "added": own["added"], **ended}


class PoolRow(Report):
    """A pool of the home, in short; `signed_by` is the fingerprint of the public key `publisher`."""

    pool: str
    task: str
    base: str
    base_fingerprint: str
    version: int
    folder: str
    sharers: int
    own: bool
    parent: str | None
    created: str
    publisher: str | None
    signed_by: str | None
    bytes: int

    @classmethod
    def of(cls, info: PoolInfo) -> "PoolRow":
        """The row of a pool."""
        same = {name: getattr(info, name) for name in cls.model_fields if hasattr(info, name)}
        signed_by = fingerprint(info.publisher)
        return cls(**same, pool=info.digest, signed_by=signed_by, bytes=folder_bytes(info.folder))


class Withdrawal(Report):
    """Result of a withdrawal.

    Attributes:
        sharers: the random ids that are gone.
        pools: digests of the old versions, each with that of the version without them; None where no sharer was left.
        versions: version numbers of the new versions, by digest.
        affected: users with withdrawn pieces in their recipes.
        untouched: number of recipes that did not use them.
        unread: digests of damaged pools from outside that may hold such pieces.
        drafts: number of drafts that were removed.
        unfinished: why something may be left in files; the next command that writes removes it. None: nothing is left.
        again: result of assembling the affected users again.
        stale: affected users with a still stale assembly, each with the reason.
    """

    sharers: list[str] = Field(default_factory=list)
    drafts: int = 0
    pools: list[tuple[str, str | None]] = Field(default_factory=list)
    versions: dict[str, int] = Field(default_factory=dict)
    affected: list[str] = Field(default_factory=list)
    untouched: int = 0
    unread: list[str] = Field(default_factory=list, exclude=True)
    again: Assemblies = Field(default_factory=Assemblies)
    stale: Skipped = Field(default_factory=list)
    unfinished: str | None = None

    @model_serializer(mode="wrap")
    def _flat(self, dump: Any) -> dict[str, Any]:
        """The result of assembling again among the others; pools as objects."""
        own: dict[str, Any] = dump(self)
        versions, again, stale, unfinished = (own.pop(name) for name in ("versions", "again", "stale", "unfinished"))
        pools = [{"old": old, "new": new, "version": versions.get(new)} for old, new in self.pools]
        return {**own, "pools": pools, **again, "stale": stale, "unfinished": unfinished}


@dataclass(frozen=True, slots=True)
class Exported:
    """An adapter that was written to a folder.

    Attributes:
        adapter: the adapter.
        relative_error: distance of the written weights from it: |B A - B' A'| / |B A|, Frobenius norm.
        warning: that the adapter has learnt from records that were removed since.
    """

    adapter: AdapterInfo
    relative_error: float
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a user's own model, or of the base alone, to a query; or the error."""

    query: "Query"
    answer: str | None = None
    adapter: str | None = None
    base: str | None = None
    retrieved: tuple[str, ...] = ()
    warning: str | None = None
    error: OwnlmError | None = None
