"""Drawing tokens: the distribution that was asked for, by the request's own sampler."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ownlm.inference import sampling
from ownlm.inference.sampling import Sampler, next_tokens, sample_nucleus

LOGITS = torch.tensor([1.0, 3.0, 0.0, 2.0])


def test_without_sampler_the_likeliest() -> None:
    assert next_tokens(torch.stack([LOGITS, -LOGITS]), [None, None]) == [1, 2]


def test_the_same_seed_draws_the_same_in_any_company() -> None:
    rows = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    alone, together = Sampler(1.3, 0.9, seed=7), Sampler(1.3, 0.9, seed=7)
    one = [next_tokens(row[None], [alone])[0] for row in rows]
    with_others = [next_tokens(torch.stack([-row, row, row]), [Sampler(1.0), together, None])[1] for row in rows]
    assert one == with_others and len(set(one)) > 10
    assert one != [next_tokens(row[None], [other])[0] for other in [Sampler(1.3, 0.9, seed=8)] for row in rows]


@pytest.mark.parametrize("top_p", [1.0, 0.85])
def test_draws_follow_the_distribution(top_p: float) -> None:
    p = (LOGITS.double() / 2).softmax(0)
    if top_p < 1:
        p[2] = 0  # the least likely: the other three have .85 or more together
    p /= p.sum()
    uniforms = [(n + 0.5) / 4000 for n in range(4000)]
    counts = Counter(sample_nucleus(LOGITS, 2.0, top_p, uniform) for uniform in uniforms)
    for token in range(4):
        assert counts[token] / 4000 == pytest.approx(float(p[token]), abs=2e-3)


@given(st.floats(0, 1, exclude_max=True), st.floats(0.01, 1), st.integers(0, 99))
def test_a_nucleus_found_among_few_is_that_of_all(uniform: float, top_p: float, seed: int) -> None:
    logits_V = torch.randn(60, generator=torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "FEW", 4)
        few = sample_nucleus(logits_V, 1.0, top_p, uniform)
    assert few == sample_nucleus(logits_V, 1.0, top_p, uniform)


def test_a_small_top_p_leaves_the_likeliest() -> None:
    assert {sample_nucleus(LOGITS, 5.0, 1e-9, uniform / 10) for uniform in range(10)} == {1}
