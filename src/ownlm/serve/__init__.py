"""People's models behind one address."""
