"""Serving through vLLM: its process, its protocol, the adapters that it loads."""
