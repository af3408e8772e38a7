"""What can be set, checked once: an adapter's shape and one stage of training."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Method = Literal["lora", "ia3", "prompt"]


class LoraConfig(BaseModel):
    """The shape of an adapter, in PEFT's names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    r: int = Field(8, ge=1, le=1024, description="rank")
    lora_alpha: float = Field(8.0, gt=0, description="the update is scaled by lora_alpha / r")
    target_modules: tuple[str, ...] = Field(("q_proj", "v_proj"), min_length=1)

    @property
    def scaling(self) -> float:
        """alpha / r."""
        return self.lora_alpha / self.r


class PromptConfig(BaseModel):
    """What a prompt shows."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rag: int = Field(0, ge=0, description="how many of the person's earlier records")
    profile: bool = Field(False, description="whether it shows the person's text profile")
    max_words: int = Field(768, ge=1, description="words kept of each field")
    max_words_retrieved: int = Field(368, ge=1, description="words kept of each field of a retrieved record")


class TrainConfig(BaseModel):
    """One stage of training: of the task adapter, or of one person's adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: Method = Field("lora", description="others than LoRA are trained by peft, one person at a time")
    lora: LoraConfig = LoraConfig()
    virtual_tokens: int = Field(8, ge=1, le=1024, description="of prompt tuning")
    prompt: PromptConfig = PromptConfig()
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    learning_rate: float = Field(1e-4, gt=0, le=1)
    epochs: int = Field(2, ge=1)
    steps: int | None = Field(
        None, ge=1, exclude_if=lambda steps: steps is None, description="optimizer steps, whatever the epochs"
    )
    batch_size: int = Field(16, ge=1, description="examples in one optimizer step of one person")
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(0.3, gt=0)
    warmup_ratio: float = Field(0.1, ge=0, le=1)
    recent: int | None = Field(None, ge=1, description="train on this many latest records only")
    since: str | None = Field(None, description="train on records of this time or later only")

    def steps_for(self, examples: int) -> int:
        """How many optimizer steps a person with so many examples takes."""
        return self.steps or -(-examples // self.batch_size) * self.epochs


class Preset(BaseModel):
    """The settings of all stages."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    task_adapter: TrainConfig
    adapter: TrainConfig
    sharer: TrainConfig
    gate: TrainConfig
