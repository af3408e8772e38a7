"""Records, histories, queries and tasks, and the readers of their files."""
