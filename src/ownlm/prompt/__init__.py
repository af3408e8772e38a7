"""What the model reads: a user's records and queries as prompts and answers."""
