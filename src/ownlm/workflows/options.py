"""The options of each operation: one frozen object, made once at the door and passed on whole.

The command line, the server's jobs and Python make the same objects: `home.train(TrainOptions(task="news", epochs=2))`.
`home.train("news", epochs=2)` is short for it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ownlm.config import LoraConfig, Method, PromptConfig, TrainConfig
from ownlm.errors import ConfigError, fitting, nearest

Combine = Literal["product", "factors"]
Select = Literal["clustered", "active", "random"]

PARTS = {"lora": LoraConfig.model_fields, "prompt": PromptConfig.model_fields}  # of `TrainConfig`
SETTINGS = {*TrainConfig.model_fields, *LoraConfig.model_fields, *PromptConfig.model_fields} - PARTS.keys()
SETTINGS -= {"alora_invocation_tokens"}  # they follow from `activated` and the base's tokenizer


class Options(BaseModel):
    """The options of one operation.

    Raises:
        ConfigError: a field is unknown, of a wrong type or out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **fields: object) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise wrong_option(error, type(self).model_fields) from None

    @classmethod
    def of(cls, task: "str | Self", fields: Mapping[str, object]) -> Self:
        """The options of a call: those given, with `fields` changed; or those of a task's name and `fields`."""
        if isinstance(task, str):
            return cls(task=task, **fields)
        return task.but(**fields) if fields else task

    def but(self, **changes: object) -> Self:
        """The same options with other values of some fields."""
        return type(self)(**{name: getattr(self, name) for name in self.model_fields_set} | changes)


class UserOptions(Options):
    """What every operation on a task's users is given.

    Attributes:
        task: name of the task, or path of its file.
        users: users to work on; each operation has its own default.
        base: name of the base; by default the newest one adapted to the task, else the newest.
        seed: seed of all random numbers.
    """

    task: str
    users: tuple[str, ...] = ()
    base: str | None = None
    seed: int = 0


class TrainingOptions(UserOptions):
    """Options of operations that train: a preset, and the settings of `TrainConfig` that differ from it.

    Attributes:
        preset: "paper" or "small"; by default the one for the base's size.
    """

    preset: str | None = None
    method: Method | None = None
    r: int | None = None
    lora_alpha: float | None = None
    target_modules: tuple[str, ...] | None = None
    top_layers: int | None = None
    activated: bool | None = None
    virtual_tokens: int | None = None
    rag: int | None = None
    profile: bool | None = None
    max_words: int | None = None
    max_words_retrieved: int | None = None
    lora_dropout: float | None = None
    learning_rate: float | None = None
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    weight_decay: float | None = None
    max_grad_norm: float | None = None
    warmup_ratio: float | None = None
    recent: int | None = None
    since: str | None = None

    def changes(self) -> dict[str, object]:
        """The settings that differ from the preset, by their names in `TrainConfig` and its parts."""
        return {name: value for name in SETTINGS if (value := getattr(self, name)) is not None}


class AdaptOptions(TrainingOptions):
    """Options of `Home.adapt`.

    Attributes:
        data: histories of outsiders, added to the home first; their labelled queries are training data too.
    """

    data: Path | None = None


class TrainOptions(TrainingOptions):
    """Options of `Home.train` and `Home.estimate`.

    Attributes:
        data: histories to add first.
        from_scratch: begin with fresh weights, even where training could continue from a user's last adapter.
        slots: number of users in flight; by default as many as free memory allows.
        tokens_per_step: about how many tokens go through the model together; by default as free memory allows.
        held_back: measure results on held-back records too; no adapter depends on it.
        top: train only this many of the users, those with most records of the task.
        min_records: train only users with at least this many records of the task.
    """

    data: Path | None = None
    from_scratch: bool = False
    slots: int | None = Field(None, ge=1)
    tokens_per_step: int | None = Field(None, ge=1)
    held_back: bool = False
    top: int | None = Field(None, ge=1)
    min_records: int | None = Field(None, ge=1)


class ColdStartOptions(TrainOptions):
    """Options of `Home.ladder`.

    Attributes:
        pool: first digits of the digest of the pool to assemble from; by default the task's newest pool.
        dry_run: report each user's tier as if `data` had been added; nothing is written.
    """

    pool: str | None = None
    dry_run: bool = False


class AskOptions(Options):
    """Options of `Home.ask` and `Home.ask_many`.

    Attributes:
        rag: number of the user's records that the prompt shows; by default as many as in training.
        profile: whether the prompt shows the user's text profile; by default as in training.
        choose: answer with the likeliest of the task's labels, instead of generating.
        base: name of the base; by default the one of the user's newest adapter.
        base_only: answer without an adapter.
    """

    rag: int | None = None
    profile: bool | None = None
    choose: bool = False
    base: str | None = None
    base_only: bool = False


class ShareOptions(TrainingOptions):
    """Options of `Home.pools.share`. The settings of `TrainConfig` are those of the sharers' adapters.

    Attributes:
        users: users who may be selected; all who agree to share, if none are named.
        select: "clustered" takes the most active user of each cluster of histories, "active" the most active users.
        sharers: number of sharers.
        ratio: share of the modules of which each sharer gives a piece.
        centre: make gates blind to what all sharers' histories have in common, so that differences between users decide
            which pieces are selected.
        embedder: a sentence-transformers folder that embeds histories; by default the base does.
        slots: number of users in flight; by default as many as free memory allows.
        tokens_per_step: about how many tokens go through the model together, as for `train`.
        gate_steps: training steps of the gates.
        gate_learning_rate: learning rate of the gates.
    """

    select: Select = "clustered"
    sharers: int = 50
    ratio: float = Field(1.0, gt=0, le=1)
    centre: bool = False
    embedder: Path | None = None
    slots: int | None = Field(None, ge=1)
    tokens_per_step: int | None = Field(None, ge=1)
    gate_steps: int | None = None
    gate_learning_rate: float | None = None


class AssembleOptions(UserOptions):
    """Options of `Home.assemble`.

    Attributes:
        users: users to assemble; by default all but sharers, outsiders, and users with an adapter of their own.
        base: name of the base; by default the pool's.
        data: histories to add first.
        pool: first digits of the digest of the pool to assemble from; by default the task's newest pool.
        top_k: pieces per module.
        tau: temperature of the weights.
        combine: how pieces are combined, see `perpcs.equations`.
        recent: only this many of a user's latest records are read.
        adapt_steps: training steps from the assembled start; 0 for none.
        residual_rank: train a small adapter of this rank on top, instead of the recipe's weights.
    """

    data: Path | None = None
    pool: str | None = None
    top_k: int = Field(3, ge=1)
    tau: float = Field(1.0, gt=0)
    combine: Combine = "product"
    recent: int = Field(2000, ge=1)
    adapt_steps: int = Field(0, ge=0)
    residual_rank: int | None = Field(None, ge=1)

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        if self.adapt_steps and self.combine != "product":
            raise ConfigError("Only recipes of `product` can be adapted", got=self.combine, hint="leave `combine` out")
        if self.residual_rank is not None and not self.adapt_steps:
            raise ConfigError("residual_rank needs adapt_steps", got=0, hint="set adapt_steps, such as 20")

    def how(self) -> dict[str, object]:
        """The settings of assembling, by name, as every recipe records them."""
        return {name: getattr(self, name) for name in HOW}


HOW = ("top_k", "tau", "combine", "recent", "adapt_steps", "residual_rank")


def wrong_option(error: ValidationError, known: Iterable[str]) -> ConfigError:
    """pydantic's first error as one of ours.

    Args:
        known: names of the settings that exist.
    """
    first, known = error.errors()[0], sorted(known)
    name = next((str(one) for one in first["loc"] if one in known), str(first["loc"][-1]) if first["loc"] else "")
    if first["type"] == "extra_forbidden":
        meant = nearest(name, known)
        return ConfigError(
            "There is no such setting",
            got=name,
            expected=f"one of: {', '.join(known)}",
            hint=None if meant is None else f"did you mean {meant!r}?",
        )
    return ConfigError(f"The setting {name!r} is wrong", got=repr(first["input"]), expected=fitting(first))
