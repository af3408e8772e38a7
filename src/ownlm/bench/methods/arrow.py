"""Arrow: all sharers' pieces behind each module, and a router that needs no training.

`peft.create_arrow_model` computes the same; the tests compare the two. peft computes the output of every piece for
every token before it weighs them, T x N x O numbers a module, and needs a piece of every module from every sharer. Here
A of all pieces is applied and weighed first, then B, as in a bank.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from ownlm.bench.case import AS_PLANNED, Case, Changes
from ownlm.bench.methods.method import Count, Made, Method, Records, Temperature
from ownlm.bench.methods.pool import open_pool
from ownlm.bench.results import Costs
from ownlm.history.record import Query
from ownlm.model.base import BaseLM
from ownlm.model.targets import target_modules
from ownlm.perpcs.pool import Pool


def arrow(
    case: Case, *, rag: Records = 0, top_k: Count = 3, tau: Temperature = 1.0, share: Changes = AS_PLANNED,
    adapt: Changes = AS_PLANNED,
) -> Made:  # fmt: skip
    """Each token goes, at each module, through the pieces with the most similar input direction.

    Args:
        rag: Number of the user's records that the prompt shows.
        top_k: Number of pieces a token.
        tau: Temperature of their weights.
        share: Settings of pools that differ from the plan's.
        adapt: Settings of stage 1 that differ from the plan's.

    Source: Arrow (arXiv 2405.11157), as peft has it.
    """
    opened = open_pool(case, share, adapt)

    def answers(queries: Sequence[Query]) -> Iterator[str]:
        with routing(opened.base, opened.pool, top_k=top_k, tau=tau):
            yield from case.generate(opened.home, queries, case.retrieving(rag))

    return Made(answers, Costs(bytes_per_user=0.0))


def prototypes(A_NRD: Tensor, B_NOR: Tensor) -> Tensor:
    """The input direction that each piece amplifies most.

        v_n = the first right singular vector of  B_n A_n

    Args:
        A_NRD, B_NOR: The pieces' matrices.

    Returns:
        proto_ND, each of length 1; its sign has no meaning.

    Source: Arrow (arXiv 2405.11157), section 3.2. Differs: peft stops after 15 steps of power iteration.
    """
    upper_NRR = torch.linalg.qr(B_NOR.double()).R
    proto_NRD: Tensor = torch.linalg.svd(upper_NRR @ A_NRD.double(), full_matrices=False).Vh
    return proto_NRD[:, 0].to(A_NRD)


def routed(x_TD: Tensor, proto_ND: Tensor, top_k: int, tau: float) -> Tensor:
    """The weight of each piece for each token.

        w_t = softmax over the k largest n of  |x_t . v_n| / tau

    Args:
        x_TD: The module's input.
        proto_ND: From `prototypes`.
        top_k: k; all N, where there are fewer.
        tau: Temperature.

    Returns:
        weight_TN; 0 for all but k.

    Source: Arrow (arXiv 2405.11157), section 3.2.
    """
    score_TN = (x_TD @ proto_ND.T).abs() / tau
    best_TK, place_TK = score_TN.topk(min(top_k, len(proto_ND)), dim=1)
    return torch.zeros_like(score_TN).scatter_(1, place_TK, best_TK.softmax(dim=1))


@contextmanager
def routing(base: BaseLM, pool: Pool, *, top_k: int, tau: float) -> Iterator[None]:
    """Within it, the base's modules add the routed pieces for every token.

        y_t = W x_t + (alpha / r) sum over n of  w_tn B_n A_n x_t

    Args:
        pool: Pieces for this base; all are in memory, on its device.
        top_k, tau: As for `routed`.

    Raises:
        PoolError: A file of the pool has changed.

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


METHOD = Method("arrow", arrow, learns=True, pool=True)
