"""Admission: checks of all pieces of a pool, own or foreign, before the pool enters a home."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ownlm.errors import PoolError
from ownlm.perpcs.pool import Pool

MOST_GATE = 1e3  # the longest gate
MOST_A = 100.0  # times the length of fresh A's rows, which is about 0.6: products of what passes stay finite numbers
MOST_B = 10.0  # times the frozen weight


def admit(pool: Pool, modules: Mapping[str, nn.Linear], base_fingerprint: str) -> None:
    """Refuses a pool that is not for this base, or that has a piece which cannot come from fine-tuning it.

        |gate| <= 1000     ||A||_F <= 100 sqrt(r)     s ||B||_F <= 10 ||W||_F     s ||B A||_F <= ||W||_F

    where s = alpha / r, and all numbers are finite. The last bounds what a piece changes. A and B apart are bounded
    because a huge A and a tiny B would change little, and yet overflow on the way, in a product that others share.

    Args:
        pool: as `open_pool` gives it, which has checked hashes, rank and dtype.
        modules: the base's target modules by name, in its order.
        base_fingerprint: fingerprint of the home's base.

    Raises:
        PoolError: the base, the modules or a shape is another; or a piece has a number that is not finite, an update
            larger than the frozen weight, or too large an A, B or gate. It names the module, and the sharer by their
            random id.

    Source: ours.
    """
    if pool.manifest.base_fingerprint != base_fingerprint:
        raise PoolError(
            "The pool is for another base",
            got=f"fingerprint {pool.manifest.base_fingerprint[:12]}",
            expected=base_fingerprint[:12],
            hint="use it with the base it was made for",
        )
    kinds = {name.rsplit(".", 1)[-1] for name in modules}
    if set(pool.lora.target_modules) != kinds:
        got, expected = (", ".join(sorted(names)) for names in (pool.lora.target_modules, kinds))
        raise PoolError("The pool is for other kinds of modules", got=got, expected=expected)
    if pool.modules != tuple(modules):
        odd = min(set(pool.modules) ^ modules.keys(), default=None)
        got = "another order" if odd is None else f"a difference at {odd!r}"
        raise PoolError("The pool is for other modules than the base has", got=got)
    for name, module in modules.items():
        _admit_module(pool, name, module.weight.detach())


def update_norms(A_NRD: Tensor, B_NOR: Tensor, scaling: float) -> Tensor:
    """The Frobenius norms of N updates, without the O x D products.

        ||s B A||_F = s sqrt( sum of (B^T B) * (A A^T) )        both R x R

    Args:
        A_NRD, B_NOR: the matrices.
        scaling: alpha / r.

    Returns:
        norm_N, float64.

    Source: ours.
    """
    A_NRD, B_NOR = A_NRD.double(), B_NOR.double()
    square_N = ((B_NOR.mT @ B_NOR) * (A_NRD @ A_NRD.mT)).sum((1, 2))
    return scaling * square_N.clamp(min=0).sqrt()  # rounding may take it below zero


def _admit_module(pool: Pool, name: str, weight_OD: Tensor) -> None:
    if pool.shape(name) != tuple(weight_OD.shape):
        got, expected = pool.shape(name), tuple(weight_OD.shape)
        raise PoolError(f"The pool's pieces of {name!r} are for another shape", got=got, expected=expected)
    A_NRD, B_NOR, gate_ND = pool.whole(name)
    finite_N = torch.stack([part.flatten(1).isfinite().all(1) for part in (A_NRD, B_NOR, gate_ND)]).all(0)
    _refuse(pool, name, ~finite_N, "holds numbers that are not finite")
    gate_N = torch.linalg.vector_norm(gate_ND, dim=1, dtype=torch.float64)
    _refuse(pool, name, gate_N > MOST_GATE, "has too long a gate", gate_N, MOST_GATE)
    long = MOST_A * pool.lora.r**0.5
    A_N, B_N = (torch.linalg.vector_norm(part.double(), dim=(1, 2)) for part in (A_NRD, B_NOR))
    _refuse(pool, name, long < A_N, "has too large an A", A_N, long)
    norm_N = update_norms(A_NRD, B_NOR, pool.lora.scaling)
    most = float(torch.linalg.vector_norm(weight_OD, dtype=torch.float64))
    B_N = pool.lora.scaling * B_N
    _refuse(pool, name, MOST_B * most < B_N, "has too large a B", B_N, MOST_B * most)
    _refuse(pool, name, norm_N > most, "changes more than there is", norm_N, most)


def _refuse(pool: Pool, name: str, bad_N: Tensor, what: str, got_N: Tensor | None = None, most: float = 0.0) -> None:
    """Raises a PoolError that names the sharer of a bad piece."""
    for place in bad_N.nonzero()[:, 0].tolist():
        raise PoolError(
            f"The piece of {name!r} that {pool.sharer(name, place)} gives {what}",
            got=None if got_N is None else f"a norm of {float(got_N[place]):.4g}",
            expected=None if got_N is None else f"at most {most:.4g}",
            hint="leave this sharer out, or the pool",
        )
