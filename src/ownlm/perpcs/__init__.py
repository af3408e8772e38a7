"""Per-Pcs: pieces of shared adapters, pooled, and assembled into a newcomer's adapter."""
