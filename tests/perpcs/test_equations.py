"""The equations against naive loops, in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ownlm.perpcs.equations import centred, factors, gated, history_feature, product, scores, select

T, D, O, R, N, U = 6, 5, 4, 2, 7, 3  # noqa: E741  the letters of the design
draw = torch.Generator().manual_seed(3)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def normalised(x: list[float]) -> list[float]:
    """Layer norm without affine, with torch's epsilon."""
    mean = sum(x) / len(x)
    deviation = math.sqrt(sum((one - mean) ** 2 for one in x) / len(x) + 1e-5)
    return [(one - mean) / deviation for one in x]


def test_gated() -> None:
    x_TD, gate_D = random(T, D), random(D)
    for x_D, out_D in zip(x_TD.tolist(), gated(x_TD, gate_D).tolist(), strict=True):
        share = 1 / (1 + math.exp(-sum(g * x for g, x in zip(gate_D.tolist(), x_D, strict=True))))
        assert out_D == pytest.approx([share * x for x in x_D], abs=1e-12)


def test_centred_gates_see_what_differs_from_the_mean_alone() -> None:
    gate_ND, feature_UD = random(N, D), random(U, D)
    feature_UD -= feature_UD.mean(dim=1, keepdim=True)  # as LN leaves them
    mean_D = feature_UD.mean(dim=0)
    blind_ND = centred(gate_ND, mean_D)
    torch.testing.assert_close(feature_UD @ blind_ND.T, (feature_UD - mean_D) @ blind_ND.T)
    assert (scores(mean_D[None], blind_ND)).abs().max() < 1e-12 < scores(mean_D[None], gate_ND).abs().min()


def test_history_feature_is_a_mean_over_records_of_means_over_answers() -> None:
    answers = [random(2, D) * 3, random(1, D) + 4, random(4, D)]  # a record each
    weight_P = torch.tensor([1 / (len(answers) * len(one)) for one in answers for _ in one])
    means = []
    for x_PD in answers:
        rows = [normalised(x_D) for x_D in x_PD.tolist()]
        means.append([sum(column) / len(rows) for column in zip(*rows, strict=True)])
    naive = [sum(column) / len(means) for column in zip(*means, strict=True)]
    feature_D = history_feature(torch.cat(answers), weight_P)
    assert feature_D.dtype == torch.float64
    assert feature_D.tolist() == pytest.approx(naive, abs=1e-7)  # the weights were float32
    flat = [sum(column) / 7 for column in zip(*(normalised(x) for x in torch.cat(answers).tolist()), strict=True)]
    assert feature_D.tolist() != pytest.approx(flat, abs=1e-2)  # no mean over all positions


def test_history_feature_of_half_precision_is_computed_wide() -> None:
    x_PD, weight_P = random(T, D).bfloat16(), torch.full((T,), 1 / T, dtype=torch.float64)
    assert torch.equal(history_feature(x_PD, weight_P), history_feature(x_PD.double(), weight_P))


def test_scores() -> None:
    feature_UD, gate_ND = random(U, D), random(N, D) * 2
    score_UN = scores(feature_UD, gate_ND.float())
    assert score_UN.shape == (U, N) and score_UN.dtype == torch.float64
    for u in range(U):
        for n in range(N):
            gate = normalised(gate_ND.float()[n].tolist())
            naive = sum(h * g for h, g in zip(feature_UD[u].tolist(), gate, strict=True)) / math.sqrt(D)
            assert float(score_UN[u, n]) == pytest.approx(naive, abs=1e-12)
    untrained = scores(feature_UD, torch.zeros(N, D))  # gates of zero
    assert not untrained.any()


@pytest.mark.parametrize("tau", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("top_k", [1, 3, N])
def test_select(top_k: int, tau: float) -> None:
    score_UN = random(U, N)
    place_UK, weight_UK = select(score_UN, top_k, tau)
    for u, row in enumerate(score_UN.tolist()):
        best = sorted(range(N), key=lambda n: -row[n])[:top_k]
        powers = [math.exp(row[n] / tau) for n in best]
        assert place_UK[u].tolist() == best
        assert weight_UK[u].tolist() == pytest.approx([power / sum(powers) for power in powers], abs=1e-12)


def test_of_equal_scores_the_first_is_taken() -> None:
    place_UK, weight_UK = select(torch.tensor([[1.0, 2.0, 1.0, 2.0, 1.0], [0.0] * 5]), 3, 1.0)
    assert place_UK.tolist() == [[1, 3, 0], [0, 1, 2]]
    assert weight_UK[1].tolist() == pytest.approx([1 / 3] * 3)
    wide, _ = select(torch.zeros(1, 5000, dtype=torch.float64), 3, 1.0)  # where a sort may be another algorithm
    assert wide.tolist() == [[0, 1, 2]]


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12), st.integers(1, 12), st.floats(1e-3, 1e3))
def test_weights_sum_to_one(row: list[float], top_k: int, tau: float) -> None:
    k = min(top_k, len(row))
    place_UK, weight_UK = select(torch.tensor([row], dtype=torch.float64), k, tau)
    assert float(weight_UK.sum()) == pytest.approx(1) and (weight_UK >= 0).all()
    assert weight_UK[0].tolist() == sorted(weight_UK[0].tolist(), reverse=True)
    assert len(set(place_UK[0].tolist())) == k
    left = set(range(len(row))) - set(place_UK[0].tolist())
    assert max((row[n] for n in left), default=-1e9) <= min(row[n] for n in place_UK[0].tolist())


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_product_and_factors(k: int, r: int, rows: int, columns: int, seed: int) -> None:
    own = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=own, dtype=torch.float64)

    weight_K, A_KRD, B_KOR = some(k), some(k, r, columns), some(k, rows, r)
    A_HD, B_OH = product(weight_K, A_KRD, B_KOR)
    A_RD, B_OR = factors(weight_K, A_KRD, B_KOR)
    assert A_HD.shape == (k * r, columns) and A_RD.shape == (r, columns)
    for o in range(rows):
        for d in range(columns):
            whole = apart = 0.0
            for p in range(r):
                whole += sum(float(weight_K[n] * B_KOR[n, o, p] * A_KRD[n, p, d]) for n in range(k))
                left = sum(float(weight_K[n] * B_KOR[n, o, p]) for n in range(k))
                apart += left * sum(float(weight_K[n] * A_KRD[n, p, d]) for n in range(k))
            assert float((B_OH @ A_HD)[o, d]) == pytest.approx(whole, abs=1e-9)
            assert float((B_OR @ A_RD)[o, d]) == pytest.approx(apart, abs=1e-9)


def test_factors_are_another_update_than_the_product() -> None:
    weight_K, A_KRD, B_KOR = torch.full((3,), 1 / 3, dtype=torch.float64), random(3, 8, 64), random(3, 64, 8)
    A_HD, B_OH = product(weight_K, A_KRD, B_KOR)
    A_RD, B_OR = factors(weight_K, A_KRD, B_KOR)
    whole = B_OH @ A_HD
    assert 0.7 < float((B_OR @ A_RD - whole).norm() / whole.norm()) < 0.95
    one = torch.ones(1, dtype=torch.float64)
    for combine in (product, factors):  # of one piece they are that piece
        A, B = combine(one, A_KRD[:1], B_KOR[:1])
        assert torch.equal(A, A_KRD[0]) and torch.equal(B, B_KOR[0])
