"""Reading an exported adapter back."""

import json
from pathlib import Path

from ownlm.config import LoraConfig
from ownlm.model.adapter import WEIGHTS, Adapter


def read_peft_folder(folder: Path) -> Adapter:
    """The adapter in a PEFT folder."""
    config = json.loads((folder / "adapter_config.json").read_text("utf8"))
    assert config["peft_type"] == "LORA"
    modules = tuple(sorted(config["target_modules"]))
    lora = LoraConfig(r=config["r"], lora_alpha=config["lora_alpha"], target_modules=modules)
    return Adapter.from_bytes((folder / WEIGHTS).read_bytes(), lora)
