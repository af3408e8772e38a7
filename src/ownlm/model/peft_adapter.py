"""An adapter of another method than LoRA, as peft keeps it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class PeftAdapter:
    """One person's (IA)3 vectors or virtual tokens."""

    config: dict[str, Any]
    weights: bytes

    def shape(self) -> dict[str, Any]:
        """What must be known to read the weights again: peft's own configuration."""
        return self.config

    def to_bytes(self) -> bytes:
        """The content of PEFT's `adapter_model.safetensors`."""
        return self.weights
