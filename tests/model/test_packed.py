"""A packed row gives what each sequence gives alone, whatever shares the row, and the model's code is untouched."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from ownlm.errors import BaseModelError
from ownlm.model import attention
from ownlm.model.attention import packed_attention
from ownlm.model.base import BaseLM, load_base
from ownlm.model.kv_cache import KvCache
from ownlm.model.packed import Row, common_prefix
from ownlm.model.spans import BASE

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
    row = Row()
    shared = row.add(BASE, prefix)
    for body in bodies:
        row.predict(BASE, row.add(BASE, body, after=shared))
    logits_PV = packed.logits(row.pack())
    assert len(row.tokens) == len(prefix) + sum(map(len, bodies))
    alone = torch.cat([plain(torch.tensor([prefix + body])).logits[0] for body in bodies])
    torch.testing.assert_close(logits_PV, alone, atol=2e-5, rtol=1e-4)


def test_a_cached_row_goes_on_where_it_stopped(packed: BaseLM, plain: torch.nn.Module) -> None:
    prompts, cache, row = [[5, 6, 7, 8], [9, 10]], KvCache(), Row()
    places = cache.take(8)[::-1].copy()  # anywhere will do
    chains = [row.add(BASE, prompts[0], at=places[:4]), row.add(BASE, prompts[1], at=places[4:6])]
    packed.logits(row.pack(), cache=cache.writing(places[:6], packed.device))
    following = Row()
    for number, (prompt, chain) in enumerate(zip(prompts, chains, strict=True)):
        following.add(BASE, [prompt[0] + 20], after=chain, at=places[6 + number : 7 + number])
        following.predict(BASE, np.array([number]))
    logits_PV = packed.logits(following.pack(), cache=cache.writing(places[6:], packed.device))
    alone = [plain(torch.tensor([[*prompt, prompt[0] + 20]])).logits[0, -1] for prompt in prompts]
    torch.testing.assert_close(logits_PV, torch.stack(alone), atol=2e-5, rtol=1e-4)


def test_a_window_limits_what_is_seen() -> None:
    row = Row()
    row.predict(BASE, row.add(BASE, range(10)))
    q = torch.randn(1, 4, 10, 8)
    k, v = torch.randn(1, 2, 10, 8), torch.randn(1, 2, 10, 8)
    out, _ = packed_attention(torch.nn.Identity(), q, k, v, None, packed=row.pack(), sliding_window=3)
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
    row = Row()
    shared = row.add(0, range(7))
    for length in (3, 20, 1):
        row.add(0, range(length), after=shared)
    row.predict(1, row.add(1, range(70)))
    batch = row.pack()
    q, k, v = (torch.randn(batch.tokens, heads, 8) for heads in (4, 2, 2))
    same = [attend(q, k, v, batch, 0.3, window) for attend in (attention._padded, attention._ragged)]
    torch.testing.assert_close(*same)


def test_nothing_of_a_neighbour_is_read(packed: BaseLM) -> None:
    row = Row()
    row.predict(0, row.add(0, [5, 6, 7]))
    row.predict(1, row.add(1, [8]))
    batch = row.pack()
    q, k, v = torch.randn(1, 4, 4, 16), torch.randn(1, 2, 4, 16), torch.randn(1, 2, 4, 16)
    clean, _ = packed_attention(torch.nn.Identity(), q, k, v, None, packed=batch)
    for tensor in (q, k, v):
        tensor[:, :, :3] = float("nan")
    poisoned, _ = packed_attention(torch.nn.Identity(), q, k, v, None, packed=batch)
    assert torch.equal(clean[0, 3], poisoned[0, 3])


def test_attention_it_cannot_compute_is_refused() -> None:
    row = Row()
    row.add(0, [1])
    q = torch.zeros(1, 1, 1, 4)
    with pytest.raises(BaseModelError, match="softcap"):
        packed_attention(torch.nn.Identity(), q, q, q, None, packed=row.pack(), softcap=50.0)


def test_slots_must_ascend() -> None:
    row = Row()
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
