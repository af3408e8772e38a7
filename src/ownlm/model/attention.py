"""Attention over a packed row, registered at transformers' own extension point.

A model loaded with `attn_implementation=NAME` runs on packed rows without changes to its code. Queries and keys come
from the batch of the forward context, masks from `layers`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from ownlm.model.forward_context import forward_context
from ownlm.model.layers import Layer, layer_of
from ownlm.model.packed import Bucket, Mask, PackedBatch

NAME = "ownlm_packed"
WIDEST_FLASH = 256  # the widest head of the kernel for sequences of any lengths


@dataclass(frozen=True, slots=True)
class Scores:
    """How scores become weights.

        weight_k = exp(s_k) / (exp(sink) + sum over seen k of exp(s_k)),      s = cap tanh(scale q . k / cap)

    Attributes:
        scale: the factor of q . k; None for 1 / sqrt(head width).
        cap: the bound of the scores; None for no bound.
        sink_H: one score a head that takes weight and has no value; None for no sinks.

    Source: cap: Gemma 2 (arXiv 2408.00118); sinks: gpt-oss (arXiv 2508.10925).
    """

    scale: float | None = None
    cap: float | None = None
    sink_H: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether this is scaled dot-product attention."""
        return self.cap is None and self.sink_H is None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of each token to its own sequence up to itself: the shared prefix and its own segment.

    Args:
        query: [1, heads, T, head width].
        key, value: [1, key heads, S, head width], S tokens with those of the cache; values may be of another width.
        sliding_window: the number of tokens that a layer sees; used only where its model was not probed.
        scaling, softcap, s_aux: scale, cap and sinks of `Scores`.

    Returns:
        [1, T, heads, value width], and None in place of attention weights.
    """
    now = forward_context()
    assert now is not None, "packed attention outside of a forward pass on a packed row"
    packed, layer = now.batch, layer_of(module) or Layer(Mask(sliding_window))
    if layer.temperature is not None:
        row_T, own_T = torch.arange(packed.tokens, device=query.device), packed.position_ids_T
        query = (query * (layer.temperature(own_T) / layer.temperature(row_T))[:, None]).to(query.dtype)
    q_THE, k_SGE, v_SGE = (one.squeeze(0).transpose(0, 1) for one in (query, key, value))
    scores = Scores(scaling, softcap, s_aux)
    ragged = scores.plain and layer.mask.function is None and _is_flash(query, value)
    attend = _ragged if ragged else _padded
    return attend(q_THE, k_SGE, v_SGE, packed, scores, layer.mask)[None], None


def _padded(q_THE: Tensor, k_SGE: Tensor, v_SGE: Tensor, packed: PackedBatch, scores: Scores, mask: Mask) -> Tensor:
    """Bucket by bucket. One gather serves them all: a gather's backward pass fills and adds the whole row.

    On a CPU it is computed in float32 at least: a processor with bfloat16 is slow at the backward pass in it.
    """
    p, dtype = packed.padded, q_THE.dtype
    wide = torch.promote_types(dtype, torch.float32) if q_THE.device.type == "cpu" else dtype
    q_qHE, k_kGE, v_kGE = (
        _gathered(one, at, wide) for one, at in ((q_THE, p.query_q), (k_SGE, p.key_k), (v_SGE, p.key_k))
    )
    shapes = [bucket.distance_NQK.shape for bucket in p.buckets]
    queries, keys = [n * q for n, q, _ in shapes], [n * k for n, _, k in shapes]
    outputs = []
    split = zip(q_qHE.split(queries), k_kGE.split(keys), v_kGE.split(keys), strict=True)
    for bucket, (q_qHE, k_kGE, v_kGE) in zip(p.buckets, split, strict=True):
        outputs.append(_attend(q_qHE, k_kGE, v_kGE, bucket, scores, mask))
    return torch.cat(outputs).index_select(0, p.restore_T).to(dtype)


def _gathered(x_SHE: Tensor, at_k: Tensor, dtype: torch.dtype) -> Tensor:
    """Vectors of some positions, in another type.

    Those of a row are converted before they are gathered, so that gradients of a shared prefix add up in that type;
    those of a cache, which is longer, after.
    """
    if x_SHE.requires_grad:
        x_SHE = x_SHE.to(dtype)
    return x_SHE.flatten(1).index_select(0, at_k).view(len(at_k), *x_SHE.shape[1:]).to(dtype)


def _attend(q_qHE: Tensor, k_kGE: Tensor, v_kGE: Tensor, bucket: Bucket, scores: Scores, mask: Mask) -> Tensor:
    """Attention of one bucket. Where each segment has one query, heads with the same keys become its queries: on a CPU
    that is twice as fast as the kernel's own grouping.
    """
    segments, single, groups = len(bucket.distance_NQK), bucket.distance_NQK.shape[1] == 1, k_kGE.shape[1]
    if single:
        q_NHQE = q_qHE.view(segments, groups, -1, q_qHE.shape[2])
    else:
        q_NHQE = q_qHE.unflatten(0, (segments, -1)).transpose(1, 2)
    k_NGKE, v_NGKE = (one.unflatten(0, (segments, -1)).transpose(1, 2) for one in (k_kGE, v_kGE))
    hidden, shared = bucket.mask(mask, q_qHE.dtype), q_NHQE.shape[1] != groups
    if scores.plain:
        out_NHQE = F.scaled_dot_product_attention(q_NHQE, k_NGKE, v_NGKE, hidden, scale=scores.scale, enable_gqa=shared)
    else:
        out_NHQE = _softmax(q_NHQE, k_NGKE, v_NGKE, hidden, scores)
    return (out_NHQE if single else out_NHQE.transpose(1, 2)).reshape(*q_qHE.shape[:2], v_kGE.shape[2])


def _softmax(q_NHQE: Tensor, k_NGKE: Tensor, v_NGKE: Tensor, hidden: Tensor, scores: Scores) -> Tensor:
    """Attention written out, for scores that no kernel computes; the softmax in float32 at least, as in the models."""
    heads = q_NHQE.shape[1] // k_NGKE.shape[1]
    k_NHKE, v_NHKE = (one.repeat_interleave(heads, dim=1) if heads > 1 else one for one in (k_NGKE, v_NGKE))
    scale = q_NHQE.shape[3] ** -0.5 if scores.scale is None else scores.scale
    score_NHQK = q_NHQE @ k_NHKE.transpose(2, 3) * scale
    if scores.cap is not None:
        score_NHQK = torch.tanh(score_NHQK / scores.cap) * scores.cap
    score_NHQK = (score_NHQK + hidden).to(torch.promote_types(q_NHQE.dtype, torch.float32))
    keys = score_NHQK.shape[3]
    if scores.sink_H is not None:  # as many sinks as heads, which a bucket of single queries holds as its queries
        sink = scores.sink_H.view(1, q_NHQE.shape[1], -1, 1).to(score_NHQK)
        score_NHQK = torch.cat([score_NHQK, sink.expand(*score_NHQK.shape[:3], 1)], dim=3)
    return score_NHQK.softmax(dim=3)[..., :keys].to(v_NHKE.dtype) @ v_NHKE


def _ragged(q_THE: Tensor, k_SGE: Tensor, v_SGE: Tensor, packed: PackedBatch, scores: Scores, mask: Mask) -> Tensor:
    """All segments in one kernel, for half precision on a GPU; a segment's queries are the last of its keys."""
    from torch.nn.attention.varlen import varlen_attn

    p, heads = packed.ragged, q_THE.shape[1] // k_SGE.shape[1]
    groups: dict[str, Any] = {"enable_gqa": True} if heads > 1 and _groups(varlen_attn) else {}
    if p.key_k is None:
        k_kHE, v_kHE = (one if len(one) == packed.tokens else one[: packed.tokens] for one in (k_SGE, v_SGE))
    else:
        k_kHE, v_kHE = (one.index_select(0, p.key_k) for one in (k_SGE, v_SGE))
    if heads > 1 and not groups:
        k_kHE, v_kHE = (one.repeat_interleave(heads, dim=1) for one in (k_kHE, v_kHE))
    out_THE = varlen_attn(
        q_THE.contiguous(),
        k_kHE.contiguous(),
        v_kHE.contiguous(),
        p.query_ends,
        p.key_ends,
        p.longest_query,
        p.longest_key,
        scale=scores.scale,
        window_size=(-1 if mask.window is None else mask.window - 1, 0),
        **groups,
    )
    assert isinstance(out_THE, Tensor)  # without statistics, which were not requested
    return out_THE


@cache
def _groups(varlen_attn: Callable[..., Any]) -> bool:
    """Whether that kernel takes fewer key heads than query heads; older versions of torch do not offer it."""
    return "enable_gqa" in signature(varlen_attn).parameters


def _is_flash(query: Tensor, value: Tensor) -> bool:
    """Whether the kernel for sequences of any lengths takes these tensors."""
    half = query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)
    return half and query.shape[3] == value.shape[3] <= WIDEST_FLASH and _has_flash(query.device)


@cache
def _has_flash(device: torch.device) -> bool:
    """Whether a GPU has that kernel."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


# Without a registered mask function, transformers makes no mask and inspects no tensor.
AttentionInterface.register(NAME, packed_attention)
