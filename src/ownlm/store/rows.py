"""Rows of the store as dataclasses, and digests of records and histories."""

import builtins
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ownlm.history.record import History, Record

WAITS = "waits for a withdrawal: a sharer took their consent back"  # why a recipe is stale until the withdrawal


def now() -> str:
    """The current time in UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class BaseInfo:
    """A base model of the home."""

    name: str
    folder: str  # stored relative to the home if it lies there
    fingerprint: str
    parameters: int
    source: str
    task: str | None = None
    parent: str | None = None
    provenance: dict[str, Any] | None = None
    forgotten: int = 0  # number of deletions of data it has learnt from
    created: str = field(default_factory=now)


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """One version of a user's adapter: its inputs and where its weights are.

    It was trained, or assembled from a pool's pieces. Then it has a recipe, and weights only if some were trained too.
    """

    id: str
    user: str
    task: str
    base: str
    base_fingerprint: str
    key: str
    history: str
    records: int
    upto: int
    blob: str | None
    bytes: int  # of weights and recipe
    shape: dict[str, Any]
    provenance: dict[str, Any]
    steps: int
    tokens: int
    loss_first: float | None  # None where nothing was trained
    loss_last: float | None
    seconds: float
    method: str = "lora"
    parent: str | None = None
    forgotten: int = 0  # number of its records forgotten since
    recipe: builtins.bytes | None = None  # `bytes` is a field here
    pool: str | None = None  # digest of the recipe's pool
    stale: str | None = None  # why the recipe cannot be used
    created: str = field(default_factory=now)

    @property
    def is_recipe(self) -> bool:
        """Whether it was assembled from the pieces of a pool."""
        return self.recipe is not None

    @property
    def waits(self) -> bool:
        """Whether the recipe is stale only until a withdrawal is done, or the sharer agrees again."""
        return self.stale == WAITS

    @property
    def kept(self) -> str | None:
        """What an adapted recipe kept after training, such as "adapted" or "base"; None for other adapters."""
        return self.provenance.get("kept") if self.is_recipe else None

    def knows(self, history: str) -> bool:
        """Whether it was made from exactly the records of this digest, and need not be made again."""
        return self.history == history and not self.forgotten and (self.stale is None or self.waits)


CHOSEN = "chosen"  # key in provenance: digest of the user's records when this version was put into use again


def is_chosen(adapter: AdapterInfo | None, history: str) -> bool:
    """Whether a version was put into use again, and the user's records still have the digest of that time."""
    return adapter is not None and adapter.provenance.get(CHOSEN) == history


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """One version of a pool of pieces. It names no user."""

    digest: str
    task: str
    base: str
    base_fingerprint: str
    version: int
    folder: str  # stored relative to the home if it lies there
    sharers: int  # number of sharers
    own: bool  # made in this home
    provenance: dict[str, Any]
    parent: str | None = None  # digest of the version it was made from
    created: str = field(default_factory=now)
    publisher: str | None = None  # public key of the home that signed it
    waits: bool = False  # for a withdrawal: no recipe of it may be made or used


@dataclass(frozen=True, slots=True)
class PoolVersion:
    """A version of a pool that is or was in the home, kept to recognise older and forged versions.

    Attributes:
        line: identifier that a signed pool's versions share; None for an unsigned pool.
        ancestors: digests of the known earlier versions.
        sharers: hashes of the sharers' random ids.
        key: public key that must sign the next version; None for an unsigned pool.
        source: folder it came from; None where it was made here.
        local: whether it was made here from another publisher's pool.
    """

    digest: str
    line: str | None
    version: int
    ancestors: tuple[str, ...]
    sharers: tuple[str, ...]
    key: str | None
    source: str | None = None
    local: bool = False
    created: str = field(default_factory=now)


@dataclass(frozen=True, slots=True)
class DraftInfo:
    """An intermediate result of sharing: a sharer's adapter, or the gates trained on it."""

    user: str
    task: str
    base_fingerprint: str
    kind: str  # "adapter" or "gates"
    key: str
    blob: str
    bytes: int
    tokens: int  # number of training tokens
    seconds: float
    created: str = field(default_factory=now)


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A request to a server to train or assemble, and its state."""

    id: str
    kind: str  # "train" or "assemble"
    user: str
    task: str
    state: str = "queued"  # then "running"; at the end "done", "failed" or "cancelled"
    adapter: str | None = None
    error: dict[str, Any] | None = None
    created: str = field(default_factory=now)
    ended: str | None = None


@dataclass(frozen=True, slots=True)
class ProfileInfo:
    """A text about a user, written from the records they had then."""

    task: str
    user: str
    text: str
    writer: str
    history: str
    created: str = field(default_factory=now)


@dataclass(frozen=True, slots=True)
class HistoryInfo:
    """A user's records in one task: their number and digest."""

    user: str
    task: str
    records: int
    history: str  # digest of the records


def sharer_digest(sharer: str) -> str:
    """A hash of a sharer's random id."""
    return hashlib.sha256(sharer.encode()).hexdigest()


def record_digest(record: Record) -> str:
    """A hash of a record's content."""
    content = json.dumps([dict(sorted(record.fields.items())), record.time], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def history_digest(history: History) -> str:
    """A hash of a history's content."""
    return digest_of((record.id, record_digest(record)) for record in history.records)


def digest_of(records: Iterable[tuple[str, str]]) -> str:
    """A hash over records' ids and digests, in any order."""
    hasher = hashlib.sha256()
    for record_id, digest in sorted(records):
        hasher.update(f"{record_id}\0{digest}\n".encode())
    return hasher.hexdigest()
