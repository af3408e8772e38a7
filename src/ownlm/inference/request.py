"""What is asked of an engine, and what one of its steps returns."""

from dataclasses import dataclass
from typing import Literal

from ownlm.errors import OwnlmError
from ownlm.store.rows import AdapterInfo, BaseInfo

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to be answered, by one version of one adapter.

    Attributes:
        base: Base model that answers.
        adapter: Adapter version that answers; None for the base alone.
        prompt: Text, which the engine encodes as `BaseLM.encode_prompt` does; or token ids.
        max_tokens: Largest number of answer tokens; the base's context may leave room for fewer.
        temperature: Sampling temperature; 0 takes the likeliest token.
        top_p: Probability mass of the nucleus that tokens are drawn from.
        seed: Seed of the sampler; None takes a random one.
        stop: Texts that end the answer and do not belong to it.
        one_line: Whether the answer ends with its first line.
        continues: Whether the answer continues the prompt as it stands, with the white space at its ends.
        labels: Labels of which the likeliest is the answer; empty to generate text.
        caller: Id of the token that asks; callers with fewer running requests are admitted first.
    """

    base: BaseInfo
    adapter: AdapterInfo | None
    prompt: str | tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    one_line: bool = False
    continues: bool = False
    labels: tuple[str, ...] = ()
    caller: str = ""


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """New text of one request, or the error that ended it.

    Attributes:
        text: Text since the previous output.
        finish: Why the answer ended; None while it goes on.
        adapter: Id of the adapter that computed the answer, read from its slot; None for the base alone.
        prompt_tokens: Number of prompt tokens.
        completion_tokens: Number of answer tokens so far.
        error: Error that ended the request.
    """

    text: str = ""
    finish: Finish | None = None
    adapter: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: OwnlmError | None = None

    @property
    def finished(self) -> bool:
        """Whether this is the last output of the request."""
        return self.finish is not None or self.error is not None
