"""One PEFT Per User: an adapter trained on each user's own history."""
