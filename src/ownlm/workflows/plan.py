"""Plans: an operation's options, resolved against a home; and what is recorded about a run."""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

from pydantic import ValidationError

from ownlm import __version__, presets
from ownlm.config import LoraConfig, TrainConfig
from ownlm.errors import BaseModelError, ConfigError, NotFoundError
from ownlm.history.task import Task
from ownlm.history.times import read_time
from ownlm.model.bases.files import named_by
from ownlm.store import pools
from ownlm.store.rows import BaseInfo, PoolInfo, ProfileInfo
from ownlm.store.store import Store
from ownlm.workflows.options import (
    PARTS,
    SETTINGS,
    AssembleOptions,
    ShareOptions,
    TrainOptions,
    UserOptions,
    wrong_option,
)

if TYPE_CHECKING:
    from ownlm.model.base import BaseLM

Stage = Literal["task_adapter", "adapter", "sharer", "gate"]
O = TypeVar("O", bound=UserOptions)  # noqa: E741


@dataclass(frozen=True, slots=True)
class Plan(Generic[O]):
    """The options of an operation, resolved against a home.

    Attributes:
        store: store of the home.
        task: task that the options name.
        base: base that the options name, or the default one.
        config: resolved settings of training and prompts.
        options: what the caller asked for.
    """

    store: Store
    task: Task
    base: BaseInfo
    config: TrainConfig
    options: O

    def for_users(self, users: Iterable[str], **changes: object) -> Self:
        """The same plan for these users, with other values of some options."""
        return replace(self, options=self.options.but(users=tuple(users), **changes))

    def provenance(self) -> dict[str, Any]:
        """What the adapters of this plan are made with, as stored beside each."""
        return provenance(self.config, self.options.seed) | {"task": self.task.model_dump(mode="json")}


def pick_base(store: Store, task: str, name: str | None) -> BaseInfo:
    """The base of this name; by default the newest one adapted to the task, else the newest that is not adapted."""
    if name is not None:
        return store.base(name)
    bases = [base for base in store.bases() if base.task in (None, task)]
    if not bases:
        raise NotFoundError("The home has no base model yet", hint="add one", command="ownlm base add smollm2-135m")
    return max(enumerate(bases), key=lambda numbered: (numbered[1].task == task, numbered[0]))[1]


def pick_raw_base(store: Store, name: str | None) -> BaseInfo:
    """The base of this name; by default the newest that is not adapted to a task."""
    raw = [base for base in store.bases() if base.task is None]
    if name is not None or not raw:
        return pick_base(store, "", name)
    return raw[-1]


class TrainPlan(Plan[TrainOptions]):
    """The plan of training users' own adapters."""

    def key(self, profile: ProfileInfo | None) -> str:
        """Digest of everything an adapter depends on besides its user and their history."""
        about = profile.text if profile and self.config.prompt.profile else ""
        config, seed = self.config.model_dump_json(), self.options.seed
        return digest(self.task.model_dump_json(), self.base.fingerprint, config, seed, about)

    def config_for(self, model: "BaseLM") -> TrainConfig:
        """The config, with the invocation tokens of activated adapters."""
        if not self.config.activated:
            return self.config
        from ownlm.oppu.examples import invocation_tokens  # imported late: it loads torch

        tokens = invocation_tokens(model, self.task.instruction_text)
        lora = self.config.lora.model_copy(update={"alora_invocation_tokens": tokens})
        return self.config.model_copy(update={"lora": lora})


def train_plan(store: Store, task: Task, options: TrainOptions) -> TrainPlan:
    """The plan of `Home.train`.

    Raises:
        NotFoundError: there is no such base, or none at all.
        ConfigError: a setting is out of range, or does not go with another.
    """
    base = pick_base(store, task.name, options.base)
    config = settings("adapter", base.parameters, options.preset, options.changes(), base.folder)
    return TrainPlan(store, task, base, config, options)


@dataclass(frozen=True, slots=True)
class SharePlan(Plan[ShareOptions]):
    """The plan of making a pool; `config` is for the sharers' adapters.

    Attributes:
        gate: resolved settings of training their gates.
    """

    gate: TrainConfig

    def provenance(self) -> dict[str, Any]:
        """How the pool is made. It names no user."""
        asked = self.options
        how = {"select": asked.select, "asked_for": asked.sharers, "ratio": asked.ratio, "centre": asked.centre}
        return Plan.provenance(self) | {"gate": self.gate.model_dump(mode="json"), "sharing": how}


def share_plan(store: Store, task: Task, options: ShareOptions) -> SharePlan:
    """The plan of `Home.pools.share`.

    Raises:
        NotFoundError: there is no such base, or none at all.
        ConfigError: a setting is out of range, or does not go with another.
    """
    base, asked = pick_base(store, task.name, options.base), options
    config = settings("sharer", base.parameters, asked.preset, asked.changes(), base.folder)
    of_gate = {"steps": asked.gate_steps, "learning_rate": asked.gate_learning_rate, "batch_size": asked.batch_size}
    gate = settings("gate", base.parameters, asked.preset, of_gate)
    gate = gate.model_copy(update={"lora": config.lora, "prompt": config.prompt, "lora_dropout": config.lora_dropout})
    return SharePlan(store, task, base, config, options, gate)


@dataclass(frozen=True, slots=True)
class AssemblyPlan(Plan[AssembleOptions]):
    """The plan of assembling users; `config` is what the pool's pieces were trained with.

    Attributes:
        pool: the pool they are assembled from.
    """

    pool: PoolInfo

    def key(self, profile: ProfileInfo | None) -> str:
        """Digest of everything a recipe depends on besides the pool, its user and their history.

        The pool is not part of it: what all others select stays the same if unused pieces leave the pool.
        """
        about = profile.text if profile and self.config.prompt.profile else ""
        how = *self.options.how().values(), self.options.seed
        return digest(self.task.model_dump_json(), self.base.fingerprint, *how, about)

    def provenance(self) -> dict[str, Any]:
        """What the recipes of this plan are made with, as stored beside each."""
        return Plan.provenance(self) | {"assembly": self.options.how()}


def assembly_plan(store: Store, task: Task, options: AssembleOptions) -> AssemblyPlan:
    """The plan of `Home.assemble`.

    Raises:
        NotFoundError: there is no such pool or base.
    """
    named = None if options.base is None else store.base(options.base)
    info = pools.pool(store, options.pool, task.name, named)
    config = TrainConfig.model_validate(info.provenance["config"])
    return AssemblyPlan(store, task, named or store.base(info.base), config, options, info)


def settings(
    stage: Stage, parameters: int, preset: str | None, changes: Mapping[str, object], folder: str | None = None
) -> TrainConfig:
    """The resolved settings of one stage.

    Args:
        stage: stage of training.
        parameters: size of the base; it decides the preset where none is named.
        preset: "paper" or "small".
        changes: settings that differ from the preset, by their names in `TrainConfig` and its parts; None is no change.
        folder: folder of the base; a preset's modules get the names that they have there.

    Raises:
        ConfigError: a setting is unknown or out of range, or does not go with the method or the stage.
    """
    chosen = presets.by_name(preset) if preset else presets.for_base(parameters)
    given = {name: value for name, value in changes.items() if value is not None}
    method = str(given.get("method", "lora"))
    _check_method(stage, method, given)
    merged = presets.with_method(getattr(chosen, stage), method).model_dump()
    for name, value in given.items():
        part = next((part for part, fields in PARTS.items() if name in fields), None)
        (merged[part] if part else merged)[name] = value
    if folder is not None and "target_modules" not in given:
        with suppress(BaseModelError):  # loading the base reports what is wrong with it
            merged["lora"]["target_modules"] = named_by(Path(folder), merged["lora"]["target_modules"])
    try:
        checked = TrainConfig.model_validate(merged)
    except ValidationError as error:
        raise wrong_option(error, SETTINGS) from None
    if checked.since is None:
        return checked
    try:
        return checked.model_copy(update={"since": read_time(checked.since)})
    except ValueError as error:
        raise ConfigError(
            f"The setting 'since' {error}", got=checked.since, expected="2026-03-01, 2026-03-01T12:00:00Z, or 2026"
        ) from None


def _check_method(stage: Stage, method: str, given: Mapping[str, object]) -> None:
    """Raises a ConfigError for settings that the method or the stage does not use."""
    if stage == "task_adapter" and method != "lora":
        raise ConfigError("Stage 1 supports the method 'lora' only", got=repr(method), hint="leave the method out")
    if stage != "adapter" and "activated" in given:
        raise ConfigError("Only users' own adapters can be activated ones", hint="leave 'activated' out")
    of_lora, of_prompt = {*LoraConfig.model_fields, "lora_dropout", "activated"}, {"virtual_tokens"}
    unused = given.keys() & ({"lora": of_prompt, "ia3": of_lora | of_prompt, "prompt": of_lora}.get(method, set()))
    if unused:
        raise ConfigError(
            f"The method {method!r} has no such setting", got=", ".join(sorted(unused)), hint="leave it out"
        )


def provenance(config: TrainConfig, seed: int) -> dict[str, Any]:
    """What a run was made with."""
    return {"config": config.model_dump(mode="json"), "seed": seed, "versions": versions()}


def versions() -> dict[str, str]:
    """Versions of the packages that compute."""
    return {"ownlm": __version__} | {package: _version(package) for package in ("torch", "transformers")}


@cache
def _version(package: str) -> str:
    """The installed version of a package; reading it takes milliseconds, and it is recorded for every user."""
    return version(package)


def digest(*parts: object) -> str:
    """A hash over parts, in order."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
