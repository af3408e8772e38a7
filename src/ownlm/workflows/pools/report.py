"""Results of `home.pools`: the same pydantic models for Python, `--json` and the server."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, model_serializer

from ownlm.filesystem import folder_bytes
from ownlm.perpcs.signing import fingerprint
from ownlm.store.rows import BaseInfo, PoolInfo
from ownlm.workflows.report import Assemblies, Failed, Report, Skipped

if TYPE_CHECKING:  # they need torch
    from ownlm.perpcs.pool import Pool
    from ownlm.workflows.pools.usage import Use


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


class SharerUse(BaseModel):
    """A sharer's number of pieces in a pool, and how often recipes of the home use them."""

    sharer: str
    pieces: int
    uses: int


class PoolDetails(Report):
    """A pool, its pieces and their use.

    Attributes:
        row: the pool, in short.
        rank: LoRA rank of the pieces.
        modules: kinds of modules.
        layers: number of layers.
        licence: licence under which the sharers gave the pieces.
        recipes: number of the home's recipes that are made of the pool.
        sharers: sharers and their pieces, the most used first.
    """

    row: PoolRow
    rank: int
    modules: list[str]
    layers: int
    licence: str
    recipes: int
    sharers: list[SharerUse]

    @classmethod
    def of(cls, info: PoolInfo, pool: "Pool", use: "Use") -> "PoolDetails":
        """The details of an open pool."""
        given, uses = pieces_given(pool), use.total_S.astype(int).tolist()
        sharers = [SharerUse(sharer=one, pieces=given[one], uses=n) for one, n in zip(use.sharers, uses, strict=True)]
        return cls(
            row=PoolRow.of(info), rank=pool.lora.r, modules=list(use.kinds), layers=len(use.layers),
            licence=pool.manifest.licence, recipes=use.recipes, sharers=sharers,
        )  # fmt: skip

    @model_serializer(mode="wrap")
    def _flat(self, dump: Any) -> dict[str, Any]:
        own: dict[str, Any] = dump(self)
        return {**own.pop("row"), **own}


class VerifiedPool(Report):
    """A pool of which every byte was checked; its pieces too, if the home has its base.

    Attributes:
        pieces: number of pieces.
        base: name of the base that the pieces were checked against; None if the home does not have it.
    """

    pool: str
    folder: str
    version: int
    base_fingerprint: str
    licence: str
    publisher: str | None
    signed_by: str | None
    sharers: int
    pieces: int
    base: str | None

    @classmethod
    def of(cls, pool: "Pool", base: BaseInfo | None) -> "VerifiedPool":
        """The result for an open pool."""
        manifest = pool.manifest
        same = {name: getattr(manifest, name) for name in ("version", "base_fingerprint", "licence", "publisher")}
        return cls(
            **same, pool=pool.digest, folder=str(pool.folder), signed_by=fingerprint(manifest.publisher),
            sharers=len(manifest.sharers), pieces=sum(pieces_given(pool).values()), base=base.name if base else None,
        )  # fmt: skip


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


def pieces_given(pool: "Pool") -> dict[str, int]:
    """Number of pieces of each sharer."""
    given = dict.fromkeys(pool.manifest.sharers, 0)
    for entry in pool.manifest.modules:
        for place in entry.sharers:
            given[pool.manifest.sharers[place]] += 1
    return given
