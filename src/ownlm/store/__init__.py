"""All users' records, adapters and lineage: one database, with blobs beside it."""
