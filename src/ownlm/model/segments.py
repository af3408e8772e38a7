"""Matrix products of many users' tokens, each token with the matrix of its slot.

A row has S segments, each of one slot; W of the U slots occur in the row. On a CPU each segment is one product.
Segments of one or two tokens, as in generation, are multiplied in one batch, each with a copy of its matrix. On a GPU
launching many small products takes longer than computing them, so segments are padded and multiplied in one batch.
Padding repeats a segment's own tokens, so nothing of one user, not even a NaN, reaches another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Value = TypeVar("Value")

BASE = -1  # the slot of tokens that no adapter touches
SHORT = 2  # tokens of a segment; up to here, one batch with copies of the matrices is quicker than single products
MOST_PADDING = 4  # a batch of products may hold so many times the tokens; beyond it, long segments are cut


@dataclass(frozen=True, slots=True)
class Padded:
    """Segments that have a slot, padded to one length: S segments of N tokens; t tokens of the row have a slot.

    A slot may have several of these segments, see `pad`. What would change nothing is None.

    Attributes:
        width: N.
        slot_S: slot of each segment.
        place_S: place of each segment's slot among the row's slots.
        ordered: whether `slot_S` is 0 to S - 1.
        own: whether `place_S` names each of the row's slots once, in order.
        token_s: row positions of the S x N tokens.
        padding_SN1: True at padding.
        row_t: row position of each token.
        place_t: place of each token among the S x N.
    """

    width: int
    slot_S: Tensor
    place_S: Tensor
    ordered: bool
    own: bool
    token_s: Tensor | None
    padding_SN1: Tensor | None
    row_t: Tensor | None
    place_t: Tensor | None


@dataclass(frozen=True, slots=True)
class Short:
    """The tokens of short segments: t of them."""

    row_t: Tensor  # row position of each token
    slot_t: Tensor  # slot of each token


@dataclass(frozen=True, slots=True)
class Segments:
    """The slots of a row's tokens: (slot, tokens) in row order; a slot has at most one segment, `BASE` any number."""

    parts: tuple[tuple[int, int], ...]
    slots: tuple[int, ...]  # of the whole row, ascending, also where the segments are those of a part of it
    long: tuple[tuple[int, slice], ...] = ()
    short: Short | None = None
    padded: Padded | None = None

    def rows(self) -> Iterator[tuple[int, slice]]:
        """Each slot but `BASE`, with the range of its tokens."""
        at = 0
        for slot, tokens in self.parts:
            if slot != BASE:
                yield slot, slice(at, at + tokens)
            at += tokens


def make_segments(
    parts: Sequence[tuple[int, int]], device: torch.device | str, whole: Segments | None = None
) -> Segments:
    """Segments of (slot, tokens), neighbours of one slot joined, in the form that suits the device.

    Args:
        whole: the row's segments, if `parts` are positions of that row.
    """
    joined: list[tuple[int, int]] = []
    for slot, tokens in parts:
        if joined and joined[-1][0] == slot:
            joined[-1] = (slot, joined[-1][1] + tokens)
        else:
            joined.append((slot, tokens))
    slots = whole.slots if whole else tuple(slot for slot, _ in joined if slot != BASE)
    segments = Segments(tuple(joined), slots)
    rows = list(segments.rows())
    long = tuple((slot, at) for slot, at in rows if at.stop - at.start > SHORT)
    if torch.device(device).type != "cpu":
        return replace(segments, padded=pad(segments, device))
    return replace(segments, long=long, short=_short(rows))


def _short(rows: Sequence[tuple[int, slice]]) -> Short | None:
    tokens = [
        (at, slot) for slot, span in rows if span.stop - span.start <= SHORT for at in range(*span.indices(span.stop))
    ]
    if not tokens:
        return None
    row_t, slot_t = torch.tensor(tokens).T.contiguous()
    return Short(row_t, slot_t)


def renumbered(segments: Segments, first: int, count: int, device: torch.device | str) -> Segments:
    """The same tokens by the slots of one bank, `count` of them from number `first` on; other tokens get `BASE`."""
    mine = range(first, first + count)
    if first == 0 and all(slot in mine for slot, _ in segments.parts if slot != BASE):
        return segments
    return make_segments([(slot - first if slot in mine else BASE, n) for slot, n in segments.parts], device)


def pad(segments: Segments, device: torch.device | str) -> Padded | None:
    """The padded form; None where no token has a slot. Where it would hold mostly padding, long segments are cut."""
    rows = list(segments.rows())
    if not rows:
        return None
    first_S, count_S = np.array([at.start for _, at in rows]), np.array([at.stop - at.start for _, at in rows])
    slot_S, tokens = np.array([slot for slot, _ in rows]), int(count_S.sum())
    if len(rows) * count_S.max() > MOST_PADDING * tokens:
        most = -(-tokens // len(rows))
        parts_S = -(-count_S // most)
        ahead_S = np.concatenate([most * np.arange(parts) for parts in parts_S])
        slot_S, first_S = np.repeat(slot_S, parts_S), np.repeat(first_S, parts_S) + ahead_S
        count_S = np.minimum(np.repeat(count_S, parts_S) - ahead_S, most)
    step_N = np.arange(count_S.max())
    token_SN = first_S[:, None] + np.minimum(step_N, count_S[:, None] - 1)
    real_SN = step_N < count_S[:, None]
    place_S, size = np.searchsorted(segments.slots, slot_S), sum(n for _, n in segments.parts)
    full, everywhere = bool(real_SN.all()), tokens == size
    padded = Padded(
        width=len(step_N),
        slot_S=torch.from_numpy(slot_S),
        place_S=torch.from_numpy(place_S),
        ordered=bool(np.array_equal(slot_S, np.arange(len(slot_S)))),
        own=bool(np.array_equal(place_S, np.arange(len(segments.slots)))),
        token_s=None if full and everywhere else torch.from_numpy(token_SN.ravel()),
        padding_SN1=None if full else torch.from_numpy(~real_SN[:, :, None]),
        row_t=None if everywhere else torch.from_numpy(token_SN[real_SN]),
        place_t=None if full else torch.from_numpy(np.flatnonzero(real_SN)),
    )
    return to_device(padded, device)


def to_device(value: Value, device: torch.device | str) -> Value:
    """A tuple or a dataclass with all its tensors, nested ones too, on a device; a GPU gets them in one copy."""
    device = torch.device(device)
    tensors = list(_tensors(value))
    if device.type == "cpu" or not tensors:
        return value
    ends = list(accumulate(-(-tensor.nbytes // 8) * 8 for tensor in tensors))  # each begins at a multiple of 8 bytes
    host = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    begins = [0, *ends[:-1]]
    for begin, tensor in zip(begins, tensors, strict=True):
        host[begin : begin + tensor.nbytes].view(tensor.dtype).copy_(tensor.flatten())
    sent = host.to(device, non_blocking=True)
    parts = (
        sent[begin : begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        for begin, tensor in zip(begins, tensors, strict=True)
    )
    moved: Value = _with_tensors(value, parts)
    return moved


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for one in value:
            yield from _tensors(one)
    elif is_dataclass(value):
        for one in fields(value):
            yield from _tensors(getattr(value, one.name))


def _with_tensors(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The same with other tensors, in the order of `_tensors`."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, tuple):
        return tuple(_with_tensors(one, tensors) for one in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{one.name: _with_tensors(getattr(value, one.name), tensors) for one in fields(value)})
    return value


def mm(x_TI: Tensor, weight_UIO: Tensor, segments: Segments, scale: float = 1.0) -> Tensor:
    """Each token's product with its slot's matrix: scale x_t W_u; zero for tokens of `BASE`.

    Returns:
        [T, O], in the weights' type.
    """
    if segments.padded is not None:
        product_tO, row_t = _padded_products(x_TI, weight_UIO, segments.padded, scale), segments.padded.row_t
        if row_t is None:
            return product_tO
        return product_tO.new_zeros(len(x_TI), product_tO.shape[1]).index_copy_(0, row_t, product_tO)
    x_TI = x_TI.to(weight_UIO.dtype)
    whole = all(slot != BASE for slot, _ in segments.parts)
    out_TO = (x_TI.new_empty if whole else x_TI.new_zeros)(len(x_TI), weight_UIO.shape[2])
    _add_products_(out_TO, x_TI, weight_UIO, segments, scale, beta=0)
    return out_TO


def add_mm_(out_TO: Tensor, x_TI: Tensor, weight_UIO: Tensor, segments: Segments, scale: float = 1.0) -> None:
    """Adds to each token its product with its slot's matrix, in place: out_t += scale x_t W_u.

    Args:
        out_TO: the output, of any floating type; the product is computed in the weights' type.
    """
    if segments.padded is not None:
        product_tO, row_t = _padded_products(x_TI, weight_UIO, segments.padded), segments.padded.row_t
        if row_t is None:
            out_TO.add_(product_tO, alpha=scale)
        else:
            out_TO.index_add_(0, row_t, product_tO.to(out_TO.dtype), alpha=scale)
        return
    x_TI = x_TI.to(weight_UIO.dtype)
    if out_TO.dtype != weight_UIO.dtype:
        out_TO.add_(mm(x_TI, weight_UIO, segments, scale))  # rounded once, after the sum
        return
    _add_products_(out_TO, x_TI, weight_UIO, segments, scale)


def _padded_products(x_TI: Tensor, weight_UIO: Tensor, p: Padded, scale: float = 1.0) -> Tensor:
    """scale x_t W_u for the tokens that have a slot, in row order."""
    x_SNI = _spread(x_TI, p, weight_UIO.dtype)
    own_SIO = weight_UIO[: len(p.slot_S)] if p.ordered else _rows(weight_UIO, p.slot_S)
    if scale == 1:
        product_SNO = torch.bmm(x_SNI, own_SIO)
    else:
        out_SNO = x_SNI.new_empty(*x_SNI.shape[:2], own_SIO.shape[2])
        product_SNO = out_SNO.baddbmm_(x_SNI, own_SIO, beta=0, alpha=scale)
    product_sO = product_SNO.flatten(0, 1)
    return product_sO if p.place_t is None else product_sO.index_select(0, p.place_t)


def _spread(x_TI: Tensor, p: Padded, dtype: torch.dtype) -> Tensor:
    """A row's vectors, padded: x_SNI."""
    x_sI = x_TI if p.token_s is None else x_TI.index_select(0, p.token_s)
    return x_sI.to(dtype).view(len(p.slot_S), p.width, x_TI.shape[1])


def _add_products_(
    out_TO: Tensor, x_TI: Tensor, weight_UIO: Tensor, segments: Segments, scale: float, beta: int = 1
) -> None:
    """out_t = beta out_t + scale x_t W_u for the tokens that have a slot."""
    for slot, at in segments.long:
        out_TO[at].addmm_(x_TI[at], weight_UIO[slot], beta=beta, alpha=scale)
    if (short := segments.short) is None:
        return
    own_tIO = _rows(weight_UIO, short.slot_t)
    if len(short.row_t) == len(x_TI):  # every token is in a short segment
        out_TO[:, None].baddbmm_(x_TI[:, None], own_tIO, beta=beta, alpha=scale)
    else:
        product_tO = torch.bmm(x_TI[short.row_t, None], own_tIO)[:, 0]
        if beta == 0:  # the memory may hold NaN
            out_TO.index_copy_(0, short.row_t, scale * product_tO)
        else:
            add_at_(out_TO, short.row_t, product_tO, scale)


def add_at_(out_TO: Tensor, row_t: Tensor, x_tO: Tensor, scale: float) -> None:
    """Adds scale x_t to rows of out, each a different one; `index_add_` was slower in passes on a CPU."""
    out_TO.index_copy_(0, row_t, out_TO.index_select(0, row_t).add_(x_tO.to(out_TO.dtype), alpha=scale))


def _rows(weight_UIO: Tensor, slot_t: Tensor) -> Tensor:
    """Copies of some slots' matrices, in the order in which they lie in memory."""
    if weight_UIO.stride(-1) == 1:
        return weight_UIO.index_select(0, slot_t)
    return weight_UIO.mT.index_select(0, slot_t).mT


def add_outer_(grad_WIO: Tensor, x_TI: Tensor, g_TO: Tensor, segments: Segments, scale: float = 1.0) -> None:
    """Adds to the gradient of each of the row's slots what its tokens give: G_w += scale sum of its x_t g_t^T."""
    if segments.padded is not None:
        p = segments.padded
        x_SNI, g_SNO = (_spread(one_TX, p, grad_WIO.dtype) for one_TX in (x_TI, g_TO))
        if p.padding_SN1 is not None:
            narrow = x_SNI if x_SNI.shape[2] < g_SNO.shape[2] else g_SNO
            narrow.masked_fill_(p.padding_SN1, 0)  # padding repeats tokens of the same slot: one side suffices
        if p.own:
            grad_WIO.baddbmm_(x_SNI.transpose(1, 2), g_SNO, alpha=scale)
        else:
            grad_WIO.index_add_(0, p.place_S, torch.bmm(x_SNI.transpose(1, 2), g_SNO), alpha=scale)
        return
    x_TI, g_TO = x_TI.to(grad_WIO.dtype), g_TO.to(grad_WIO.dtype)
    for slot, at in segments.rows():
        grad_WIO[segments.slots.index(slot)].addmm_(x_TI[at].T, g_TO[at], alpha=scale)
