"""Continuous batching: sequences of many users join and leave one running batch on one base."""

from collections.abc import Iterable

import numpy as np
import torch

from ownlm.inference.sampling import next_tokens
from ownlm.inference.sequence import Sequence, SharedPrefix, TokenSpan
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.model.kv_cache import KvCache
from ownlm.model.packed import BatchBuilder, common_prefix
from ownlm.model.piece_bank import Banks
from ownlm.model.segments import BASE

INSTRUCTIONS = 8  # of activated adapters, with keys and values in the cache


class Decoder:
    """One running batch on one base. A step is one forward pass: prompt tokens, and the next token of each sequence.

    Args:
        banks: Attached banks with the slots that sequences name; None for the base alone.
        prompt_tokens: Number of prompt tokens in one pass. Sequences share it, so that a long prompt delays no other.
        cache_tokens: Number of tokens with keys and values in the cache.
    """

    def __init__(
        self,
        base: BaseLM,
        banks: LoraBank | Banks | None = None,
        *,
        prompt_tokens: int = 4096,
        cache_tokens: int = 2**16,
    ) -> None:
        self.base, self.banks, self.prompt_tokens, self.cache_tokens = base, banks, prompt_tokens, cache_tokens
        self.running: list[Sequence] = []
        self.passes = 0
        self._joined: list[Sequence] = []  # since the last step
        self._cache = KvCache()
        self._instructions: dict[tuple[int, ...], SharedPrefix] = {}  # that no adapter acts on, latest last
        self._stop_tokens = base.stop_tokens
        self._reserved = 0  # cache positions that running sequences need at most

    def has_room(self, sequence: Sequence) -> bool:
        """Whether the cache has room for a sequence. An empty batch takes any."""
        return not self.running or self._reserved + _need(sequence) <= self.cache_tokens

    def join(self, sequence: Sequence) -> None:
        """Adds a sequence to the batch."""
        self.running.append(sequence)
        self._reserved += _need(sequence)
        if sequence.unadapted:
            sequence.share(self._instruction(sequence))
        else:
            self._joined.append(sequence)

    def _instruction(self, sequence: Sequence) -> SharedPrefix:
        """The span of a prompt's beginning that no adapter acts on.

        In a task's prompt it is the task's instruction: all callers share it, and the latest ones stay in the cache.
        """
        tokens = tuple(sequence.prompt[: sequence.unadapted])
        if sequence.request.continues:  # a caller's own text
            return SharedPrefix(BASE, list(tokens))
        span = self._instructions.pop(tokens, None)
        if span is None:
            span = SharedPrefix(BASE, list(tokens))
            span.references = 1  # this decoder's own
        self._instructions[tokens] = span
        if len(self._instructions) > INSTRUCTIONS:
            self._release(self._instructions.pop(next(iter(self._instructions))))
        return span

    def leave(self, sequences: Iterable[Sequence]) -> None:
        """Takes sequences out of the batch, finished or not."""
        gone = set(sequences)
        for sequence in self.running:
            if sequence in gone:
                self._reserved -= _need(sequence)
                self._release(sequence)
        self.running = [one for one in self.running if one not in gone]
        self._joined = [one for one in self._joined if one not in gone]

    def clear(self) -> list[Sequence]:
        """Empties the batch after a pass that failed, and returns the sequences that were in it."""
        lost, self.running, self._joined, self._reserved, self._cache = self.running, [], [], 0, KvCache()
        self._instructions = {}
        return lost

    @torch.inference_mode()
    def step(self) -> list[Sequence]:
        """Runs one pass, and returns the sequences that got a token; those with a `finish` have left the batch.

        After an error, the batch must be emptied with `clear`.
        """
        self._share_prefixes()
        scheduled = self._schedule()
        places = self._cache.take(sum(count for _, count in scheduled))
        row, at = BatchBuilder(), 0
        for span, count in scheduled:
            new = places[at : at + count]
            row.add(span.slot, span.pending[:count], after=span.positions, at=new)
            span.cached, span.pending = np.concatenate([span.cached, new]), span.pending[count:]
            at += count
            row.predict(span.slot, np.array([at - 1]))
        logits_PV = self.base.logits(
            row.pack(self.base.device), self.banks, self._cache.writing(places, self.base.device)
        )
        self.passes += 1
        ready = [(n, one) for n, (one, _) in enumerate(scheduled) if isinstance(one, Sequence) and not one.pending]
        sequences = [sequence for _, sequence in ready]
        samplers = {n: one.sampler for n, one in ready}
        tokens = next_tokens(logits_PV, [samplers.get(n) for n in range(len(scheduled))])
        for n, sequence in ready:
            sequence.append_token(tokens[n], self._stop_tokens)
        self.leave(sequence for sequence in sequences if sequence.finish)
        return sequences

    def _schedule(self) -> list[tuple[TokenSpan, int]]:
        """Returns the spans of the next pass, in ascending order of slot, with their numbers of tokens."""
        decoding: list[tuple[TokenSpan, int]] = [(one, 1) for one in self.running if one.num_completion_tokens]
        prefilling = [one for one in self.running if not one.num_completion_tokens]
        prefixes = {id(one.parent): one.parent for one in prefilling if one.parent is not None and one.parent.pending}
        first = _share_out(list(prefixes.values()), self.prompt_tokens)
        complete = {id(span) for span, count in first if count == len(span.pending)}
        ready = [one for one in prefilling if id(one.parent) not in prefixes or id(one.parent) in complete]
        then = _share_out(ready, self.prompt_tokens - sum(count for _, count in first))
        return sorted([*first, *then, *decoding], key=lambda scheduled: scheduled[0].slot)

    def _share_prefixes(self) -> None:
        """Lets sequences that joined share the beginning of their prompts with others of the same adapter and caller.

        Callers never share: the time to the first token must not reveal what another caller asked. An instruction that
        no adapter acts on is the task's, and shared by all.
        """
        joined, self._joined = self._joined, []
        for slot, caller in dict.fromkeys((one.slot, one.request.caller) for one in joined):
            alike = [
                one for one in self.running if (one.slot, one.request.caller) == (slot, caller) and not one.unadapted
            ]
            prefixes = {one.parent for one in alike if isinstance(one.parent, SharedPrefix)}
            alone, donor = list[Sequence](), None  # sequences without a prefix; at most one of them has begun
            for one in alike:
                if one.parent is None and len(one.cached):
                    donor = one
                elif one.parent is None:
                    longest = max((p for p in prefixes if p.begins(one.prompt)), key=_length, default=None)
                    alone += [one] if longest is None else []
                    if longest is not None:
                        one.share(longest)
            together = [*alone, donor] if donor is not None and alone else alone
            if len(together) > 1:
                prompts = [one.prompt for one in together]
                length = min(common_prefix(prompts), min(map(len, prompts)) - 1)
                if length > 0:
                    prefix = SharedPrefix(slot, prompts[0][:length])
                    for one in together:
                        one.share(prefix)

    def _release(self, span: TokenSpan) -> None:
        """Frees a span's cache positions, and its parent's with the last span that uses it."""
        span.references -= 1
        if span.references == 0:
            self._cache.give_back(span.cached)
            if span.parent is not None:
                self._release(span.parent)


def _need(sequence: Sequence) -> int:
    return len(sequence.prompt) + sequence.max_tokens


def _length(prefix: SharedPrefix) -> int:
    return len(prefix.tokens)


def _share_out(spans: list[TokenSpan] | list[Sequence], room: int) -> list[tuple[TokenSpan, int]]:
    """Divides `room` tokens of a pass among spans.

    Half goes to the span that has waited longest, so that none waits for ever; then short spans go before long ones.
    """
    if not spans or room <= 0:
        return []
    oldest, *others = spans
    counts = {id(oldest): min(len(oldest.pending), max(1, room // 2) if others else room)}
    room -= counts[id(oldest)]
    for span in sorted(others, key=lambda one: len(one.pending)):
        counts[id(span)] = min(len(span.pending), room)
        room -= counts[id(span)]
    counts[id(oldest)] += min(room, len(oldest.pending) - counts[id(oldest)])
    return [(span, counts[id(span)]) for span in spans if counts[id(span)]]
