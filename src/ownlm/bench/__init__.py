"""Benchmarks: methods side by side, what their answers are worth, and how sure that is."""
