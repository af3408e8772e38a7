"""Per-Pcs's equations: gating, and scoring, selecting and combining pieces.

T tokens, P answer positions, D module input, O module output, R rank, N pieces, K selected, U target users.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def gated(x_TD: Tensor, gate_D: Tensor) -> Tensor:
    """The input of a sharer's frozen A while the gate is trained: tokens scaled by their gate.

        x' = sigmoid(g . x) x

    Source: Per-Pcs (arXiv 2406.10471), section 3.1. In a bank the factor is put on A x instead, which is the same.
    """
    return torch.sigmoid(x_TD @ gate_D)[:, None] * x_TD


def history_feature(x_PD: Tensor, weight_P: Tensor) -> Tensor:
    """A history's feature at a module: the mean over records of the mean over a record's answer positions.

        h = sum over t of  a_t LN(x_t)                a_t = 1 / (records x answer positions of t's record)

    Args:
        x_PD: the module's input at the answer positions, those whose next token belongs to an answer.
        weight_P: weights a_t of the positions.

    Returns:
        h_D, in float64.

    Source: Per-Pcs (arXiv 2406.10471), section 3.2; LN without affine.
    """
    feature_D: Tensor = weight_P.double() @ F.layer_norm(x_PD.double(), x_PD.shape[1:])
    return feature_D


def history_features(x_PD: Tensor, weight_P: Tensor, place_P: Tensor, users: int) -> Tensor:
    """`history_feature` of several users: place_P is the user of each position. Returns h_WD, in float64."""
    own_PD = F.layer_norm(x_PD.double(), x_PD.shape[1:]).mul_(weight_P.double()[:, None])
    return own_PD.new_zeros(users, x_PD.shape[1]).index_add_(0, place_P, own_PD)


def centred(gate_ND: Tensor, mean_D: Tensor) -> Tensor:
    """Gates without the component that all histories have in common.

        g' = g - (g . m / m . m) m            so that  h . g' = (h - m) . g'

    Histories of one task show a module nearly the same: their features differ by a tenth of their length. Without
    this, the common component decides, and all users select the same pieces.

    Args:
        gate_ND: trained gates.
        mean_D: m, the mean of the sharers' features; of zero mean over D, as they are.

    Returns:
        gate_ND, in the gates' type.

    Source: ours.
    """
    wide_ND, m_D = gate_ND.double(), mean_D.double()
    return (wide_ND - torch.outer(wide_ND @ m_D, m_D) / m_D.square().sum()).to(gate_ND.dtype)


def scores(feature_UD: Tensor, gate_ND: Tensor) -> Tensor:
    """Scores of pieces for histories.

        s_n = h . LN(g_n) / sqrt(D)

    Args:
        feature_UD: from `history_feature`.
        gate_ND: the pieces' gates.

    Returns:
        score_UN, in float64.

    Source: Per-Pcs (arXiv 2406.10471), section 3.2.
    """
    width = gate_ND.shape[1]
    score_UN: Tensor = feature_UD.double() @ F.layer_norm(gate_ND.double(), (width,)).T / width**0.5
    return score_UN


def select(score_UN: Tensor, top_k: int, tau: float) -> tuple[Tensor, Tensor]:
    """The best pieces, and their weights.

        w = softmax(s_topk / tau)

    Args:
        score_UN: from `scores`; of equal ones the first is taken.
        top_k: K, at most N.
        tau: temperature.

    Returns:
        place_UK among the N, the best first; weight_UK, which sum to 1.

    Source: Per-Pcs (arXiv 2406.10471), section 3.2.
    """
    place_UK = score_UN.argsort(dim=1, descending=True, stable=True)[:, :top_k]
    return place_UK, torch.softmax(score_UN.gather(1, place_UK) / tau, dim=1)


def product(weight_K: Tensor, A_KRD: Tensor, B_KOR: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted sum of the pieces' updates, exactly, as one pair of rank K R.

        sum of w_k B_k A_k  =  [w_1 B_1 ... w_K B_K] [A_1; ...; A_K]

    Returns:
        A_HD, B_OH with H = K R.

    Source: the sum is what Per-Pcs (arXiv 2406.10471) writes in section 3.2; stacking: ours.
    """
    return A_KRD.flatten(0, 1), (weight_K[:, None, None] * B_KOR).transpose(0, 1).flatten(1, 2)


def factors(weight_K: Tensor, A_KRD: Tensor, B_KOR: Tensor) -> tuple[Tensor, Tensor]:
    """A and B averaged apart: another update than `product`'s, of rank R.

        (sum of w_k B_k) (sum of w_k A_k)

    Returns:
        A_RD, B_OR.

    Source: what Per-Pcs's released code does.
    """
    return torch.einsum("k,krd->rd", weight_K, A_KRD), torch.einsum("k,kor->or", weight_K, B_KOR)
