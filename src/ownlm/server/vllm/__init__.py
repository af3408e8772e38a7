"""Engine that answers through a vLLM server: its process, its protocol, and the adapters that it loads."""
