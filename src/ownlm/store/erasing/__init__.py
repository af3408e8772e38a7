"""Removal of what deleted rows leave in the files of a home, and the search that proves it."""
