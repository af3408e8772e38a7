"""Continuous batching: answers of many people on one base, which join and leave one running batch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from ownlm.inference.sampling import Dice, next_tokens
from ownlm.inference.text import AnswerText
from ownlm.model.bank import LoraBank
from ownlm.model.banks import Banks
from ownlm.model.base import BaseLM
from ownlm.model.kv_cache import KvCache
from ownlm.model.packed import EMPTY, BatchBuilder, TokenPositions, common_prefix


@dataclass(slots=True, eq=False)
class Strand:
    """Tokens of one person that follow each other, some of them in the cache already.

    Attributes:
        slot: of the person's adapter.
        due: tokens that have not gone through the model.
        own: the places of those that have.
        after: the strand that this one continues.
        users: how many continue this one, and itself while it is live.
    """

    slot: int
    due: list[int]
    own: TokenPositions = field(default_factory=lambda: EMPTY, init=False)
    after: "Strand | None" = field(default=None, init=False)
    users: int = field(default=1, init=False)

    @property
    def chain(self) -> TokenPositions:
        """Places of all tokens up to the last that is in the cache."""
        return self.own if self.after is None else np.concatenate([self.after.chain, self.own])


@dataclass(slots=True, eq=False)
class Reply(Strand):
    """An answer under way: a prompt, then the tokens that the model gives.

    Attributes:
        prompt_tokens: how many tokens the prompt has.
        most: the longest answer, in tokens.
        text: what it says.
        dice: by which tokens are drawn; None for the likeliest.
        finish: why it ended: by itself ("stop"), or because it was too long; None while it goes on.
        heard: how many tokens the model gave, one that ended it included.
    """

    most: int
    text: AnswerText
    dice: Dice | None = None
    finish: Literal["stop", "length"] | None = field(default=None, init=False)
    heard: int = field(default=0, init=False)
    prompt_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.due)

    @property
    def need(self) -> int:
        """How many places it takes at most."""
        return self.prompt_tokens + self.most

    def hear(self, token: int, base: BaseLM, ends: set[int]) -> None:
        """The model's next token."""
        self.heard += 1
        if token in ends:
            self.finish = "stop"
        else:
            self.text.add(token)
            if self.text.stopped:
                self.finish = "stop"
            elif self.heard >= self.most or self.prompt_tokens + self.heard >= base.max_tokens:
                self.finish = "length"
        if self.finish:
            self.text.end()
            self.finish = "stop" if self.text.stopped else self.finish
        else:
            self.due = [token]


class Decoder:
    """One running batch on one base. Each step is one pass: everybody's next token, and prompt tokens that are due.

    Args:
        bank: whose slots the replies name, attached; None for the base alone.
        prompt_tokens: how many tokens of prompts go through the model in one pass, beside the next tokens: shared out
            evenly, so that a long prompt stalls nobody.
        places: how many tokens' keys and values are kept at most.
    """

    def __init__(
        self, base: BaseLM, bank: LoraBank | Banks | None = None, *, prompt_tokens: int = 4096, places: int = 2**16
    ) -> None:
        self.base, self.bank, self.prompt_tokens, self.places = base, bank, prompt_tokens, places
        self.live: list[Reply] = []
        self.passes = 0
        self._cache = KvCache()
        self._ends = base.stop_tokens
        self._reserved = 0

    def has_room(self, tokens: int) -> bool:
        """Whether replies of that many tokens, prompts and answers, can join now. An empty batch takes any."""
        return not self.live or self._reserved + tokens <= self.places

    def join(self, *replies: Reply) -> None:
        """Lets replies of one slot join the batch. They share what their prompts have in common at the beginning."""
        shared = min(common_prefix([one.due for one in replies]), min(len(one.due) for one in replies) - 1)
        if len(replies) > 1 and shared > 0:
            beginning = Strand(replies[0].slot, replies[0].due[:shared])
            beginning.users = len(replies)
            for reply in replies:
                reply.due, reply.after = reply.due[shared:], beginning
        self.live += replies
        self._reserved += sum(reply.need for reply in replies)

    def leave(self, replies: Iterable[Reply]) -> None:
        """Takes replies out of the batch, whether they have ended or not."""
        gone = set(map(id, replies))
        for reply in self.live:
            if id(reply) in gone:
                self._reserved -= reply.need
                self._release(reply)
        self.live = [reply for reply in self.live if id(reply) not in gone]

    def clear(self) -> list[Reply]:
        """Takes everybody out, after a pass that failed; returns who was in it."""
        lost, self.live, self._reserved, self._cache = self.live, [], 0, KvCache()
        return lost

    @torch.inference_mode()
    def step(self) -> list[Reply]:
        """One pass; returns the replies that heard a token. Those with a `finish` have left.

        After an error, `clear` makes it usable again.
        """
        taken = self._taken()
        places = self._cache.take(sum(count for _, count in taken))
        row, at = BatchBuilder(), 0
        for strand, count in taken:
            own = places[at : at + count]
            row.add(strand.slot, strand.due[:count], after=strand.chain, at=own)
            strand.own, strand.due = np.concatenate([strand.own, own]), strand.due[count:]
            at += count
            row.predict(strand.slot, np.array([at - 1]))
        logits_PV = self.base.logits(
            row.pack(self.base.device), self.bank, self._cache.writing(places, self.base.device)
        )
        self.passes += 1
        asking = [(n, one) for n, (one, _) in enumerate(taken) if isinstance(one, Reply) and not one.due]
        heard = [reply for _, reply in asking]
        tokens = next_tokens(logits_PV[[n for n, _ in asking]], [reply.dice for reply in heard])
        for reply, token in zip(heard, tokens, strict=True):
            reply.hear(token, self.base, self._ends)
        self.leave(reply for reply in heard if reply.finish)
        return heard

    def _taken(self) -> list[tuple[Strand, int]]:
        """The strands of this pass, in ascending order of slot, and how many of its tokens each one brings."""
        going: list[tuple[Strand, int]] = [(reply, 1) for reply in self.live if reply.heard]
        waiting = [reply for reply in self.live if not reply.heard]
        shared = {id(one.after): one.after for one in waiting if one.after is not None and one.after.due}
        first = _share_out(list(shared.values()), self.prompt_tokens)
        done = {id(strand) for strand, count in first if count == len(strand.due)}
        ready = [one for one in waiting if id(one.after) not in shared or id(one.after) in done]
        then = _share_out(ready, self.prompt_tokens - sum(count for _, count in first))
        return sorted([*first, *then, *going], key=lambda one: one[0].slot)

    def _release(self, strand: Strand) -> None:
        """Frees a strand's places, and those of what it continues once nobody else does."""
        strand.users -= 1
        if strand.users == 0:
            self._cache.give_back(strand.own)
            if strand.after is not None:
                self._release(strand.after)


def _share_out(strands: Sequence[Strand], room: int) -> list[tuple[Strand, int]]:
    """How many of their due tokens strands bring, `room` in all.

    Half is for who waits longest, so that nobody waits for ever; then short ones go before long ones.
    """
    if not strands or room <= 0:
        return []
    oldest, *others = strands
    counts = {id(oldest): min(len(oldest.due), max(1, room // 2) if others else room)}
    room -= counts[id(oldest)]
    for strand in sorted(others, key=lambda one: len(one.due)):
        counts[id(strand)] = min(len(strand.due), room)
        room -= counts[id(strand)]
    counts[id(oldest)] += min(room, len(oldest.due) - counts[id(oldest)])
    return [(strand, counts[id(strand)]) for strand in strands if counts[id(strand)]]
