"""Arrow: pieces of many adapters behind each module, and a router that was never trained.

peft has it too (`peft.create_arrow_model`), and the tests hold these numbers against its own. It computes what every
piece makes of every token before it weighs them, T x N x O numbers a module; here A of all pieces is applied, weighed,
and then B, as in a bank. And it wants a piece of every module from everybody.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from ownlm.model.base import BaseLM
from ownlm.model.targets import target_modules
from ownlm.perpcs.pool import Pool


def prototypes(A_NRD: Tensor, B_NOR: Tensor) -> Tensor:
    """The inputs that pieces answer to most strongly.

        v_n = the first right singular vector of  B_n A_n

    Args:
        A_NRD, B_NOR: the pieces' matrices.

    Returns:
        proto_ND, each of length 1; its sign means nothing.

    Source: Arrow (arXiv 2405.11157), section 3.2. Differs: peft stops after 15 steps of power iteration.
    """
    upper_NRR = torch.linalg.qr(B_NOR.double()).R
    proto_NRD: Tensor = torch.linalg.svd(upper_NRR @ A_NRD.double(), full_matrices=False).Vh
    return proto_NRD[:, 0].to(A_NRD)


def routed(x_TD: Tensor, proto_ND: Tensor, top_k: int, tau: float) -> Tensor:
    """How much of each piece each token gets.

        w_t = softmax over the k largest n of  |x_t . v_n| / tau

    Args:
        x_TD: the module's input.
        proto_ND: from `prototypes`.
        top_k: k; all N, where there are fewer.
        tau: temperature.

    Returns:
        weight_TN; 0 for all but k.

    Source: Arrow (arXiv 2405.11157), section 3.2.
    """
    score_TN = (x_TD @ proto_ND.T).abs() / tau
    best_TK, place_TK = score_TN.topk(min(top_k, len(proto_ND)), dim=1)
    return torch.zeros_like(score_TN).scatter_(1, place_TK, best_TK.softmax(dim=1))


@contextmanager
def routing(base: BaseLM, pool: Pool, *, top_k: int, tau: float) -> Iterator[None]:
    """While it lasts, the base's modules add what the router makes of the pool's pieces, for every token.

        y_t = W x_t + (alpha / r) sum over n of  w_tn B_n A_n x_t

    Args:
        pool: of pieces for this base; all of them are in memory, on its device.
        top_k, tau: as for `routed`.

    Raises:
        PoolError: a file of the pool is not what it was.

    Source: Arrow (arXiv 2405.11157), section 3.2.
    """
    with ExitStack() as stack:
        for name, module in target_modules(base.model, pool.lora):
            if len(pool.gates(name)):
                A_NRD, B_NOR, _ = pool.whole(name)
                hook = _hook(A_NRD.to(base.device), B_NOR.to(base.device), pool.lora.scaling, top_k, tau)
                stack.callback(module.register_forward_hook(hook).remove)
        yield


def _hook(
    A_NRD: Tensor, B_NOR: Tensor, scaling: float, top_k: int, tau: float
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    proto_ND, rank = prototypes(A_NRD, B_NOR), A_NRD.shape[1]
    A_HD, B_HO = A_NRD.flatten(0, 1), B_NOR.transpose(1, 2).flatten(0, 1).contiguous()  # H = N R

    def add_update(_: nn.Module, args: tuple[Tensor, ...], y_1TO: Tensor) -> Tensor:
        x_TD = args[0][0].to(A_HD.dtype)
        weight_TH = routed(x_TD, proto_ND, top_k, tau).repeat_interleave(rank, dim=1)
        delta_TO = (x_TD @ A_HD.T * weight_TH) @ B_HO
        return y_1TO + (scaling * delta_TO).to(y_1TO.dtype)

    return add_update
