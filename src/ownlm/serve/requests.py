"""What clients of OpenAI's API send; what cannot be done is refused."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Stop = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=1_000_000)]
_NOT_DONE: dict[str, Any] = {  # by name: what does nothing
    "n": 1, "best_of": 1, "logprobs": False, "top_logprobs": 0, "tools": [], "functions": [], "echo": False,
    "suffix": "", "presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {}, "audio": {},
    "response_format": {"type": "text"}, "tool_choice": "none", "modalities": ["text"],
}  # fmt: skip
_NO_MATTER = {  # what changes no answer
    "user", "metadata", "store", "service_tier", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention",
    "safety_identifier", "prediction",
}  # fmt: skip


class StreamOptions(BaseModel):
    """What a stream tells beside its pieces."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class Sampling(BaseModel):
    """What both kinds of requests have in common. What OpenAI has beside, and what changes no answer, is not looked at;
    anything else is refused.

    Attributes:
        base_only: ours: answer without the person's adapter.
    """

    model_config = ConfigDict(extra="allow")

    model: str = Field(max_length=600, description="A task; or, for operators, task:user.")
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    base_only: bool = False

    @model_validator(mode="after")
    def _refuse(self) -> "Sampling":
        for name, value in (self.model_extra or {}).items():
            if value is None or name in _NO_MATTER:
                continue
            if name not in _NOT_DONE:
                raise ValueError(f"nothing here is called {name[:50]!r}; leave it out")
            if value != _NOT_DONE[name]:
                raise ValueError(f"{name} is not supported here; leave it out")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class Part(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="ignore")

    type: str = Field(max_length=64)
    text: Text | None = None


class Message(BaseModel):
    """A message of a chat."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[Part] | None = None

    @property
    def text(self) -> str:
        """All of it."""
        parts = self.content if isinstance(self.content, list) else []
        return self.content if isinstance(self.content, str) else "".join(part.text or "" for part in parts)

    @property
    def is_text(self) -> bool:
        """Whether it is text and nothing else."""
        content = self.content
        return isinstance(content, str) or (bool(content) and all(p.type == "text" and p.text for p in content or []))


class ChatRequest(Sampling):
    """A chat, whose last message is to be answered.

    Attributes:
        max_completion_tokens: the newer name of max_tokens.
        choose: ours: answer with the likeliest of the task's labels.
        rag: ours: how many of the person's own records the prompt shows; by default as many as in training.
    """

    messages: list[Message] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(None, ge=1, le=1_000_000)
    choose: bool = False
    rag: int | None = Field(None, ge=0, le=64)

    @model_validator(mode="after")
    def _ends_with_a_question(self) -> "ChatRequest":
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the person's: role 'user'")
        if not self.messages[-1].is_text:
            raise ValueError("the last message must be text; pictures, sounds and files are not read")
        return self

    @property
    def text(self) -> str:
        """What is to be answered."""
        return self.messages[-1].text

    @property
    def ignored_messages(self) -> int:
        """How many messages are not read."""
        return len(self.messages) - 1


class CompletionRequest(Sampling):
    """Texts to be continued."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1000)]

    @property
    def prompts(self) -> list[str]:
        """Each of them."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt
