"""An adapter for each person out of other people's pieces (Per-Pcs)."""

from typing import Any

from ownlm.bench.case import BASE, Case, Made
from ownlm.bench.methods.bases import AS_PLANNED
from ownlm.bench.methods.costs import of_assembling
from ownlm.bench.methods.pool import pool_of
from ownlm.bench.methods.values import Changes, Count, Records, Temperature
from ownlm.perpcs.recipe import Combine
from ownlm.workflows.assemble import RECENT


def assembled(
    case: Case, *, rag: Records = 0, profile: bool = False, combine: Combine = "product", top_k: Count = 3,
    tau: Temperature = 1.0, recent: Count = RECENT, adapt_steps: Records = 0, residual_rank: Count | None = None,
    share: Changes = AS_PLANNED, adapt: Changes = AS_PLANNED,
) -> Made:  # fmt: skip
    """Pieces scored, selected and combined by one pass over the person's history; adapted to it, where asked for.

    Args:
        rag, profile: how many of the person's records a prompt shows, and whether their text profile, in asking; while
            assembling, prompts are those that the pool was made with.
        combine, top_k, tau, recent, adapt_steps, residual_rank: as for `Home.assemble`.
        share: what differs from the plan's settings of pools.
        adapt: what differs from the plan's settings of stage 1.

    Raises:
        OwnlmError: somebody's assembly failed. Those who are done stay so.

    Source: Per-Pcs (arXiv 2406.10471), section 3.2; adapting: ours.
    """
    base = case.adapted(**adapt)
    pool = pool_of(case, base, share)[1]
    how: dict[str, Any] = {
        "combine": combine, "top_k": top_k, "tau": tau, "recent": recent, "adapt_steps": adapt_steps,
        "residual_rank": residual_rank,
    }  # fmt: skip
    home = case.home("assemble", base, pool=pool.digest, **how)
    if profile or {**case.share, **share}.get("profile"):
        case.profile(home)
    if not home.pools.ls(case.task.name):
        home.pools.add(pool.folder, case.task.name, base=BASE, progress=case.progress)
    done = home.assemble(
        case.task.name, users=case.people, base=BASE, seed=case.seed, progress=case.progress, **how
    )  # fmt: skip
    if done.failed:
        raise done.failed[0][1]
    case.loaded(home)
    return Made(
        lambda queries: case.ask(home, queries, base=BASE, rag=rag, profile=profile), of_assembling(case, home)
    )  # fmt: skip
