"""Matrix products of many users' tokens, each token with the matrix of its slot.

A row has S segments, each of one slot; W of the U slots occur in the row. On a CPU each segment is one product.
Segments of one or two tokens, as in generation, are multiplied in one batch, each with a copy of its matrix. On a GPU
launching many small products takes longer than computing them, so segments are padded and multiplied in one batch.
Padding repeats a segment's own tokens, so nothing of one user, not even a NaN, reaches another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BASE = -1  # the slot of tokens that no adapter touches
SHORT = 2  # tokens of a segment; up to here, one batch with copies of the matrices is quicker than single products
MOST_PADDING = 4  # a batch of products may hold so many times the tokens; beyond it, each segment is multiplied alone


@dataclass(frozen=True, slots=True)
class Padded:
    """The S segments that have a slot, padded to the N tokens of the longest; t tokens have a slot."""

    slot_S: Tensor
    place_S: Tensor  # place of each slot among the row's slots
    token_SN: Tensor  # row positions
    real_SN: Tensor  # False at padding
    row_t: Tensor  # row position of each token
    place_t: Tensor  # place of each token among the S x N


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
    segments = replace(segments, long=long, short=_short(rows, device))
    return segments if torch.device(device).type == "cpu" else replace(segments, padded=pad(segments, device))


def _short(rows: Sequence[tuple[int, slice]], device: torch.device | str) -> Short | None:
    tokens = [
        (at, slot) for slot, span in rows if span.stop - span.start <= SHORT for at in range(*span.indices(span.stop))
    ]
    if not tokens:
        return None
    row_t, slot_t = torch.tensor(tokens, device=device).T.contiguous()
    return Short(row_t, slot_t)


def renumbered(segments: Segments, first: int, count: int, device: torch.device | str) -> Segments:
    """The same tokens by the slots of one bank, `count` of them from number `first` on; other tokens get `BASE`."""
    mine = range(first, first + count)
    if first == 0 and all(slot in mine for slot, _ in segments.parts if slot != BASE):
        return segments
    return make_segments([(slot - first if slot in mine else BASE, n) for slot, n in segments.parts], device)


def pad(segments: Segments, device: torch.device | str) -> Padded | None:
    """The padded form; None where it would hold little but padding, or no token has a slot."""
    rows = list(segments.rows())
    if not rows:
        return None
    first_S, count_S = np.array([at.start for _, at in rows]), np.array([at.stop - at.start for _, at in rows])
    step_N = np.arange(count_S.max())
    if len(rows) * len(step_N) > MOST_PADDING * count_S.sum():
        return None
    token_SN = first_S[:, None] + np.minimum(step_N, count_S[:, None] - 1)
    real_SN = step_N < count_S[:, None]

    def put(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    slot_S = np.array([slot for slot, _ in rows])
    return Padded(
        put(slot_S),
        put(np.searchsorted(segments.slots, slot_S)),
        put(token_SN),
        put(real_SN),
        put(token_SN[real_SN]),
        put(np.flatnonzero(real_SN)),
    )


def mm(x_TI: Tensor, weight_UIO: Tensor, segments: Segments, scale: float = 1.0) -> Tensor:
    """Each token's product with its slot's matrix: scale x_t W_u; zero for tokens of `BASE`.

    Returns:
        [T, O], in the weights' type.
    """
    x_TI = x_TI.to(weight_UIO.dtype)
    whole = segments.padded is None and all(slot != BASE for slot, _ in segments.parts)
    out_TO = (x_TI.new_empty if whole else x_TI.new_zeros)(len(x_TI), weight_UIO.shape[2])
    if segments.padded is not None:
        add_mm_(out_TO, x_TI, weight_UIO, segments, scale)
        return out_TO
    _add_products_(out_TO, x_TI, weight_UIO, segments, scale, beta=0)
    return out_TO


def add_mm_(out_TO: Tensor, x_TI: Tensor, weight_UIO: Tensor, segments: Segments, scale: float = 1.0) -> None:
    """Adds to each token its product with its slot's matrix, in place: out_t += scale x_t W_u.

    Args:
        out_TO: the output, of any floating type; the product is computed in the weights' type.
    """
    x_TI = x_TI.to(weight_UIO.dtype)
    if segments.padded is not None:
        p = segments.padded
        product_SNO = torch.bmm(x_TI[p.token_SN], weight_UIO[p.slot_S])
        out_TO.index_add_(0, p.row_t, product_SNO.flatten(0, 1)[p.place_t].to(out_TO.dtype), alpha=scale)
        return
    if out_TO.dtype != weight_UIO.dtype:
        out_TO.add_(mm(x_TI, weight_UIO, segments, scale))  # rounded once, after the sum
        return
    _add_products_(out_TO, x_TI, weight_UIO, segments, scale)


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
    x_TI, g_TO = x_TI.to(grad_WIO.dtype), g_TO.to(grad_WIO.dtype)
    if segments.padded is not None:
        p = segments.padded
        g_SNO = g_TO[p.token_SN].masked_fill_(~p.real_SN[:, :, None], 0)
        grad_WIO.index_add_(0, p.place_S, torch.bmm(x_TI[p.token_SN].transpose(1, 2), g_SNO), alpha=scale)
        return
    for slot, at in segments.rows():
        grad_WIO[segments.slots.index(slot)].addmm_(x_TI[at].T, g_TO[at], alpha=scale)
