"""Arrow's equations against plain loops, and its model against peft's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import ArrowConfig, create_arrow_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from ownlm.bench.methods.arrow import prototypes, routed, routing
from ownlm.model.adapter import Adapter, LoraPair, write_peft_folder
from ownlm.model.base import BaseLM, load_base
from ownlm.perpcs.piece import Piece
from ownlm.perpcs.pool import Pool
from tests.inference.test_peft_adapters import make_attentive
from tests.perpcs.assembling import IDS, QKVO, pieces_for, pool_for, row_of, sharers_of

OTHER_IDS = [9, 5, 60, 33]


@pytest.fixture(scope="module")
def base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> BaseLM:
    folder = make_attentive(tiny_base, tmp_path_factory.mktemp("base") / "attentive")
    return load_base(folder, name="attentive", fingerprint="attentive")


@pytest.fixture
def pool(base: BaseLM, tmp_path: Path) -> Pool:
    """Five sharers' pieces; each answers to one direction far more than to others, which peft's 15 steps then find."""
    given = pieces_for(base)
    for own in given.values():
        for sharer, piece in own.items():
            own[sharer] = Piece(piece.A_RD, piece.B_OR * torch.tensor([1.0, 0.2]), piece.gate_D)
    return pool_for(base, tmp_path / "pool", given)


def test_prototypes_are_first_right_singular_vectors() -> None:
    draw = torch.Generator().manual_seed(0)
    A_NRD, B_NOR = torch.randn(4, 3, 7, generator=draw), torch.randn(4, 5, 3, generator=draw)
    for proto_D, A_RD, B_OR in zip(prototypes(A_NRD, B_NOR), A_NRD, B_NOR, strict=True):
        first_D = torch.linalg.svd(B_OR.double() @ A_RD.double()).Vh[0].float()
        assert min((proto_D - first_D).abs().max(), (proto_D + first_D).abs().max()) < 1e-6
    assert torch.isfinite(prototypes(A_NRD, torch.zeros_like(B_NOR))).all()


@pytest.mark.parametrize(("top_k", "tau"), [(1, 1.0), (2, 0.5), (4, 1.0), (9, 3.0)])
def test_weights_are_a_softmax_over_the_best(top_k: int, tau: float) -> None:
    draw = torch.Generator().manual_seed(1)
    x_TD, proto_ND = torch.randn(6, 7, generator=draw), torch.randn(4, 7, generator=draw)
    for weight_N, x_D in zip(routed(x_TD, proto_ND, top_k, tau), x_TD, strict=True):
        scores = [abs(float(x_D @ v_D)) / tau for v_D in proto_ND]
        best = sorted(range(4), key=lambda n: -scores[n])[:top_k]
        total = sum(torch.tensor(scores[n]).exp() for n in best)
        expected = [float(torch.tensor(scores[n]).exp() / total) if n in best else 0.0 for n in range(4)]
        assert weight_N.tolist() == pytest.approx(expected, abs=1e-6)


@torch.no_grad()
def test_logits_are_those_of_peft(base: BaseLM, pool: Pool, tmp_path: Path) -> None:
    folders = list(_exported(base, pool, tmp_path))
    stock: Any = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
    alone = base.logits(row_of([-1]).pack())
    peft = create_arrow_model(stock, folders, ArrowConfig(top_k=2, router_temperature=0.7, rng_seed=0)).eval()
    with routing(base, pool, top_k=2, tau=0.7):
        ours = base.logits(row_of([-1]).pack())
    theirs: Tensor = peft(torch.tensor([IDS])).logits[0]
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max() and (ours - alone).abs().max() > 0.01
    with routing(base, pool, top_k=1, tau=0.7):
        assert (base.logits(row_of([-1]).pack()) - theirs).abs().max() > 0.01 * theirs.abs().max()
    assert torch.equal(base.logits(row_of([-1]).pack()), alone)  # detached without trace


def _exported(base: BaseLM, pool: Pool, folder: Path) -> Iterator[str]:
    """Each sharer's whole adapter as a PEFT folder."""
    for place, sharer in enumerate(sharers_of(5)):
        pairs = {}
        for name in pool.modules:
            assert pool.sharer(name, place) == sharer
            pairs[name] = LoraPair(*pool.piece(name, place))
        write_peft_folder(folder / sharer, Adapter(QKVO, pairs).to_bytes(), QKVO, str(base.folder))
        yield str(folder / sharer)


@torch.no_grad()
def test_neighbours_in_a_row_do_not_matter(base: BaseLM, pool: Pool) -> None:
    row = row_of([-1])
    row.predict(-1, row.add(-1, OTHER_IDS))
    with routing(base, pool, top_k=3, tau=1.0):
        both = base.logits(row.pack())
        first, second = base.logits(row_of([-1]).pack()), base.logits(row_of([-1], OTHER_IDS).pack())
    assert torch.allclose(both, torch.cat([first, second]), atol=1e-5)


@torch.no_grad()
def test_modules_with_fewer_pieces_route_among_those(base: BaseLM, tmp_path: Path) -> None:
    given = pieces_for(base)
    empty, single = list(given)[:2]
    given[empty], given[single] = {}, dict(list(given[single].items())[:1])
    pool = pool_for(base, tmp_path / "pool", given)
    alone = base.logits(row_of([-1]).pack())
    with routing(base, pool, top_k=3, tau=1.0):
        assert torch.isfinite(logits := base.logits(row_of([-1]).pack())).all() and not torch.equal(logits, alone)
