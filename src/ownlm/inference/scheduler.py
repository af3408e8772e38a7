"""Continuous batching on one base: admission of waiting requests, generation, and choice among labels."""

import logging
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import chain

from ownlm.errors import OwnlmError
from ownlm.inference.adapter_cache import AdapterCache, AttachedAdapter
from ownlm.inference.decoder import Decoder
from ownlm.inference.label_scoring import answer_tokens, encode_labels, score_labels
from ownlm.inference.prompts import PromptEncoder
from ownlm.inference.protocol import EngineError
from ownlm.inference.request import Finish, RequestOutput
from ownlm.inference.sequence import Sequence
from ownlm.model.base import BaseLM
from ownlm.oppu.malloc import in_halves

log = logging.getLogger(__name__)
SCORED_TOKENS = 4096  # tokens of prompts and labels in one pass that scores labels

Outputs = list[tuple[Sequence, RequestOutput]]


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """How much one base computes together.

    Attributes:
        slots: Number of adapters of one shape in memory.
        running: Number of requests that run together.
        prompt_tokens: Number of prompt tokens in one pass. With more, prompts are read faster; with fewer, sequences
            that are being generated wait less.
        cache_tokens: Number of tokens with keys and values in the cache.
        admission_s: Seconds of one admission, since loading adapters delays the running requests.
        overtaking_s: Seconds after which a request that does not fit yet is overtaken no more.
    """

    slots: int = 64
    running: int = 64
    prompt_tokens: int = 256
    cache_tokens: int = 2**15
    admission_s: float = 0.1
    overtaking_s: float = 5.0


class Scheduler:
    """Continuous-batching scheduler for one base. Not thread-safe: one thread drives it.

    Args:
        adapters: The adapters of the base that are in memory.
    """

    def __init__(self, base: BaseLM, adapters: AdapterCache | AttachedAdapter, limits: EngineLimits) -> None:
        self.base, self.adapters, self.limits = base, adapters, limits
        self.decoder = Decoder(
            base, adapters.banks, prompt_tokens=limits.prompt_tokens, cache_tokens=limits.cache_tokens
        )
        self.waiting: list[Sequence] = []
        self.tokens = self.chosen = self._scoring_passes = 0
        self._choosing: list[Sequence] = []
        self._prompts = PromptEncoder(base, base.max_tokens - len(adapters.virtual_tokens))

    @property
    def running(self) -> list[Sequence]:
        """The sequences that run."""
        return [*self.decoder.running, *self._choosing]

    @property
    def unfinished(self) -> int:
        """Number of sequences that wait or run."""
        return len(self.waiting) + len(self.decoder.running) + len(self._choosing)

    @property
    def passes(self) -> int:
        """Number of forward passes so far."""
        return self.decoder.passes + self._scoring_passes

    def encode(self, sequence: Sequence) -> OwnlmError | None:
        """Sets the sequence's prompt, and returns what is wrong with it. Any thread may call it."""
        request = sequence.request
        try:
            tokens = self._prompts.encode(request.prompt, answer_tokens(self.base, request.labels, 1))
            sequence.begin(self.base, [*self.adapters.virtual_tokens, *tokens])
        except OwnlmError as error:
            return error
        except Exception as error:  # a tokenizer's fault with one text concerns this request alone
            return _unexpected(error)
        return None

    def add(self, sequence: Sequence) -> None:
        """Queues an encoded sequence."""
        self.waiting.append(sequence)

    def step(self) -> Iterator[Outputs]:
        """Admits waiting sequences, scores labels in one pass, generates in one pass; yields the outputs of each."""
        self._leave([one for one in self.running if one.cancelled])
        yield self._admit()
        if self._choosing:
            labels = encode_labels(self.base, self._choosing[0].request.labels)
            batch = self._scoring_batch(sum(map(len, labels)))
            yield self._end_if_failing(batch, lambda: self._choose(batch, labels))
        if self.decoder.running:
            yield self._end_if_failing(self.decoder.running, self._generate)

    def end(self, error: OwnlmError) -> Outputs:
        """Ends all sequences with an error."""
        waiting, self.waiting = self.waiting, []
        return [*self._end(self.running, error), *((one, RequestOutput(error=error)) for one in waiting)]

    def _admit(self) -> Outputs:
        """Starts waiting sequences: of callers with the fewest running ones first, and of these in order of arrival.

        For some time others overtake a sequence that does not fit yet; then it holds back those behind it.
        """
        began, outputs = time.monotonic(), Outputs()
        self.waiting = [one for one in self.waiting if not one.cancelled]
        candidates, running = self.waiting.copy(), Counter(one.request.caller for one in self.running)
        while candidates and running.total() < self.limits.running and self._in_time(began):
            sequence = min(candidates, key=lambda one: running[one.request.caller])
            candidates.remove(sequence)
            try:
                started = self._start(sequence)
            except Exception as error:  # a damaged adapter or a full memory concerns this request alone
                outputs.append(
                    (sequence, RequestOutput(error=error if isinstance(error, OwnlmError) else _unexpected(error)))
                )
                self.waiting.remove(sequence)
                continue
            if started:
                running[sequence.request.caller] += 1
                self.waiting.remove(sequence)
            elif sequence.arrived < began - self.limits.overtaking_s:
                break
        return outputs

    def _in_time(self, began: float) -> bool:
        return time.monotonic() < began + self.limits.admission_s

    def _start(self, sequence: Sequence) -> bool:
        """Lets a sequence join the batch; False if there is no room for it."""
        request = sequence.request
        if not request.labels and not self.decoder.has_room(sequence):
            return False
        if request.adapter is not None:
            slot = self.adapters.acquire(request.adapter)
            if slot is None:
                return False
            sequence.use(slot)
        sequence.started = time.monotonic()
        if request.labels:
            self._choosing.append(sequence)
        else:
            self.decoder.join(sequence)
        return True

    def _scoring_batch(self, label_tokens: int) -> list[Sequence]:
        """Returns the oldest sequence that chooses, and others with the same labels as far as one pass has room.

        The instruction of activated adapters is in a pass once, so it counts for the oldest sequence alone.
        """
        oldest, *others = self._choosing
        batch, prompts = [oldest], len(oldest.prompt)
        for one in others:
            total = prompts + len(one.prompt) - one.unadapted
            fits = total <= self.limits.prompt_tokens and total + (len(batch) + 1) * label_tokens <= SCORED_TOKENS
            if fits and one.request.labels == oldest.request.labels:
                batch.append(one)
                prompts = total
        return batch

    def _choose(self, batch: list[Sequence], labels: list[list[int]]) -> Outputs:
        """Scores labels in one pass, and takes the likeliest for each sequence."""
        names, outputs = batch[0].request.labels, Outputs()

        def run(part: Collection[Sequence]) -> list[list[float]]:
            return score_labels(self.base, self.adapters.banks, list(part), labels)

        parts = in_halves(run, batch, "One prompt with its labels", lambda one: len(one.prompt) + sum(map(len, labels)))
        for sequence, scores in zip(batch, chain.from_iterable(parts), strict=True):
            best = max(range(len(names)), key=scores.__getitem__)
            self.tokens += len(labels[best])
            outputs.append((sequence, self._output(sequence, names[best].strip(), "stop", len(labels[best]))))
        self._scoring_passes += 1
        self.chosen += len(batch)
        self._leave(batch)
        return outputs

    def _generate(self) -> Outputs:
        """Generates the next tokens in one pass. Sequences without new text have no output."""
        outputs = Outputs()
        for sequence in self.decoder.step():
            self.tokens += 1
            output = self._output(sequence, sequence.text.take(), sequence.finish, sequence.num_completion_tokens)
            if output.finished or output.text:
                outputs.append((sequence, output))
        self._leave([sequence for sequence, output in outputs if output.finished])
        return outputs

    def _output(self, sequence: Sequence, text: str, finish: Finish | None, tokens: int) -> RequestOutput:
        """Returns new text if the slot holds the adapter that was asked: no user gets another adapter's answer."""
        holds = sequence.adapter_slot.adapter if sequence.adapter_slot else None
        asked = sequence.request.adapter.id if sequence.request.adapter else None
        if holds != asked:
            what = "Another adapter lies where the one that was asked should lie"
            return RequestOutput(error=EngineError(what, hint="ask again"))
        return RequestOutput(text, finish, holds, len(sequence.prompt), tokens)

    def _end_if_failing(self, sequences: list[Sequence], run: Callable[[], Outputs]) -> Outputs:
        """Runs a pass; one that fails, say for lack of memory, ends its sequences alone."""
        try:
            return run()
        except Exception as error:
            return self._end(sequences, _unexpected(error))

    def _end(self, sequences: list[Sequence], error: OwnlmError) -> Outputs:
        if any(not one.request.labels for one in sequences):
            self.decoder.clear()  # the cache positions of a failed pass are lost
        self._leave(sequences)
        return [(sequence, RequestOutput(error=error)) for sequence in sequences]

    def _leave(self, sequences: list[Sequence]) -> None:
        """Frees what sequences use."""
        self.decoder.leave(sequences)
        for sequence in sequences:
            if sequence.request.labels:
                self._choosing.remove(sequence)
            if sequence.adapter_slot is not None:
                self.adapters.release(sequence.adapter_slot)


def _unexpected(error: Exception) -> EngineError:
    """Logs a fault by its kind alone: its message might quote a user's text."""
    log.error("%s while answering\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
    return EngineError("The answer could not be finished", got=type(error).__name__, hint="ask again")
