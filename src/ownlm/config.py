"""Settings, validated: the shape of an adapter, prompts, and one stage of training."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Method = Literal["lora", "ia3", "prompt"]


class LoraConfig(BaseModel):
    """The shape of an adapter, in PEFT's names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    r: int = Field(8, ge=1, le=1024, description="rank")
    lora_alpha: float = Field(8.0, gt=0, description="the update is scaled by lora_alpha / r")
    target_modules: tuple[str, ...] = Field(("q_proj", "v_proj"), min_length=1)
    top_layers: int | None = Field(
        None,
        ge=1,
        exclude_if=lambda layers: layers is None,
        description="number of layers, counted from the head, that have adapters; None for all layers",
    )
    alora_invocation_tokens: tuple[int, ...] | None = Field(
        None,
        min_length=1,
        exclude_if=lambda tokens: tokens is None,
        description="token ids from which on the adapter acts; None for an adapter that acts on all tokens",
    )

    @property
    def scaling(self) -> float:
        """alpha / r."""
        return self.lora_alpha / self.r


class PromptConfig(BaseModel):
    """Content of a prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rag: int = Field(0, ge=0, description="number of the user's earlier records in a prompt")
    profile: bool = Field(False, description="whether a prompt has the user's text profile")
    max_words: int = Field(768, ge=1, description="words kept of each field")
    max_words_retrieved: int = Field(368, ge=1, description="words kept of each field of a retrieved record")


class TrainConfig(BaseModel):
    """Settings of one stage of training."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: Method = Field("lora", description="methods other than LoRA are trained by peft, one user at a time")
    lora: LoraConfig = LoraConfig()
    activated: bool = Field(
        False,
        exclude_if=lambda activated: not activated,
        description="whether the adapter acts only after the instruction (activated LoRA)",
    )
    virtual_tokens: int = Field(8, ge=1, le=1024, description="number of virtual tokens of prompt tuning")
    prompt: PromptConfig = PromptConfig()
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    learning_rate: float = Field(1e-4, gt=0, le=1)
    epochs: int = Field(2, ge=1)
    steps: int | None = Field(
        None,
        ge=1,
        exclude_if=lambda steps: steps is None,
        description="number of optimizer steps; it overrides the epochs",
    )
    batch_size: int = Field(16, ge=1, description="examples in one optimizer step of one user")
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(0.3, gt=0)
    warmup_ratio: float = Field(0.1, ge=0, le=1)
    recent: int | None = Field(None, ge=1, description="train on this many latest records only")
    since: str | None = Field(None, description="train on records of this time or later only")

    def steps_for(self, examples: int) -> int:
        """Number of optimizer steps for a user with this many examples."""
        return self.steps or -(-examples // self.batch_size) * self.epochs


class Preset(BaseModel):
    """Settings of all stages."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    task_adapter: TrainConfig
    adapter: TrainConfig
    sharer: TrainConfig
    gate: TrainConfig
