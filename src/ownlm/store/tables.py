"""The database of a home, and how one of an older format becomes one of this."""

from collections.abc import Collection
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
    Column("task", String),  # of an adapted base: the task it was adapted to,
    Column("parent", String),  # the base it was made from,
    Column("provenance", JSON),  # config, seed, versions, losses,
    Column("forgotten", Integer, nullable=False, server_default="0"),  # and how many forgotten people it learnt from
    Column("created", String, nullable=False),
)

outsiders = Table(  # whose records an adapted base has learnt from
    "outsiders",
    metadata,
    Column("base", String, ForeignKey("bases.name"), primary_key=True),
    Column("user", String, primary_key=True),
)

tasks = Table("tasks", metadata, Column("name", String, primary_key=True), Column("spec", String, nullable=False))

records = Table(
    "records",
    metadata,
    Column("number", Integer, primary_key=True),  # the order in which records came
    Column("task", String, ForeignKey("tasks.name"), nullable=False),
    Column("user", String, nullable=False),
    Column("id", String, nullable=False),
    Column("time", String),
    Column("fields", JSON, nullable=False),
    Column("digest", String, nullable=False),
    UniqueConstraint("task", "user", "id"),
    sqlite_autoincrement=True,  # no number is given twice
)

profiles = Table(
    "profiles",
    metadata,
    Column("number", Integer, primary_key=True),  # a later profile has a higher number
    Column("task", String, ForeignKey("tasks.name"), nullable=False),
    Column("user", String, nullable=False),
    Column("text", String, nullable=False),
    Column("writer", String, nullable=False),  # "counted", or the model that wrote it
    Column("history", String, nullable=False),  # digest of the records the person had
    Column("created", String, nullable=False),
    Index("profiles_by_user", "task", "user", "number"),
)

adapters = Table(  # trained, or put together from a pool's pieces: the latter have a recipe
    "adapters",
    metadata,
    Column("number", Integer, primary_key=True),  # a later adapter has a higher number
    Column("id", String, nullable=False, unique=True),
    Column("user", String, nullable=False),
    Column("task", String, ForeignKey("tasks.name"), nullable=False),
    Column("base", String, ForeignKey("bases.name"), nullable=False),
    Column("base_fingerprint", String, nullable=False),
    Column("key", String, nullable=False),  # digest of all that the weights depend on beside the history
    Column("history", String, nullable=False),  # digest of the records the person had
    Column("records", Integer, nullable=False),  # how many they were
    Column("upto", Integer, nullable=False),  # the highest number among them: records above it came later
    Column("parent", String),  # id of the adapter that training went on from
    Column("forgotten", Integer, nullable=False, server_default="0"),  # how many of the records were forgotten since
    Column("blob", String),  # of weights, which a recipe may do without
    Column("bytes", Integer, nullable=False),  # of weights and recipe
    Column("method", String, nullable=False, server_default="lora"),
    Column("shape", JSON, nullable=False),  # LoRA's rank, alpha and modules; of other methods, peft's own config
    Column("provenance", JSON, nullable=False),  # config, seed, versions, task
    Column("steps", Integer, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("loss_first", Float),  # none where nothing was trained
    Column("loss_last", Float),
    Column("seconds", Float, nullable=False),
    Column("created", String, nullable=False),
    Column("recipe", LargeBinary),
    Column("pool", String),  # digest of the pool whose pieces the recipe names
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
    Column("own", Boolean, nullable=False),  # made in this home, not taken in from outside
    Column("provenance", JSON, nullable=False),
    Column("created", String, nullable=False),
    Column("publisher", String),  # public key of the home that signed it
    Column("waits", Boolean, nullable=False, server_default="0"),  # for a withdrawal; see `mark_waiting`
)

pool_versions = Table(  # every version of a pool that was here: none of them comes back as a newer one
    "pool_versions",
    metadata,
    Column("digest", String, primary_key=True),
    Column("line", String),  # what its versions have in common, where they are signed
    Column("version", Integer, nullable=False),
    Column("ancestors", JSON, nullable=False),  # digests of the versions before it
    Column("sharers", JSON, nullable=False),  # hashes of their random ids
    Column("key", String),  # public key that the next version must be signed with
    Column("source", String),  # the folder it came from
    Column("local", Boolean, nullable=False),  # made here of a pool from outside: its publisher does not know it
    Column("created", String, nullable=False),
)

consents = Table(  # whoever has a row agrees, now, to share pieces of their adapters
    "consents",
    metadata,
    Column("user", String, primary_key=True),
    Column("licence", String, nullable=False),
    Column("created", String, nullable=False),
)

sharers = Table(  # the one place where the random id that a pool knows meets a person
    "sharers",
    metadata,
    Column("id", String, primary_key=True),
    Column("task", String, ForeignKey("tasks.name"), nullable=False),
    Column("user", String, nullable=False),
    Column("pool", String, ForeignKey("pools.digest"), nullable=False),  # the link lasts as long as the pieces in it
    Column("created", String, nullable=False),
)

drafts = Table(  # what pieces of those who agree are made of: one of each kind for a person, a task and a base
    "drafts",
    metadata,
    Column("user", String, primary_key=True),
    Column("task", String, ForeignKey("tasks.name"), primary_key=True),
    Column("base_fingerprint", String, primary_key=True),
    Column("kind", String, primary_key=True),  # "adapter", or "gates" upon it
    Column("key", String, nullable=False),  # digest of all that the weights depend on, the history too
    Column("blob", String, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("created", String, nullable=False),
)

checkpoints = Table(  # state of training under way, until its adapter is stored
    "checkpoints",
    metadata,
    Column("owner", String, primary_key=True),  # hash of the task and the user
    Column("key", String, nullable=False),  # digest of all that the adapter depends on, the history too
    Column("blob", String, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("created", String, nullable=False),
)

tokens = Table(  # who may ask a server, and for whom; of a token itself, its hash alone
    "tokens",
    metadata,
    Column("id", String, primary_key=True),  # names it, and opens nothing
    Column("hash", String, nullable=False, unique=True),
    Column("user", String),  # none: an operator's
    Column("created", String, nullable=False),
    Column("expires", String),  # from when on it is refused; none: never
    Index("tokens_by_user", "user"),
)

jobs = Table(  # what a server was asked to train or assemble, and has promised to do
    "jobs",
    metadata,
    Column("number", Integer, primary_key=True),  # the order in which they came
    Column("id", String, nullable=False, unique=True),
    Column("kind", String, nullable=False),  # "train" or "assemble"
    Column("user", String, nullable=False),
    Column("task", String, ForeignKey("tasks.name"), nullable=False),
    Column("state", String, nullable=False),  # "queued", "running", "done", "failed" or "cancelled"
    Column("adapter", String),  # id of the one that came of it
    Column("error", JSON),  # why it failed: what, hint
    Column("created", String, nullable=False),
    Column("ended", String),
    Index("jobs_by_user", "user", "number"),
    sqlite_autoincrement=True,
)


def without_number(row: Row[Any]) -> dict[str, Any]:
    """A row's values, but for the number that gives its place among the others."""
    return {key: value for key, value in row._mapping.items() if key != "number"}


def narrowed(query: Select[Any], columns: Any, task: str | None, users: Collection[str] | None) -> Select[Any]:
    """The query, of one task and of some users alone where they are given."""
    if task is not None:
        query = query.where(columns.task == task)
    return query if users is None else query.where(columns.user.in_(users))


def migrate(db: Connection, version: int) -> None:
    """Brings the tables of an older format up to this one, within the caller's transaction."""
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
        if version >= 3:  # else the table was made just now
            db.execute(text("ALTER TABLE pools ADD COLUMN publisher VARCHAR"))
        pool_versions.create(db)
    if version < 8:
        checkpoints.create(db)
    if 3 <= version < 9:
        db.execute(text("ALTER TABLE pools ADD COLUMN waits BOOLEAN NOT NULL DEFAULT 0"))


# Format 1 forgot nothing, so the records an adapter knew are the person's first ones. Its keys were made in another
# way: an empty one has everybody trained anew once.
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

# Format 2 knew no recipes: every adapter had weights, and losses. SQLite cannot make a column optional, so the table is
# made anew.
_ASIDE_FOR_3 = ("DROP INDEX adapters_by_user", "ALTER TABLE adapters RENAME TO adapters_2")
_ADAPTERS_2 = """number, id, user, task, base, base_fingerprint, key, history, records, upto, parent, forgotten, blob,
    bytes, method, shape, provenance, steps, tokens, loss_first, loss_last, seconds, created"""
