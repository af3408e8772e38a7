"""Answers: text generated, or a label chosen, for many users in one pass."""
