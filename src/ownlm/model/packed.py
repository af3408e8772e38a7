"""Packed batches: tokens of many users in one row, without padding.

A row is filled segment by segment. A *chain* is the list of row positions of one sequence so far. A new segment
continues a chain (`after`), so several sequences can share a prefix that is computed once:

    instruction ──┬── record 1 ─ answer 1            training: one user's minibatch
                  └── record 2 ─ answer 2
    prompt ──┬── label 1                             scoring: every label reads the same prompt
             └── label 2
    prompt (cached) ── next token                    generating: chains are of places in a cache, not in the row
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ownlm.model.dropout import token_keys
from ownlm.model.segments import Segments, make_segments, pad, to_device

TokenPositions = NDArray[np.int64]
AttentionSegment = tuple[int, int, TokenPositions]  # first row position, length, chain up to its end
EMPTY: TokenPositions = np.empty(0, dtype=np.int64)
BLOCK = 64  # queries; smaller blocks save less than their gathers cost


@dataclass(frozen=True, slots=True)
class Mask:
    """The tokens of its own sequence, up to itself, that a query sees in a layer.

    Attributes:
        window: the number of latest tokens that are seen; None for all.
        function: any other rule, as transformers writes it: of batch, head, and the places of query and key.
    """

    window: int | None = None
    function: Callable[[int, int, Tensor, Tensor], Tensor] | None = None


CAUSAL = Mask()


@dataclass(frozen=True, slots=True)
class Bucket:
    """Segments of similar lengths, padded to one shape for attention alone. N segments, Q queries, K keys.

    Padding repeats positions of the segment itself, so nothing of another sequence, not even a NaN, is ever read.
    """

    distance_NQK: Tensor  # query's place in its sequence minus key's; negative where the key is later, or padding
    masks: dict[Mask, Tensor] = field(default_factory=dict)  # made once, for all layers of one kind

    def mask(self, mask: Mask, dtype: torch.dtype) -> Tensor:
        """The additive mask, [N, 1, Q, K]: 0 where a query may see a key, else minus infinity."""
        if mask not in self.masks:
            seen = self.distance_NQK >= 0
            if mask.window is not None:
                seen &= self.distance_NQK < mask.window
            if mask.function is not None:
                place_K = torch.arange(seen.shape[2], device=seen.device)
                seen &= mask.function(0, 0, self.distance_NQK[:, :, :1], place_K)  # distance to key 0: query's place
            hidden = torch.full_like(self.distance_NQK, -torch.inf, dtype=dtype)
            self.masks[mask] = hidden.masked_fill_(seen, 0)[:, None]
        return self.masks[mask]


@dataclass(frozen=True, slots=True)
class Padded:
    """Queries and keys of a row's attention, in buckets.

    Attributes:
        buckets: groups of segments, in the order of the following tensors.
        query_q: row positions of all queries, segment by segment, padding included.
        key_k: positions of all keys, segment by segment, with padding and cached tokens.
        restore_T: the place of each row position among the queries.
    """

    buckets: tuple[Bucket, ...]
    query_q: Tensor
    key_k: Tensor
    restore_T: Tensor


@dataclass(frozen=True, slots=True)
class Ragged:
    """Queries and keys of a row's attention without padding: S segments, queries in row order.

    Attributes:
        key_k: positions of all keys, segment by segment, cached tokens counted; None for those of the row in order.
        query_ends, key_ends: cumulative numbers of queries and of keys, S + 1 of each, int32.
        longest_query, longest_key: the largest number of queries and of keys in a segment.
    """

    key_k: Tensor | None
    query_ends: Tensor
    key_ends: Tensor
    longest_query: int
    longest_key: int


@dataclass(frozen=True)
class PackedBatch:
    """A row of T tokens, ready for one forward pass, and the P next tokens it is asked to predict.

    Attributes:
        input_ids_T: token ids.
        position_ids_T: each token's place in its own sequence.
        segments: the slot of each token; slots ascend.
        attention_segments: each segment's first row position, length, and token positions up to its end.
        at_P: row positions at which the next token is predicted.
        asked_A: these positions without repetition, in row order; the head sees no others.
        asked: the slot of each of the A positions.
        row_P: the place of each prediction among the A positions; None where the two are the same.
        target_P: the next tokens; empty where they are not known.
        weight_P: each prediction's weight in the loss.
        place_P: the place of each prediction's slot among the row's slots.
        dropout_key_T: each token's key for `model.dropout`; None for a row without dropout.
    """

    input_ids_T: Tensor
    position_ids_T: Tensor
    segments: Segments
    attention_segments: Sequence[AttentionSegment]
    at_P: Tensor
    asked_A: Tensor
    asked: Segments
    row_P: Tensor | None
    target_P: Tensor
    weight_P: Tensor
    place_P: Tensor
    dropout_key_T: Tensor | None = None

    @cached_property
    def padded(self) -> Padded:
        """The row for attention kernels that need sequences of one length."""
        parts = [_pad(group) for group in _alike(_blocks(self.attention_segments))]
        query_q = np.concatenate([query_NQ.ravel() for query_NQ, _, _ in parts])
        restore_T = np.empty(self.tokens, dtype=np.int64)
        restore_T[query_q[::-1]] = np.arange(len(query_q))[::-1]  # of a position and its padding, the first
        padded = Padded(
            buckets=tuple(Bucket(_tensor(distance_NQK, torch.int32)) for _, _, distance_NQK in parts),
            query_q=_tensor(query_q),
            key_k=_tensor(np.concatenate([key_NK.ravel() for _, key_NK, _ in parts])),
            restore_T=_tensor(restore_T),
        )
        return to_device(padded, self.at_P.device)

    @cached_property
    def ragged(self) -> Ragged:
        """The row for attention kernels that take sequences of any lengths."""
        queries = [n for _, n, _ in self.attention_segments]
        keys = [len(chain) for _, _, chain in self.attention_segments]
        key_k = np.concatenate([chain for _, _, chain in self.attention_segments])
        ragged = Ragged(
            key_k=None if np.array_equal(key_k, np.arange(self.tokens)) else _tensor(key_k),
            query_ends=_tensor(np.cumsum([0, *queries]), torch.int32),
            key_ends=_tensor(np.cumsum([0, *keys]), torch.int32),
            longest_query=max(queries),
            longest_key=max(keys),
        )
        return to_device(ragged, self.at_P.device)

    @property
    def longest(self) -> int:
        """The number of tokens of the longest sequence, cached ones included."""
        return max(len(chain) for _, _, chain in self.attention_segments)

    @property
    def tokens(self) -> int:
        """The number of tokens in the row."""
        return len(self.input_ids_T)


class BatchBuilder:
    """Collects segments in ascending order of slot, and packs them into one row.

    >>> row = BatchBuilder()
    >>> shared = row.add(0, [5, 6, 7])
    >>> first, second = row.add(0, [8], after=shared), row.add(0, [9], after=shared)
    >>> first.tolist(), second.tolist()
    ([0, 1, 2, 3], [0, 1, 2, 4])
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._places: list[TokenPositions] = []
        self._dropout_keys: list[TokenPositions] = []
        self._segments: list[tuple[int, int]] = []
        self._attention_segments: list[AttentionSegment] = []
        self._at: list[TokenPositions] = []
        self._targets: list[Sequence[int]] = []
        self._weights: list[float] = []
        self._slots: list[int] = []

    def add(
        self, slot: int, tokens: Sequence[int], after: TokenPositions = EMPTY, at: TokenPositions | None = None,
        seed: int | None = None,
    ) -> TokenPositions:  # fmt: skip
        """Appends a segment; returns the positions of its sequence up to its last token.

        Args:
            slot: the slot of its adapter, or `BASE`.
            tokens: token ids.
            after: the positions of the sequence that it continues.
            at: the tokens' places in a cache; None for a row without a cache. Then `after` holds such places too.
            seed: the sequence's dropout seed; None without dropout, and then for no segment of the row.
        """
        if len(tokens) == 0:
            return after
        if self._segments and slot < self._segments[-1][0]:
            raise ValueError(f"slots must ascend along a row: {slot} after {self._segments[-1][0]}")
        first = len(self.tokens)
        self.tokens.extend(tokens)
        chain = np.concatenate([after, np.arange(first, first + len(tokens)) if at is None else at])
        self._places.append(np.arange(len(after), len(chain)))
        if seed is not None:
            self._dropout_keys.append(token_keys(seed, self._places[-1]))
        self._attention_segments.append((first, len(tokens), chain))
        self._segments.append((slot, len(tokens)))
        return chain

    def predict(self, slot: int, positions: TokenPositions, targets: Sequence[int] = (), weight: float = 1.0) -> None:
        """Asks for predictions of the next token at row positions, with one target each in training."""
        self._at.append(positions)
        self._targets.append(targets)
        self._weights.append(weight)
        self._slots.append(slot)

    def pack(self, device: torch.device | str = "cpu") -> PackedBatch:
        """The finished row, on `device`."""
        counts = [len(at) for at in self._at]
        at_P = np.concatenate([EMPTY, *self._at])
        asked_A, row_P = np.unique(at_P, return_inverse=True)
        slot_T = np.repeat([slot for slot, _ in self._segments], [tokens for _, tokens in self._segments])
        segments = make_segments(self._segments, "cpu")
        asked = make_segments([(slot, 1) for slot in slot_T[asked_A].tolist()], "cpu", segments)
        if torch.device(device).type != "cpu":
            segments, asked = (replace(one, long=(), short=None, padded=pad(one, "cpu")) for one in (segments, asked))
        batch = PackedBatch(
            input_ids_T=_tensor(self.tokens),
            position_ids_T=_tensor(np.concatenate(self._places)),
            segments=segments,
            attention_segments=self._attention_segments,
            at_P=_tensor(at_P),
            asked_A=_tensor(asked_A),
            asked=asked,
            row_P=None if np.array_equal(at_P, asked_A) else _tensor(row_P),
            target_P=_tensor([token for tokens in self._targets for token in tokens]),
            weight_P=_tensor(np.repeat(self._weights, counts), torch.float64),
            place_P=_tensor(np.repeat(np.searchsorted(segments.slots, self._slots), counts)),
            dropout_key_T=_tensor(np.concatenate(self._dropout_keys)) if self._dropout_keys else None,
        )
        return to_device(batch, device)


def _tensor(values: object, dtype: torch.dtype = torch.long) -> Tensor:
    return torch.as_tensor(values, dtype=dtype)


def common_prefix(sequences: Sequence[list[int]]) -> int:
    """The length of the longest prefix that all sequences share.

    >>> common_prefix([[1, 2, 3], [1, 2, 4]])
    2
    """
    shortest, longest = min(sequences), max(sequences)  # in lexical order the two farthest apart
    for place, (one, other) in enumerate(zip(shortest, longest, strict=False)):
        if one != other:
            return place
    return min(len(shortest), len(longest))


def _blocks(segments: Sequence[AttentionSegment]) -> Iterator[AttentionSegment]:
    """Segments, long ones in blocks of about `BLOCK` queries: the first ones need not see keys that come later."""
    for first, n, chain in segments:
        count = max(1, round(n / BLOCK))
        ends = [n * (place + 1) // count for place in range(count)]
        for start, end in zip([0, *ends], ends, strict=False):
            yield first + start, end - start, chain[: len(chain) - n + end]


def _alike(segments: Iterable[AttentionSegment]) -> Iterable[list[AttentionSegment]]:
    """Segments grouped so that little is lost to padding: queries to the next 16, keys to the next 32."""
    groups: dict[tuple[int, int], list[AttentionSegment]] = {}
    for segment in segments:
        _, n, chain = segment
        groups.setdefault((-(-n // 16) if n > 1 else 0, -(-len(chain) // 32)), []).append(segment)
    return list(groups.values())


def _pad(group: Sequence[AttentionSegment]) -> tuple[TokenPositions, TokenPositions, TokenPositions]:
    """Query positions, key positions and distances of segments, padded to one shape: NQ, NK, NQK."""
    longest_q, longest_k = max(n for _, n, _ in group), max(len(chain) for _, _, chain in group)
    firsts_N = np.array([first for first, _, _ in group])
    queries_N, keys_N = np.array([n for _, n, _ in group]), np.array([len(chain) for _, _, chain in group])
    step_Q, step_K = np.arange(longest_q), np.arange(longest_k)
    query_NQ = firsts_N[:, None] + np.minimum(step_Q, queries_N[:, None] - 1)
    key_NK = np.repeat(np.array([chain[-1] for _, _, chain in group])[:, None], longest_k, axis=1)
    for row_K, (_, _, chain) in zip(key_NK, group, strict=True):
        row_K[: len(chain)] = chain
    place_NQ = (keys_N - queries_N)[:, None] + np.minimum(step_Q, queries_N[:, None] - 1)
    return query_NQ, key_NK, place_NQ[:, :, None] - step_K  # padding lies behind the last key, so it counts as later
