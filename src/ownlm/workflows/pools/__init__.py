"""The steps behind `home.pools`: share, add, verify, withdraw, and which pieces are used."""
