"""The database of a home."""

from sqlalchemy import JSON, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, UniqueConstraint

VERSION = 1  # raised whenever a table changes

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
    Column("provenance", JSON),  # and config, seed, versions, losses
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
)

adapters = Table(
    "adapters",
    metadata,
    Column("number", Integer, primary_key=True),  # a later adapter has a higher number
    Column("id", String, nullable=False, unique=True),
    Column("user", String, nullable=False),
    Column("task", String, ForeignKey("tasks.name"), nullable=False),
    Column("base", String, ForeignKey("bases.name"), nullable=False),
    Column("base_fingerprint", String, nullable=False),
    Column("key", String, nullable=False),  # digest of all that the weights depend on
    Column("history", String, nullable=False),  # digest of the records it was trained on
    Column("records", Integer, nullable=False),
    Column("blob", String, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("lora", JSON, nullable=False),
    Column("provenance", JSON, nullable=False),  # config, seed, versions, retrieval
    Column("steps", Integer, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("loss_first", Float, nullable=False),
    Column("loss_last", Float, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("created", String, nullable=False),
    Index("adapters_by_user", "task", "user", "number"),
)
