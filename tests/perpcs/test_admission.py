"""What a pool must be before it enters a home."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ownlm.config import LoraConfig
from ownlm.errors import PoolError
from ownlm.model.base import load_base
from ownlm.model.targets import target_modules
from ownlm.perpcs.admission import MOST_GATE, admit, update_norms
from ownlm.perpcs.piece import Piece
from tests.perpcs.pools import LORA, SHARERS, Given, make_pool, random_pieces

BASE = "f" * 64


@pytest.fixture
def modules(tiny_base: Path) -> Mapping[str, nn.Linear]:
    return dict(target_modules(load_base(tiny_base, name="tiny", fingerprint=BASE).model, LORA))


@pytest.fixture
def given(modules: Mapping[str, nn.Linear]) -> Given:
    return random_pieces({name: tuple(module.weight.shape) for name, module in modules.items()}, scale=0.03)


def test_update_norms_against_the_product() -> None:
    A_NRD, B_NOR = torch.randn(5, 3, 7), torch.randn(5, 4, 3)
    naive_N = torch.stack([(1.5 * B.double() @ A.double()).norm() for A, B in zip(A_NRD, B_NOR, strict=True)])
    norm_N = update_norms(A_NRD, B_NOR, 1.5)
    assert norm_N.dtype == torch.float64
    torch.testing.assert_close(norm_N, naive_N, rtol=1e-12, atol=0)


def test_an_update_of_nothing_has_the_norm_0() -> None:
    """B A is zero by cancellation here: rounding takes the sum of some below zero."""
    draw = torch.Generator().manual_seed(0)
    a_2ND = torch.randint(-1000, 1000, (2, 30, 64), generator=draw) / 1024
    b_NO = torch.randn(30, 48, generator=draw)
    norm_N = update_norms(torch.stack([*a_2ND, a_2ND.sum(0)], 1), torch.stack([b_NO, b_NO, -b_NO], 2), 1.0)
    assert norm_N.isfinite().all() and float(norm_N.max()) < 1e-5


def test_a_good_pool(tmp_path: Path, modules: Mapping[str, nn.Linear], given: Given) -> None:
    admit(make_pool(tmp_path / "pool", given), modules, BASE)


def test_a_pool_of_some_pieces(tmp_path: Path, modules: Mapping[str, nn.Linear], given: Given) -> None:
    first, *_, last = given
    shapes = {name: tuple(module.weight.shape) for name, module in modules.items()}
    some = given | {first: {}, last: {SHARERS[1]: given[last][SHARERS[1]]}}
    admit(make_pool(tmp_path / "pool", some, shapes=shapes), modules, BASE)
    with pytest.raises(PoolError, match="another shape"):
        admit(make_pool(tmp_path / "odd", some, shapes=shapes | {first: (1, 1)}), modules, BASE)


def test_other_bases_and_modules(tmp_path: Path, modules: Mapping[str, nn.Linear], given: Given) -> None:
    pool = make_pool(tmp_path / "pool", given)
    with pytest.raises(PoolError, match="another base"):
        admit(pool, modules, "e" * 64)
    odd = min(modules)
    for own, complaint in [
        ({name: module for name, module in modules.items() if name != odd}, odd),
        (modules | {"model.layers.9.q_proj": modules[odd]}, "layers.9.q_proj"),
        (dict(reversed(modules.items())), "another order"),
        (modules | {"model.layers.0.k_proj": modules[odd]}, "kinds of modules"),
        ({name: module for name, module in modules.items() if name.endswith("v_proj")}, "kinds of modules"),
        (modules | {odd: nn.Linear(3, 5)}, f"'{odd}' are for another shape"),
        (modules | {odd: nn.Linear(64, 5)}, f"'{odd}' are for another shape"),
    ]:
        with pytest.raises(PoolError, match=complaint):
            admit(pool, own, BASE)
    other = LoraConfig(r=LORA.r, lora_alpha=4, target_modules=("q_proj", "v_proj", "o_proj"))
    with pytest.raises(PoolError, match="kinds of modules"):
        admit(make_pool(tmp_path / "other", given, lora=other), modules, BASE)


def with_first(tensor: Tensor, number: float) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[0] = number
    return tensor


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda piece, most: replace(piece, A_RD=with_first(piece.A_RD, float("nan"))), "not finite"),
        (lambda piece, most: replace(piece, B_OR=with_first(piece.B_OR, float("inf"))), "not finite"),
        (lambda piece, most: replace(piece, gate_D=with_first(piece.gate_D, float("nan"))), "not finite"),
        (lambda piece, most: replace(piece, gate_D=piece.gate_D / piece.gate_D.norm() * MOST_GATE * 1.01), "too long"),
        (lambda piece, most: replace(piece, B_OR=piece.B_OR * most * 1.01), "changes more"),
        (lambda piece, most: replace(piece, A_RD=piece.A_RD.sign() * 3e38), "changes more"),  # too much for float32
    ],
)
def test_bad_pieces(
    tmp_path: Path,
    modules: Mapping[str, nn.Linear],
    given: Given,
    change: Callable[[Piece, float], Piece],
    complaint: str,
) -> None:
    name, whose = list(modules)[1], SHARERS[1]
    piece = given[name][whose]
    norm = float((LORA.scaling * piece.B_OR @ piece.A_RD).norm())
    given[name][whose] = change(piece, float(modules[name].weight.norm()) / norm)
    pool = make_pool(tmp_path / "pool", given)
    with pytest.raises(PoolError, match=f"{complaint}|too large an? [AB]") as caught:
        admit(pool, modules, BASE)
    assert name in str(caught.value) and whose in str(caught.value)
    assert not any(other in str(caught.value) for other in SHARERS if other != whose)


@pytest.mark.parametrize(("large", "complaint"), [("A_RD", "too large an A"), ("B_OR", "too large a B")])
def test_a_factor_that_overflows_is_refused_however_small_the_update(
    tmp_path: Path, modules: Mapping[str, nn.Linear], given: Given, large: str, complaint: str
) -> None:
    name = list(modules)[1]
    piece, by = given[name][SHARERS[1]], {"A_RD": 1e-30, "B_OR": 1e-30} | {large: 1e20}
    given[name][SHARERS[1]] = Piece(piece.A_RD * by["A_RD"], piece.B_OR * by["B_OR"], piece.gate_D)
    with pytest.raises(PoolError, match=complaint):
        admit(make_pool(tmp_path / "pool", given), modules, BASE)


def test_pieces_just_good_enough(tmp_path: Path, modules: Mapping[str, nn.Linear], given: Given) -> None:
    name = list(modules)[1]
    piece = given[name][SHARERS[1]]
    norm = float((LORA.scaling * piece.B_OR @ piece.A_RD).norm())
    given[name][SHARERS[1]] = Piece(
        piece.A_RD,
        piece.B_OR * float(modules[name].weight.norm()) / norm * 0.99,
        piece.gate_D / piece.gate_D.norm() * MOST_GATE * 0.99,
    )
    admit(make_pool(tmp_path / "pool", given), modules, BASE)
