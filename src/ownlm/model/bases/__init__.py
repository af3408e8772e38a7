"""Base models: where they come from, how they are checked, and how text becomes their tokens."""
