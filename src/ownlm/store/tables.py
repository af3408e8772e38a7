"""Tables of a home's database, and migrations from older formats."""

from collections.abc import Collection, Iterator
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    Select,
    String,
    Table,
    UniqueConstraint,
    text,
)

VERSION = 9  # raised whenever a table changes, with a step in `migrate`
BATCH = 10_000  # users of one query

metadata = MetaData()

meta = Table("meta", metadata, Column("key", String, primary_key=True), Column("value", String, nullable=False))

bases = Table(
    "bases",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("folder", String, nullable=False),
    Column("fingerprint", String, nullable=False),
    Column("parameters", Integer, nullable=False),
    Column("source", String, nullable=False),
    Column("task", String),  # adapted bases: the task,
    Column("parent", String),  # the base it was made from,
    Column("provenance", JSON),  # config, seed, versions, losses
    Column("forgotten", Integer, nullable=False, server_default="0"),  # number of deletions of data it has learnt from
    Column("created", String, nullable=False),
)

outsiders = Table(  # users an adapted base has learnt from
    "outsiders",
    metadata,
    Column("base", String, ForeignKey("bases.name"), primary_key=True),
    Column("user", String, primary_key=True),
)

tasks = Table("tasks", metadata, Column("name", String, primary_key=True), Column("spec", String, nullable=False))

records = Table(
    "records",
    metadata,
    Column("number", Integer, primary_key=True),  # order of arrival
    Column("task", String, ForeignKey("tasks.name"), nullable=False),
    Column("user", String, nullable=False),
    Column("id", String, nullable=False),
    Column("time", String),
    Column("fields", JSON, nullable=False),
    Column("digest", String, nullable=False),
    UniqueConstraint("task", "user", "id"),
    sqlite_autoincrement=True,  # no number is used twice
)

profiles = Table(
    "profiles",
    metadata,
    Column("number", Integer, primary_key=True),  # a later profile has a higher number
    Column("task", String, ForeignKey("tasks.name"), nullable=False),
    Column("user", String, nullable=False),
    Column("text", String, nullable=False),
    Column("writer", String, nullable=False),  # "counted", or the model that wrote it
    Column("history", String, nullable=False),  # digest of the user's records at that time
    Column("created", String, nullable=False),
    Index("profiles_by_user", "task", "user", "number"),
)

adapters = Table(  # trained, or assembled from a pool's pieces with a recipe
    "adapters",
    metadata,
    Column("number", Integer, primary_key=True),  # a later adapter has a higher number
    Column("id", String, nullable=False, unique=True),
    Column("user", String, nullable=False),
    Column("task", String, ForeignKey("tasks.name"), nullable=False),
    Column("base", String, ForeignKey("bases.name"), nullable=False),
    Column("base_fingerprint", String, nullable=False),
    Column("key", String, nullable=False),  # digest of everything the weights depend on except the history
    Column("history", String, nullable=False),  # digest of the user's records at that time
    Column("records", Integer, nullable=False),  # their number
    Column("upto", Integer, nullable=False),  # highest number of these records
    Column("parent", String),  # id of the adapter that training continued from
    Column("forgotten", Integer, nullable=False, server_default="0"),  # number of these records forgotten since
    Column("blob", String),  # weights; a recipe may have none
    Column("bytes", Integer, nullable=False),  # of weights and recipe
    Column("method", String, nullable=False, server_default="lora"),
    Column("shape", JSON, nullable=False),  # LoRA's rank, alpha and modules; for other methods, peft's config
    Column("provenance", JSON, nullable=False),  # config, seed, versions, task
    Column("steps", Integer, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("loss_first", Float),  # null where nothing was trained
    Column("loss_last", Float),
    Column("seconds", Float, nullable=False),
    Column("created", String, nullable=False),
    Column("recipe", LargeBinary),
    Column("pool", String),  # digest of the recipe's pool
    Column("stale", String),  # why the recipe cannot be used any more
    Index("adapters_by_user", "task", "user", "number"),
)

pools = Table(
    "pools",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("digest", String, nullable=False, unique=True),
    Column("task", String, ForeignKey("tasks.name"), nullable=False),
    Column("base", String, ForeignKey("bases.name"), nullable=False),
    Column("base_fingerprint", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("parent", String),  # digest of the version it was made from
    Column("folder", String, nullable=False),
    Column("sharers", Integer, nullable=False),  # how many
    Column("own", Boolean, nullable=False),  # made in this home
    Column("provenance", JSON, nullable=False),
    Column("created", String, nullable=False),
    Column("publisher", String),  # public key of the home that signed it
    Column("waits", Boolean, nullable=False, server_default="0"),  # for a withdrawal; see `mark_waiting`
)

pool_versions = Table(  # every version that was in the home: an older one is not accepted as newer
    "pool_versions",
    metadata,
    Column("digest", String, primary_key=True),
    Column("line", String),  # common to the versions of a signed pool
    Column("version", Integer, nullable=False),
    Column("ancestors", JSON, nullable=False),  # digests of the versions before it
    Column("sharers", JSON, nullable=False),  # hashes of their random ids
    Column("key", String),  # public key that the next version must be signed with
    Column("source", String),  # the folder it came from
    Column("local", Boolean, nullable=False),  # made in this home from another publisher's pool
    Column("created", String, nullable=False),
)

consents = Table(  # users who agree to share pieces of their adapters
    "consents",
    metadata,
    Column("user", String, primary_key=True),
    Column("licence", String, nullable=False),
    Column("created", String, nullable=False),
)

sharers = Table(  # users by the random ids in pools
    "sharers",
    metadata,
    Column("id", String, primary_key=True),
    Column("task", String, ForeignKey("tasks.name"), nullable=False),
    Column("user", String, nullable=False),
    Column("pool", String, ForeignKey("pools.digest"), nullable=False),  # the row exists as long as the pieces
    Column("created", String, nullable=False),
)

drafts = Table(  # training results that pieces are made of
    "drafts",
    metadata,
    Column("user", String, primary_key=True),
    Column("task", String, ForeignKey("tasks.name"), primary_key=True),
    Column("base_fingerprint", String, primary_key=True),
    Column("kind", String, primary_key=True),  # "adapter", or "gates" trained on it
    Column("key", String, nullable=False),  # digest of everything the weights depend on
    Column("blob", String, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("created", String, nullable=False),
)

checkpoints = Table(  # state of unfinished training
    "checkpoints",
    metadata,
    Column("owner", String, primary_key=True),  # hash of the task and the user
    Column("key", String, nullable=False),  # digest of everything the adapter depends on
    Column("blob", String, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("created", String, nullable=False),
)

tokens = Table(  # access tokens of a server; only their hashes
    "tokens",
    metadata,
    Column("id", String, primary_key=True),  # public name of the token
    Column("hash", String, nullable=False, unique=True),
    Column("user", String),  # null for an operator
    Column("created", String, nullable=False),
    Column("expires", String),  # end of validity; null for none
    Index("tokens_by_user", "user"),
)

jobs = Table(  # requests to a server to train or assemble
    "jobs",
    metadata,
    Column("number", Integer, primary_key=True),  # order of arrival
    Column("id", String, nullable=False, unique=True),
    Column("kind", String, nullable=False),  # "train" or "assemble"
    Column("user", String, nullable=False),
    Column("task", String, ForeignKey("tasks.name"), nullable=False),
    Column("state", String, nullable=False),  # "queued", "running", "done", "failed" or "cancelled"
    Column("adapter", String),  # id of the resulting adapter
    Column("error", JSON),  # what, hint
    Column("created", String, nullable=False),
    Column("ended", String),
    Index("jobs_by_user", "user", "number"),
    sqlite_autoincrement=True,
)


def without_number(row: Row[Any]) -> dict[str, Any]:
    """A row's values without its number."""
    return {key: value for key, value in row._mapping.items() if key != "number"}


def narrowed(query: Select[Any], columns: Any, task: str | None, users: Collection[str] | None) -> Select[Any]:
    """The query, restricted to a task and to users where they are given."""
    if task is not None:
        query = query.where(columns.task == task)
    return query if users is None else query.where(columns.user.in_(users))


def in_batches(users: Collection[str]) -> Iterator[list[str]]:
    """Distinct users in parts that fit into one query each."""
    distinct = list(dict.fromkeys(users))
    return (distinct[at : at + BATCH] for at in range(0, len(distinct), BATCH))


def migrate(db: Connection, version: int) -> None:
    """Migrates the tables of an older format, within the caller's transaction."""
    if version < 2:
        for statement in _TO_2:
            db.execute(text(statement))
        records.create(db)
        db.execute(text("INSERT INTO records SELECT number, task, user, id, time, fields, digest FROM records_1"))
        db.execute(text("DROP TABLE records_1"))
        profiles.create(db)
    if version < 3:
        for statement in _ASIDE_FOR_3:
            db.execute(text(statement))
        adapters.create(db)
        db.execute(text(f"INSERT INTO adapters ({_ADAPTERS_2}) SELECT {_ADAPTERS_2} FROM adapters_2"))
        db.execute(text("DROP TABLE adapters_2"))
        for table in (pools, consents, sharers):
            table.create(db)
    if version < 4:
        drafts.create(db)
    if version < 5:
        for table in (tokens, jobs):
            table.create(db)
    elif version < 6:
        db.execute(text("ALTER TABLE tokens ADD COLUMN expires VARCHAR"))
    if version < 7:
        if version >= 3:  # otherwise the table was just created
            db.execute(text("ALTER TABLE pools ADD COLUMN publisher VARCHAR"))
        pool_versions.create(db)
    if version < 8:
        checkpoints.create(db)
    if 3 <= version < 9:
        db.execute(text("ALTER TABLE pools ADD COLUMN waits BOOLEAN NOT NULL DEFAULT 0"))


# Format 1 had no deletions, so an adapter knows the user's first records. Its keys had another form: an empty key makes
# `train` replace the adapter once.
_TO_2 = (
    "ALTER TABLE bases ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE adapters RENAME COLUMN lora TO shape",
    "ALTER TABLE adapters ADD COLUMN method VARCHAR NOT NULL DEFAULT 'lora'",
    "ALTER TABLE adapters ADD COLUMN upto INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE adapters ADD COLUMN parent VARCHAR",
    "ALTER TABLE adapters ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0",
    """CREATE TEMP TABLE places AS SELECT task, user, number,
        row_number() OVER (PARTITION BY task, user ORDER BY number) AS place FROM records""",
    "CREATE INDEX temp.places_by_user ON places (task, user, place)",
    """UPDATE adapters SET key = '', upto = coalesce((SELECT number FROM places
        WHERE places.task = adapters.task AND places.user = adapters.user AND place = adapters.records), 0)""",
    "DROP TABLE places",
    "ALTER TABLE records RENAME TO records_1",
)

# Format 2 had no recipes: every adapter had weights and losses. SQLite cannot make a column nullable, so the table is
# re-created.
_ASIDE_FOR_3 = ("DROP INDEX adapters_by_user", "ALTER TABLE adapters RENAME TO adapters_2")
_ADAPTERS_2 = """number, id, user, task, base, base_fingerprint, key, history, records, upto, parent, forgotten, blob,
    bytes, method, shape, provenance, steps, tokens, loss_first, loss_last, seconds, created"""
