"""Everybody's records, adapters and lineage: one database, and blobs beside it."""
