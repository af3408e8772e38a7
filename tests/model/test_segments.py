"""Products by segment: the padded form gives what the plain one gives, and no number of one user reaches another."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ownlm.model.segments import BASE, MOST_PADDING, SHORT, Segments, add_mm_, add_outer_, make_segments, mm, pad

PARTS = [(BASE, 2), (0, 3), (2, 1), (2, 4), (5, 2)]  # slot 2 twice: neighbours are joined
TOKENS, SLOTS, IN, OUT = 12, 6, 5, 4


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["plain", "padded"])
def segments(request: pytest.FixtureRequest) -> Segments:
    plain = make_segments(PARTS, "cpu")
    assert plain.padded is None and plain.parts == ((BASE, 2), (0, 3), (2, 5), (5, 2)) and plain.slots == (0, 2, 5)
    if request.param == "plain":
        return plain
    padded = pad(plain, "cpu")
    assert padded is not None
    return replace(plain, padded=padded)


def test_products_equal_naive_loops(segments: Segments) -> None:
    x_TI, weight_UIO, out_TO = numbers(TOKENS, IN), numbers(SLOTS, IN, OUT, seed=1), numbers(TOKENS, OUT, seed=2)
    added, fresh = out_TO.clone(), mm(x_TI, weight_UIO, segments, 1.5)
    add_mm_(added, x_TI, weight_UIO, segments, 1.5)
    slots = [slot for slot, tokens in segments.parts for _ in range(tokens)]
    for token, slot in enumerate(slots):
        product = 0 * out_TO[token] if slot == BASE else 1.5 * x_TI[token] @ weight_UIO[slot]
        torch.testing.assert_close(fresh[token], product)
        torch.testing.assert_close(added[token], out_TO[token] + product)


@pytest.mark.parametrize("parts", [
    [(BASE, 1), (0, 1), (1, 2), (2, 3), (3, 1), (BASE, 2), (5, 1), (7, 4)],
    [(2, 1), (3, 2), (8, 1)],
])  # fmt: skip
def test_short_spans_are_multiplied_at_once(parts: list[tuple[int, int]]) -> None:
    segments, slots = make_segments(parts, "cpu"), [slot for slot, tokens in parts for _ in range(tokens)]
    assert segments.short is not None
    assert segments.short.slot_t.tolist() == [u for u, n in parts if u != BASE and n <= SHORT for _ in range(n)]
    assert [slot for slot, _ in segments.long] == [u for u, n in parts if n > SHORT]
    x_TI, weight_UIO, out_TO = numbers(len(slots), IN), numbers(9, IN, OUT, seed=1), numbers(len(slots), OUT, seed=2)
    expected = torch.stack([0 * out_TO[0] if u == BASE else 0.5 * x_TI[t] @ weight_UIO[u] for t, u in enumerate(slots)])
    torch.testing.assert_close(mm(x_TI, weight_UIO, segments, 0.5), expected)
    torch.testing.assert_close(
        mm(x_TI, weight_UIO.transpose(1, 2).contiguous().transpose(1, 2), segments, 0.5), expected
    )
    added = out_TO.clone()
    add_mm_(added, x_TI, weight_UIO, segments, 0.5)
    torch.testing.assert_close(added, out_TO + expected)


def test_outer_products_gather_at_the_slots_place(segments: Segments) -> None:
    x_TI, g_TO = numbers(TOKENS, IN), numbers(TOKENS, OUT, seed=1)
    grad_WIO = numbers(3, IN, OUT, seed=2)
    expected = grad_WIO.clone()
    for place, at in enumerate((slice(2, 5), slice(5, 10), slice(10, 12))):
        expected[place] += 0.5 * x_TI[at].T @ g_TO[at]
    add_outer_(grad_WIO, x_TI, g_TO, segments, 0.5)
    torch.testing.assert_close(grad_WIO, expected)


def test_a_part_of_a_row_keeps_the_places_of_the_row() -> None:
    whole = make_segments(PARTS, "cpu")
    part = make_segments([(2, 2), (5, 1)], "cpu", whole)  # slot 0 has no predictions
    for form in (part, replace(part, padded=pad(part, "cpu"))):
        grad_WIO = torch.zeros(3, IN, OUT, dtype=torch.float64)
        add_outer_(grad_WIO, numbers(3, IN), numbers(3, OUT, seed=1), form)
        assert not grad_WIO[0].any() and grad_WIO[1].any() and grad_WIO[2].any()


def test_a_number_that_is_none_stays_with_its_slot(segments: Segments) -> None:
    x_TI, weight_UIO, g_TO = numbers(TOKENS, IN), numbers(SLOTS, IN, OUT, seed=1), numbers(TOKENS, OUT, seed=2)
    weight_UIO[2] = x_TI[5:10] = torch.nan
    out_TO, grad_WIO = mm(x_TI, weight_UIO, segments), torch.zeros(3, IN, OUT, dtype=torch.float64)
    add_outer_(grad_WIO, x_TI, g_TO, segments)
    assert out_TO[5:10].isnan().all() and out_TO[:5].isfinite().all() and out_TO[10:].isfinite().all()
    assert grad_WIO[1].isnan().all() and grad_WIO[[0, 2]].isfinite().all()


def test_long_segments_are_cut_where_padding_would_be_most() -> None:
    parts = [(BASE, 1), *((slot, 1) for slot in range(9)), (9, 9 * MOST_PADDING)]
    plain = make_segments(parts, "cpu")
    padded = pad(plain, "cpu")
    tokens = 9 + 9 * MOST_PADDING
    assert padded is not None and len(padded.slot_S) * padded.width <= 2 * tokens + padded.width
    x_TI, weight_UIO, g_TO = numbers(tokens + 1, IN), numbers(10, IN, OUT, seed=1), numbers(tokens + 1, OUT, seed=2)
    products, grads = list[Tensor](), list[Tensor]()
    for form in (plain, replace(plain, padded=padded)):
        products.append(mm(x_TI, weight_UIO, form))
        grads.append(torch.zeros(10, IN, OUT, dtype=torch.float64))
        add_outer_(grads[-1], x_TI, g_TO, form)
    torch.testing.assert_close(products[0], products[1])
    torch.testing.assert_close(grads[0], grads[1])
    assert pad(make_segments([(BASE, 3)], "cpu"), "cpu") is None


@pytest.mark.parametrize("parts", [[(0, 2), (1, 2)], [(0, 3), (1, 2)], [(1, 2), (3, 2)]])
def test_forms_with_nothing_to_gather_give_the_same(parts: list[tuple[int, int]]) -> None:
    plain = make_segments(parts, "cpu")
    tokens = sum(n for _, n in parts)
    x_TI, weight_UIO, out_TO = numbers(tokens, IN), numbers(4, IN, OUT, seed=1), numbers(tokens, OUT, seed=2)
    results = []
    for form in (plain, replace(plain, padded=pad(plain, "cpu"))):
        added, grad_WIO = out_TO.clone(), torch.zeros(2, IN, OUT, dtype=torch.float64)
        add_mm_(added, x_TI, weight_UIO, form, 0.5)
        add_outer_(grad_WIO, x_TI, out_TO, form, 0.5)
        results.append((added, grad_WIO, mm(x_TI, weight_UIO, form, 0.5)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_half_precision_is_widened_to_the_weights_type() -> None:
    segments, x_TI = make_segments([(0, TOKENS)], "cpu"), numbers(TOKENS, IN).bfloat16()
    weight_UIO, out_TO = numbers(1, IN, OUT, seed=1).float(), torch.zeros(TOKENS, OUT, dtype=torch.bfloat16)
    add_mm_(out_TO, x_TI, weight_UIO, segments)
    torch.testing.assert_close(out_TO, (x_TI.float() @ weight_UIO[0]).bfloat16())
    assert mm(x_TI, weight_UIO, segments).dtype == torch.float32
