"""What the model reads: a person's records and queries as prompts and answers."""
