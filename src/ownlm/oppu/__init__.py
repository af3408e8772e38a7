"""One PEFT Per User: an adapter trained on each person's own history."""
