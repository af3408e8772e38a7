"""A request inside the engine: its tokens, their cache positions, and the text so far."""

import time

import numpy as np

from ownlm.inference.adapter_cache import AdapterSlot
from ownlm.inference.request import Finish, Request
from ownlm.inference.sampling import Sampler
from ownlm.inference.text import Detokenizer
from ownlm.model.base import BaseLM
from ownlm.model.lora import activation_start
from ownlm.model.packed import EMPTY, TokenPositions
from ownlm.model.segments import BASE


class TokenSpan:
    """Consecutive tokens under one adapter: a prefix that sequences share, or the tokens of one sequence after it.

    Attributes:
        slot: Slot number of the adapter; `BASE` for none.
        pending: Tokens that have not been through the model.
        cached: Cache positions of the tokens that have.
        parent: Span that this one continues.
        references: Number of running sequences that use the span.
    """

    def __init__(self, slot: int, pending: list[int]) -> None:
        self.slot, self.pending = slot, pending
        self.cached: TokenPositions = EMPTY
        self.parent: TokenSpan | None = None
        self.references = 1

    @property
    def positions(self) -> TokenPositions:
        """Cache positions of all tokens from the beginning of the prompt."""
        return self.cached if self.parent is None else np.concatenate([self.parent.positions, self.cached])


class SharedPrefix(TokenSpan):
    """The beginning that the prompts of several sequences have in common."""

    def __init__(self, slot: int, tokens: list[int]) -> None:
        super().__init__(slot, tokens)
        self.tokens, self.references = tokens, 0

    def begins(self, prompt: list[int]) -> bool:
        """Whether a prompt begins with these tokens, and goes on after them."""
        return len(self.tokens) < len(prompt) and prompt[: len(self.tokens)] == self.tokens


class Sequence(TokenSpan):
    """A request on its way through the engine. `begin` sets the prompt, `append_token` adds the model's tokens.

    Attributes:
        request: What is asked.
        prompt: Token ids of the prompt.
        max_tokens: Largest number of answer tokens that the context leaves room for.
        text: Text of the answer.
        sampler: Draws the tokens; None takes the likeliest.
        adapter_slot: Slot that holds the request's adapter; None for the base alone.
        unadapted: Number of the prompt's first tokens on which the adapter, an activated one, does not act.
        num_completion_tokens: Number of tokens that the model gave, a final stop token included.
        finish: Why the answer ended; None while it goes on.
        cancelled: Whether the caller has left; any thread may set it.
        arrived: Time of submission, on the monotonic clock.
        started: Time of admission.
    """

    text: Detokenizer

    def __init__(self, request: Request) -> None:
        super().__init__(BASE, [])
        self.request = request
        self.prompt: list[int] = []
        self.max_tokens = 0
        self.sampler: Sampler | None = None
        self.adapter_slot: AdapterSlot | None = None
        self.unadapted = 0
        self.num_completion_tokens = 0
        self.finish: Finish | None = None
        self.cancelled = False
        self.arrived = self.started = time.monotonic()

    def begin(self, base: BaseLM, prompt: list[int]) -> None:
        """Sets the prompt, and what generation needs."""
        request = self.request
        self.prompt, self.pending = prompt, prompt
        self.max_tokens = min(request.max_tokens, base.max_tokens - len(prompt))
        self.text = Detokenizer(base, request.stop, request.one_line, prompt if request.continues else None)
        if request.temperature > 0:
            self.sampler = Sampler(request.temperature, request.top_p, request.seed)

    def use(self, adapter_slot: AdapterSlot) -> None:
        """Sets the adapter. An activated one whose invocation tokens the prompt lacks does not act, as in PEFT."""
        self.adapter_slot, self.slot = adapter_slot, adapter_slot.number
        if adapter_slot.invocation:
            start = activation_start(self.prompt, adapter_slot.invocation)
            self.slot = BASE if start is None else self.slot
            self.unadapted = start or 0

    def append_token(self, token: int, stop_tokens: set[int]) -> None:
        """Adds the model's next token, and sets `finish` if it is the last one."""
        self.num_completion_tokens += 1
        if token in stop_tokens:
            self.finish = "stop"
        else:
            self.text.append(token)
            if self.text.stopped:
                self.finish = "stop"
            elif self.num_completion_tokens >= self.max_tokens:
                self.finish = "length"
        if self.finish is None:
            self.pending = [token]
        else:
            self.text.finish()
            self.finish = "stop" if self.text.stopped else self.finish

    def share(self, prefix: SharedPrefix) -> None:
        """Continues a prefix instead of computing its tokens; tokens in the cache become the prefix's."""
        length = len(prefix.tokens)
        if len(self.cached):
            prefix.cached, self.cached = self.cached[:length], self.cached[length:]
            prefix.pending = prefix.tokens[len(prefix.cached) :]
        if not self.num_completion_tokens:
            self.pending = self.prompt[length + len(self.cached) :]
        self.parent = prefix
        prefix.references += 1
