"""Everybody's own model behind one address."""
