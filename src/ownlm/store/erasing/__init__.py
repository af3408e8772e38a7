"""What deleted rows leave in the files of a home: removed, and looked for."""
