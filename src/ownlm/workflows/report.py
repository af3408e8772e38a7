"""Results of operations: the same pydantic models for Python, `--json` and the server."""

from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, model_serializer
from typing_extensions import TypedDict

from ownlm.errors import OwnlmError
from ownlm.history.record import Dataset, Query, Record
from ownlm.store.forget import Forgotten
from ownlm.store.rows import AdapterInfo, ProfileInfo
from ownlm.workflows.adapters import Verdict, worth_of


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


def _shares(pairs: list[tuple[str, float]]) -> list[Share]:
    return [{"sharer": sharer, "share": share} for sharer, share in pairs]


def _profiles(pairs: list[tuple[ProfileInfo, int]]) -> list[WrittenProfile]:
    return [{"user": p.user, "records": records, "writer": p.writer, "profile": p.text} for p, records in pairs]


Skipped = Annotated[list[tuple[str, str]], PlainSerializer(_skips)]  # users and reasons
Failed = Annotated[list[tuple[str, OwnlmError]], PlainSerializer(_failures)]
OneDecimal = Annotated[float, PlainSerializer(lambda value: round(value, 1), return_type=float)]


class Report(BaseModel):
    """Base of all results."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    def as_dict(self) -> dict[str, Any]:
        """The result as `--json` prints it."""
        return self.model_dump(mode="json", by_alias=True)


class Added(Report):
    """Result of adding a file of histories.

    Attributes:
        task: name of the task.
        new: number of records added.
        known: number of records that the home had already.
        forgotten: number of records left out because they were forgotten before.
        dataset: content of the file.
        inside: path of the file if it lies in the home; None otherwise.
    """

    task: str
    new: int
    known: int
    forgotten: int
    dataset: Dataset
    inside: Path | None = None

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        """The counts, and what was left out."""
        data = self.dataset
        golds = sum(query.gold is not None for query in data.queries)
        return {"task": self.task, "users": len(data.histories), "new": self.new, "known": self.known,
                "forgotten": self.forgotten, "given_away": data.given_away, "queries": len(data.queries),
                "golds": golds, "bad": data.bad, "repeated": data.repeated, "notes": data.notes}  # fmt: skip


class Edited(Report):
    """Result of changing a record.

    Attributes:
        task: name of the task.
        record: the changed record.
        changed: names of the changed fields; "time" where the time changed.
        removed: what was removed or marked because it had learnt from the old record.
    """

    task: str
    record: Record
    changed: tuple[str, ...]
    removed: Forgotten

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        """The record as it is now, and what was removed, as one document."""
        record = {"id": self.record.id, "time": self.record.time, **self.record.fields}
        own = {"user": self.record.user_id, "task": self.task, "record": record, "changed": self.changed}
        return own | self.removed.model_dump(exclude={"records"})


def _counts(added: Added | None) -> AddedCounts | None:
    return None if added is None else {"new": added.new, "known": added.known, "forgotten": added.forgotten}


FromFile = Annotated[Added | None, PlainSerializer(_counts)]  # what the data given with an operation added


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


class Exported(Report):
    """An adapter that was written to a folder.

    Attributes:
        adapter: the adapter.
        folder: the folder.
        base: folder of the base.
        rank: rank that was asked for; None for the adapter's own.
        relative_error: distance of the written weights from it: |B A - B' A'| / |B A|, Frobenius norm.
        warning: that the adapter has learnt from records that were removed since.
    """

    adapter: AdapterInfo = Field(exclude=True)
    folder: Path
    base: str
    rank: int | None
    relative_error: float
    warning: str | None = None

    @model_serializer(mode="wrap")
    def _flat(self, dump: Any) -> dict[str, Any]:
        """The adapter's user and id in place of the adapter."""
        return {"user": self.adapter.user, "adapter": self.adapter.id, **dump(self)}


class Answer(Report):
    """The answer of a user's own model, or of the base alone, to a query; or the error.

    Attributes:
        query: the query.
        answer: the answer; None with an error.
        adapter: id of the adapter that answered; None for the base alone.
        base: name of the base.
        retrieved: ids of the user's records in the prompt.
        warning: why the base answered, or what is wrong with the adapter.
        error: why there is no answer.
    """

    query: Query
    answer: str | None = None
    adapter: str | None = None
    base: str | None = None
    retrieved: tuple[str, ...] = ()
    warning: str | None = None
    error: OwnlmError | None = None

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        """The answer and its user; warning and error only where there is one."""
        own = {"answer": self.answer, "user": self.query.user_id, "adapter": self.adapter, "base": self.base}
        odd = {"warning": self.warning, "error": self.error and str(self.error)}
        return own | {"retrieved": self.retrieved} | {name: what for name, what in odd.items() if what is not None}
