"""Bodies of requests as clients of OpenAI's API send them.

Two rules hold for every field. A null is an absent field. An option of OpenAI's API, or of other servers of it, that is
not offered here is accepted where its value asks for nothing: false, empty, or what it is without being named. Any
other value is refused with the option's name.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

Stop = Annotated[str, Field(max_length=200)]
Text = Annotated[str, Field(max_length=1_000_000)]
TokenIds = list[Annotated[int, Field(strict=True, ge=0, lt=2**31)]]

_NEUTRAL: dict[str, tuple[Any, ...]] = {  # what else asks for nothing, beside false and what is empty
    "n": (1,), "best_of": (1,), "top_logprobs": (0,), "presence_penalty": (0,), "frequency_penalty": (0,),
    "tool_choice": ("none", "auto"), "function_call": ("none", "auto"), "response_format": ({"type": "text"},),
    "modalities": (["text"],), "reasoning_effort": ("none", "medium"), "verbosity": ("medium",),
    "top_k": (0, -1), "min_p": (0,), "min_tokens": (0,), "repetition_penalty": (1,), "length_penalty": (1,),
}  # fmt: skip
_NO_MATTER = {  # what changes no answer, whatever its value
    "user", "metadata", "store", "service_tier", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention",
    "safety_identifier", "prediction",
}  # fmt: skip
_NOT_OFFERED = {"logprobs", "tools", "functions", "logit_bias", "echo", "suffix", "audio", "web_search_options"}
_ASKS_WHEN_EMPTY = {"web_search_options"}


class Body(BaseModel):
    """A JSON object of a request. A field that may be absent may be null, which says the same."""

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, given: Any) -> Any:
        return without_nulls(given) if isinstance(given, Mapping) else given

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = handler(core)
        own = handler.resolve_ref_schema(described)
        for name, field in own.get("properties", {}).items():
            if name not in own.get("required", ()):
                own["properties"][name] = _or_null(field)
        return described


def without_nulls(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are there."""
    return {name: value for name, value in given.items() if value is not None}


def _refused(why: str, *field: str | int) -> PydanticCustomError:
    """The error of a rule for the whole request, about one field of it."""
    return PydanticCustomError("refused", "{why}", {"why": why, "field": field})


def _or_null(field: dict[str, Any]) -> dict[str, Any]:
    """The description of a field that may be null, too."""
    outer: dict[str, Any] = {name: field[name] for name in ("title", "description", "default") if name in field}
    kinds = field.get("anyOf") or [{name: value for name, value in field.items() if name not in outer}]
    return {"anyOf": [*kinds, *([] if {"type": "null"} in kinds else [{"type": "null"}])], **outer}


class StreamOptions(Body):
    """What a stream tells beside its pieces."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class Sampling(Body):
    """What both kinds of requests have in common.

    Attributes:
        max_completion_tokens: the newer name of max_tokens.
        base_only: ours: answer without the user's adapter.
    """

    model_config = ConfigDict(extra="allow")

    model: str = Field(max_length=600, description="A task; or, for operators, task:user.")
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, description="More than the server's limit is that limit.")
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    base_only: bool = False

    @model_validator(mode="after")
    def _refuse_what_is_not_offered(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if name not in _NO_MATTER and not _asks_for_nothing(name, value):
                known = name in _NEUTRAL or name in _NOT_OFFERED
                why = f"{name!r} is not supported here" if known else f"nothing here is called {name[:50]!r}"
                raise _refused(f"{why}; leave it out", name)
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return tuple(filter(None, [self.stop] if isinstance(self.stop, str) else self.stop or ()))

    @property
    def most_tokens(self) -> int | None:
        """The longest answer that is asked for."""
        return self.max_completion_tokens or self.max_tokens


def _asks_for_nothing(name: str, value: object) -> bool:
    """Whether an option that is not offered may have this value."""
    if value is False or (value in ("", [], {}) and name not in _ASKS_WHEN_EMPTY):
        return True
    return any(
        value == neutral and isinstance(value, bool) == isinstance(neutral, bool) for neutral in _NEUTRAL.get(name, ())
    )


class Part(Body):
    """A part of a message."""

    model_config = ConfigDict(extra="ignore")

    type: str = Field(max_length=64)
    text: Text | None = None


class Message(Body):
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
        return isinstance(content, str) or all(part.type == "text" for part in content or [])


class ChatRequest(Sampling):
    """A chat; its last message is answered.

    Attributes:
        choose: ours: answer with the likeliest of the task's labels.
        rag: ours: how many of the user's own records the prompt shows; by default as many as in training.
    """

    messages: list[Message] = Field(min_length=1, max_length=1000)
    choose: bool = False
    rag: int | None = Field(None, ge=0, le=64)

    @model_validator(mode="after")
    def _ends_with_a_question(self) -> Self:
        last = len(self.messages) - 1
        if self.messages[last].role != "user":
            raise _refused("the last message must be the user's: role 'user'", "messages", last, "role")
        if not self.messages[last].is_text:
            why = "the last message must be text; pictures, sounds and files are not read"
            raise _refused(why, "messages", last, "content")
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
    """Texts to be continued, or token ids of the base's tokenizer. An empty one begins a text."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=1000)]
        | Annotated[TokenIds, Field(min_length=1)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=1000)]
    )

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """Each of them."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = tuple(one for one in self.prompt if isinstance(one, int))
        many = [one if isinstance(one, str) else tuple(one) for one in self.prompt if not isinstance(one, int)]
        return [ids] if ids else many
