"""How a pool is to be made: who shares what, and how it is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ownlm.config import TrainConfig
from ownlm.errors import ConfigError
from ownlm.history.task import Task
from ownlm.store.rows import BaseInfo
from ownlm.store.store import Store
from ownlm.workflows.bases import pick_base
from ownlm.workflows.plan import provenance, settings

Select = Literal["clustered", "active", "random"]


@dataclass(frozen=True, slots=True)
class SharePlan:
    """How a pool is made.

    Attributes:
        config, gate: how sharers' adapters, then their gates, are trained.
        users: who may be chosen; of everybody who agrees, if none are named.
        select, sharers: how, and how many, are chosen.
        ratio: the share of the modules of which a sharer gives a piece.
        centre: make gates blind to what all sharers' histories have in common.
        embedder: a sentence-transformers folder that embeds histories; the base, by default.
    """

    task: Task
    base: BaseInfo
    config: TrainConfig
    gate: TrainConfig
    seed: int = 0
    users: Sequence[str] = ()
    select: Select = "clustered"
    sharers: int = 50
    ratio: float = 1.0
    centre: bool = False
    embedder: Path | None = None
    slots: int | None = None
    tokens_per_step: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ConfigError("The sharing ratio is out of range", got=self.ratio, expected="above 0, at most 1")

    def provenance(self) -> dict[str, Any]:
        """How the pool was made; it names nobody."""
        how = {"select": self.select, "asked_for": self.sharers, "ratio": self.ratio, "centre": self.centre}
        return provenance(self.config, self.seed) | {
            "gate": self.gate.model_dump(mode="json"), "sharing": how, "task": self.task.model_dump(mode="json")
        }  # fmt: skip


def share_plan(
    store: Store,
    task: Task,
    *,
    base: str | None = None,
    preset: str | None = None,
    users: Sequence[str] = (),
    select: Select = "clustered",
    sharers: int = 50,
    ratio: float = 1.0,
    centre: bool = False,
    embedder: Path | None = None,
    seed: int = 0,
    slots: int | None = None,
    tokens_per_step: int | None = None,
    gate_steps: int | None = None,
    gate_learning_rate: float | None = None,
    **changes: Any,
) -> SharePlan:
    """The plan that these settings come to; arguments as for `Home.share`.

    Raises:
        NotFoundError: there is no such base, or none at all.
        ConfigError: a setting is unknown or out of range.
    """
    info = pick_base(store, task.name, base)
    config = settings("sharer", info.parameters, preset, changes, info.folder)
    of_gate = {"steps": gate_steps, "learning_rate": gate_learning_rate, "batch_size": changes.get("batch_size")}
    gate = settings("gate", info.parameters, preset, of_gate)
    gate = gate.model_copy(update={"lora": config.lora, "prompt": config.prompt, "lora_dropout": config.lora_dropout})
    return SharePlan(
        task, info, config, gate, seed, users, select, sharers, ratio, centre, embedder, slots, tokens_per_step
    )  # fmt: skip
