"""What people did: records, histories, queries, tasks, and the files they come in."""
