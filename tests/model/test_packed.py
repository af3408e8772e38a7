"""A packed row gives what each sequence gives alone, whatever shares the row, and the model's code is untouched."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM
from transformers.masking_utils import chunked_causal_mask_function

from ownlm.model import attention
from ownlm.model.attention import Scores, packed_attention
from ownlm.model.base import BaseLM, load_base
from ownlm.model.forward_context import set_forward_context
from ownlm.model.kv_cache import KvCache
from ownlm.model.packed import BatchBuilder, Mask, common_prefix
from ownlm.model.segments import BASE

tokens = st.lists(st.integers(3, 90), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def packed(tiny_base: Path) -> BaseLM:
    return load_base(tiny_base, name="tiny", fingerprint="tiny")


@pytest.fixture(scope="module")
def plain(tiny_base: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32).eval()


@given(prefix=st.lists(st.integers(3, 90), max_size=30), bodies=st.lists(tokens, min_size=1, max_size=7))
def test_a_tree_of_sequences_equals_each_alone(
    packed: BaseLM, plain: torch.nn.Module, prefix: list[int], bodies: list[list[int]]
) -> None:
    row = BatchBuilder()
    shared = row.add(BASE, prefix)
    for body in bodies:
        row.predict(BASE, row.add(BASE, body, after=shared))
    logits_PV = packed.logits(row.pack())
    assert len(row.tokens) == len(prefix) + sum(map(len, bodies))
    alone = torch.cat([plain(torch.tensor([prefix + body])).logits[0] for body in bodies])
    torch.testing.assert_close(logits_PV, alone, atol=2e-5, rtol=1e-4)


def test_a_cached_row_goes_on_where_it_stopped(packed: BaseLM, plain: torch.nn.Module) -> None:
    prompts, cache, row = [[5, 6, 7, 8], [9, 10]], KvCache(), BatchBuilder()
    places = cache.take(8)[::-1].copy()  # anywhere will do
    chains = [row.add(BASE, prompts[0], at=places[:4]), row.add(BASE, prompts[1], at=places[4:6])]
    packed.logits(row.pack(), cache=cache.writing(places[:6], packed.device))
    following = BatchBuilder()
    for number, (prompt, chain) in enumerate(zip(prompts, chains, strict=True)):
        following.add(BASE, [prompt[0] + 20], after=chain, at=places[6 + number : 7 + number])
        following.predict(BASE, np.array([number]))
    logits_PV = packed.logits(following.pack(), cache=cache.writing(places[6:], packed.device))
    alone = [plain(torch.tensor([[*prompt, prompt[0] + 20]])).logits[0, -1] for prompt in prompts]
    torch.testing.assert_close(logits_PV, torch.stack(alone), atol=2e-5, rtol=1e-4)


def test_a_window_limits_what_is_seen() -> None:
    row = BatchBuilder()
    row.predict(BASE, row.add(BASE, range(10)))
    q = torch.randn(1, 4, 10, 8)
    k, v = torch.randn(1, 2, 10, 8), torch.randn(1, 2, 10, 8)
    with set_forward_context(row.pack(), None, None):
        out, _ = packed_attention(torch.nn.Identity(), q, k, v, None, sliding_window=3)
    for place in range(10):
        seen = slice(max(0, place - 2), place + 1)
        scores = torch.einsum("hd,hkd->hk", q[0, :, place], k[0].repeat_interleave(2, 0)[:, seen]) / 8**0.5
        naive = torch.einsum("hk,hkd->hd", scores.softmax(-1), v[0].repeat_interleave(2, 0)[:, seen])
        torch.testing.assert_close(out[0, place], naive)


@pytest.mark.parametrize("window", [None, 5])
def test_attention_without_padding_is_asked_for_the_same(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_by_one(q, k, v, query_ends, key_ends, longest_query, longest_key, *, scale, window_size):  # as on a GPU
        assert q.shape[1] == k.shape[1] and window_size[1] == 0
        outputs = []
        for at in range(len(query_ends) - 1):
            own, seen = slice(*query_ends[at : at + 2].tolist()), slice(*key_ends[at : at + 2].tolist())
            n, keys = own.stop - own.start, seen.stop - seen.start
            assert n <= longest_query and keys <= longest_key
            distance = torch.arange(keys - n, keys)[:, None] - torch.arange(keys)
            mask = (distance >= 0) & ((distance <= window_size[0]) | (window_size[0] < 0))
            parts = (q[own].transpose(0, 1), k[seen].transpose(0, 1), v[seen].transpose(0, 1))
            outputs.append(F.scaled_dot_product_attention(*parts, attn_mask=mask, scale=scale).transpose(0, 1))
        return torch.cat(outputs)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", one_by_one)
    row = BatchBuilder()
    shared = row.add(0, range(7))
    for length in (3, 20, 1):
        row.add(0, range(length), after=shared)
    row.predict(1, row.add(1, range(70)))
    batch = row.pack()
    q, k, v = (torch.randn(batch.tokens, heads, 8) for heads in (4, 2, 2))
    how = Scores(scale=0.3), Mask(window)
    same = [attend(q, k, v, batch, *how) for attend in (attention._padded, attention._ragged)]
    torch.testing.assert_close(*same)


@pytest.mark.parametrize("scores", [{}, {"softcap": 2.0, "s_aux": torch.ones(4)}], ids=["plain", "capped with sinks"])
def test_nothing_of_a_neighbour_is_read(packed: BaseLM, scores: dict[str, Any]) -> None:
    row = BatchBuilder()
    row.predict(0, row.add(0, [5, 6, 7]))
    row.predict(1, row.add(1, [8]))
    batch = row.pack()
    q, k, v = torch.randn(1, 4, 4, 16), torch.randn(1, 2, 4, 16), torch.randn(1, 2, 4, 16)
    with set_forward_context(batch, None, None):
        clean, _ = packed_attention(torch.nn.Identity(), q, k, v, None, **scores)
        for tensor in (q, k, v):
            tensor[:, :, :3] = float("nan")
        poisoned, _ = packed_attention(torch.nn.Identity(), q, k, v, None, **scores)
    assert torch.equal(clean[0, 3], poisoned[0, 3])


@pytest.mark.parametrize("sinks", [False, True], ids=["no sinks", "sinks"])
@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize(
    ("mask", "sees"),
    [
        (Mask(), lambda q, k: True),
        (Mask(window=3), lambda q, k: q - k < 3),
        (Mask(function=chunked_causal_mask_function(4, torch.zeros(1))), lambda q, k: q // 4 == k // 4),
    ],
    ids=["causal", "window", "chunks"],
)
def test_scores_and_masks_against_a_naive_loop(mask: Mask, sees: Any, cap: float | None, sinks: bool) -> None:
    """Soft capping, sinks, windows and chunks behind a shared prefix, with values narrower than keys, in float64."""
    row, draw = BatchBuilder(), torch.Generator().manual_seed(0)
    prefix = row.add(0, range(5))
    chains = [prefix, *(row.add(0, range(length), after=prefix) for length in (6, 1, 1))]
    batch = row.pack()
    q, k, v = (torch.randn(batch.tokens, *n, generator=draw, dtype=torch.float64) for n in ((4, 8), (2, 8), (2, 6)))
    sink_H = torch.randn(4, generator=draw, dtype=torch.float64) if sinks else None
    out = attention._padded(q, k, v, batch, Scores(0.3, cap, sink_H), mask)
    assert out.shape == (batch.tokens, 4, 6)
    for chain in chains:
        for place, at in list(enumerate(chain.tolist()))[0 if chain is prefix else len(prefix) :]:
            for head in range(4):
                total, value = float(sink_H[head].exp()) if sink_H is not None else 0.0, torch.zeros(6).double()
                for earlier, other in enumerate(chain.tolist()[: place + 1]):
                    if sees(place, earlier):
                        score = 0.3 * float(q[at, head] @ k[other, head // 2])
                        weight = math.exp(score if cap is None else cap * math.tanh(score / cap))
                        total, value = total + weight, value + weight * v[other, head // 2]
                torch.testing.assert_close(out[at, head], value / total)


def test_slots_must_ascend() -> None:
    row = BatchBuilder()
    row.add(1, [5])
    with pytest.raises(ValueError, match="ascend"):
        row.add(0, [5])


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=5))
def test_common_prefix(sequences: list[list[int]]) -> None:
    length = common_prefix(sequences)
    assert all(sequence[:length] == sequences[0][:length] for sequence in sequences)
    assert any(sequence[: length + 1] != sequences[0][: length + 1] for sequence in sequences) or length == min(
        map(len, sequences)
    )
