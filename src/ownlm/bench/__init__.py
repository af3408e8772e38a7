"""Benchmarks: compare methods of personalisation on real data, with intervals and costs."""
