"""Which settings a stage runs with, and what is written down about a run."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from ownlm import __version__, presets
from ownlm.config import LoraConfig, PromptConfig, TrainConfig
from ownlm.errors import BaseModelError, ConfigError, fitting
from ownlm.history.times import read_time
from ownlm.model.bases.files import named_by

_PARTS = {"lora": LoraConfig.model_fields, "prompt": PromptConfig.model_fields}

Stage = Literal["task_adapter", "adapter", "sharer", "gate"]


def settings(
    stage: Stage, parameters: int, preset: str | None, changes: Mapping[str, Any], folder: str | None = None
) -> TrainConfig:
    """One stage's resolved settings.

    Args:
        parameters: of the base; decides the preset where none is named.
        preset: "paper" or "small".
        changes: settings that differ, by their names in `TrainConfig` and its parts; None means as in the preset.
        folder: of the base; a preset's modules get the names that it has for them.

    Raises:
        ConfigError: a setting is unknown or out of range, or does not go with the method or the stage.
    """
    chosen = presets.by_name(preset) if preset else presets.for_base(parameters)
    given = {name: value for name, value in changes.items() if value is not None}
    method = given.get("method", "lora")
    _check_method(stage, method, given)
    merged = presets.with_method(getattr(chosen, stage), method).model_dump()
    for name, value in given.items():
        part = next((part for part, fields in _PARTS.items() if name in fields), None)
        (merged[part] if part else merged)[name] = value
    if folder is not None and "target_modules" not in given:
        with suppress(BaseModelError):  # who loads the base says what is wrong with it
            merged["lora"]["target_modules"] = named_by(Path(folder), merged["lora"]["target_modules"])
    try:
        checked = TrainConfig.model_validate(merged)
        return checked if checked.since is None else checked.model_copy(update={"since": read_time(checked.since)})
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            known = {*TrainConfig.model_fields, *LoraConfig.model_fields, *PromptConfig.model_fields} - _PARTS.keys()
            raise ConfigError(
                "There is no such setting", got=first["loc"][-1], expected=f"one of: {', '.join(sorted(known))}"
            ) from None
        wrong = next((one for one in first["loc"] if one in given), first["loc"][-1])
        raise ConfigError(
            f"The setting {wrong!r} is wrong", got=repr(first["input"]), expected=fitting(first)
        ) from None
    except ValueError as error:
        raise ConfigError(
            f"The setting 'since' {error}", got=merged["since"], expected="2026-03-01, 2026-03-01T12:00:00Z, or 2026"
        ) from None


def _check_method(stage: Stage, method: str, given: Mapping[str, Any]) -> None:
    """Raises a ConfigError where settings are given that the method or the stage has no use for."""
    if stage == "task_adapter" and method != "lora":
        raise ConfigError(
            "Stage 1 is LoRA's: its adapter is merged into the base", got=f"method {method}", hint="leave it out"
        )
    of_lora, of_prompt = {*LoraConfig.model_fields, "lora_dropout"}, {"virtual_tokens"}
    unused = given.keys() & ({"lora": of_prompt, "ia3": of_lora | of_prompt, "prompt": of_lora}.get(method, set()))
    if unused:
        raise ConfigError(
            f"The method {method!r} has no such setting", got=", ".join(sorted(unused)), hint="leave it out"
        )


def provenance(config: TrainConfig, seed: int) -> dict[str, Any]:
    """What a run was made with."""
    return {"config": config.model_dump(mode="json"), "seed": seed, "versions": versions()}


def versions() -> dict[str, str]:
    """The versions of what computes."""
    return {"ownlm": __version__} | {package: version(package) for package in ("torch", "transformers")}


def digest(*parts: object) -> str:
    """A hash over parts, in order."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
