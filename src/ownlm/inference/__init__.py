"""Answers: text generated, or a label chosen, for many people in one pass."""
