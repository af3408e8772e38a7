"""Attention over a packed row, registered at transformers' own extension point.

A model loaded with `attn_implementation=NAME` runs on packed rows, its modelling code untouched: the row
arrives as the keyword argument `packed` of the model's forward pass.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from ownlm.errors import BaseModelError
from ownlm.model.packed import Bucket, PackedBatch

NAME = "ownlm_packed"
WIDEST_FLASH = 256  # heads that the kernel for sequences of any lengths can have


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: PackedBatch,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Each token attends to its own sequence, up to itself: the shared beginning and its own segment.

    Args:
        query: [1, heads, T, head width].
        key, value: [1, key heads, S, head width], S tokens with those of the cache.
        packed: what attends to what.
        sliding_window: how many tokens back a layer sees, where it is limited.

    Returns:
        [1, T, heads, head width], and None in place of attention weights.

    Raises:
        BaseModelError: the model asks for attention sinks or soft capping, which are not computed here.
    """
    for unsupported in ("softcap", "s_aux"):
        if others.get(unsupported) is not None:
            raise BaseModelError(
                "This model's attention cannot run on packed rows",
                got=f"attention with {unsupported!r}",
                expected="plain scaled dot-product attention, causal or with a sliding window",
            )
    q_THE, k_SGE, v_SGE = (one[0].transpose(0, 1) for one in (query, key, value))
    half = query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and query.shape[3] <= WIDEST_FLASH
    attend = _ragged if half and _has_flash(query.device) else _padded
    return attend(q_THE, k_SGE, v_SGE, packed, scaling, sliding_window)[None], None


def _padded(
    q_THE: Tensor, k_SGE: Tensor, v_SGE: Tensor, packed: PackedBatch, scale: float | None, window: int | None
) -> Tensor:
    """Bucket by bucket. One gather serves them all: a gather's backward pass fills and adds the whole row."""
    p = packed.padded
    q_qHE, k_kGE, v_kGE = (
        one.flatten(1).index_select(0, at).view(len(at), *one.shape[1:])
        for one, at in ((q_THE, p.query_q), (k_SGE, p.key_k), (v_SGE, p.key_k))
    )
    shapes = [bucket.distance_NQK.shape for bucket in p.buckets]
    queries, keys = [n * q for n, q, _ in shapes], [n * k for n, _, k in shapes]
    outputs = []
    split = zip(q_qHE.split(queries), k_kGE.split(keys), v_kGE.split(keys), strict=True)
    for bucket, (q_qHE, k_kGE, v_kGE) in zip(p.buckets, split, strict=True):
        outputs.append(_attend(q_qHE, k_kGE, v_kGE, bucket, scale, window))
    return torch.cat(outputs)[p.restore_T]


def _attend(
    q_qHE: Tensor, k_kGE: Tensor, v_kGE: Tensor, bucket: Bucket, scale: float | None, window: int | None
) -> Tensor:
    """One bucket. Where each segment has one query, the heads that read the same keys stand in as its queries: that is
    twice as fast on a CPU as to leave it to the kernel.
    """
    segments, single, groups = len(bucket.distance_NQK), bucket.distance_NQK.shape[1] == 1, k_kGE.shape[1]
    if single:
        q_NHQE = q_qHE.view(segments, groups, -1, q_qHE.shape[2])
    else:
        q_NHQE = q_qHE.unflatten(0, (segments, -1)).transpose(1, 2)
    k_NGKE, v_NGKE = (one.unflatten(0, (segments, -1)).transpose(1, 2) for one in (k_kGE, v_kGE))
    mask, shared = bucket.mask(window, q_qHE.dtype), q_NHQE.shape[1] != groups
    out_NHQE = F.scaled_dot_product_attention(q_NHQE, k_NGKE, v_NGKE, mask, scale=scale, enable_gqa=shared)
    return (out_NHQE if single else out_NHQE.transpose(1, 2)).reshape(q_qHE.shape)


def _ragged(
    q_THE: Tensor, k_SGE: Tensor, v_SGE: Tensor, packed: PackedBatch, scale: float | None, window: int | None
) -> Tensor:
    """All segments in one kernel, for half precision on a GPU; a segment's queries are the last of its keys."""
    from torch.nn.attention.varlen import varlen_attn

    p, heads = packed.ragged, q_THE.shape[1] // k_SGE.shape[1]
    k_kHE, v_kHE = (one[p.key_k].repeat_interleave(heads, dim=1) for one in (k_SGE, v_SGE))
    out_THE = varlen_attn(
        q_THE.contiguous(),
        k_kHE,
        v_kHE,
        p.query_ends,
        p.key_ends,
        p.longest_query,
        p.longest_key,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
    )
    assert isinstance(out_THE, Tensor)  # and no statistics beside it, which were not asked for
    return out_THE


@cache
def _has_flash(device: torch.device) -> bool:
    """Whether a GPU runs the kernel for sequences of any lengths."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


# No mask function is registered with it, so transformers makes no mask, and looks at no tensor to see which.
AttentionInterface.register(NAME, packed_attention)
