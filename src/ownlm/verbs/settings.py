"""Which settings a stage runs with, and what is written down about a run."""

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Literal

from pydantic import ValidationError

from ownlm import __version__, presets
from ownlm.config import LoraConfig, PromptConfig, TrainConfig
from ownlm.errors import ConfigError
from ownlm.history.record import time_key

_PARTS = {"lora": LoraConfig.model_fields, "prompt": PromptConfig.model_fields}

Stage = Literal["task_adapter", "adapter"]


def settings(stage: Stage, parameters: int, preset: str | None, changes: Mapping[str, Any]) -> TrainConfig:
    """One stage's resolved settings.

    Args:
        parameters: of the base; decides the preset where none is named.
        preset: "paper" or "small".
        changes: settings that differ, by their names in `TrainConfig` and its parts; None means as in the preset.

    Raises:
        ConfigError: a setting is unknown or out of range.
    """
    chosen = presets.by_name(preset) if preset else presets.for_base(parameters)
    config: TrainConfig = getattr(chosen, stage)
    merged = config.model_dump()
    for name, value in changes.items():
        if value is not None:
            part = next((part for part, fields in _PARTS.items() if name in fields), None)
            (merged[part] if part else merged)[name] = value
    try:
        checked = TrainConfig.model_validate(merged)
        if checked.since is not None:
            time_key(checked.since)
        return checked
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            known = {*TrainConfig.model_fields, *LoraConfig.model_fields, *PromptConfig.model_fields} - _PARTS.keys()
            raise ConfigError(
                "There is no such setting", got=first["loc"][-1], expected=f"one of: {', '.join(sorted(known))}"
            ) from None
        raise ConfigError(f"The setting {first['loc'][-1]!r} is wrong: {first['msg']}", got=first["input"]) from None
    except ValueError:
        raise ConfigError(
            "The setting 'since' is no time", got=merged["since"], expected="2026-03-01, 2026-03-01T12:00:00Z, or 2026"
        ) from None


def provenance(config: TrainConfig, seed: int) -> dict[str, Any]:
    """What a run was made with."""
    versions = {"ownlm": __version__} | {package: version(package) for package in ("torch", "transformers")}
    return {"config": config.model_dump(mode="json"), "seed": seed, "versions": versions}


def digest(*parts: object) -> str:
    """A hash over parts, in order."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
