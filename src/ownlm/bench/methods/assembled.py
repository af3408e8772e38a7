"""An adapter for each user, assembled from sharers' pieces (Per-Pcs)."""

from collections.abc import Mapping
from typing import Any

from ownlm.bench.case import AS_PLANNED, BASE, Case, Changes, raise_first
from ownlm.bench.methods.method import Count, Made, Method, Records, Temperature, asking
from ownlm.bench.methods.pool import pool_of
from ownlm.bench.results import Costs
from ownlm.history.task import Task
from ownlm.home import Home
from ownlm.perpcs.recipe import Combine
from ownlm.workflows.options import AssembleOptions


def assembled(
    case: Case, *, rag: Records = 0, profile: bool = False, combine: Combine = "product", top_k: Count = 3,
    tau: Temperature = 1.0, recent: Count = 2000, adapt_steps: Records = 0, residual_rank: Count | None = None,
    share: Changes = AS_PLANNED, adapt: Changes = AS_PLANNED,
) -> Made:  # fmt: skip
    """Assembles an adapter from pieces in one pass over the user's history; `adapt_steps` trains it further.

    Args:
        rag: Number of the user's records that a prompt shows in asking; in assembling, prompts are as in the pool.
        profile: Whether a prompt shows the user's text profile in asking.
        combine, top_k, tau, recent, adapt_steps, residual_rank: As for `Home.assemble`.
        share: Settings of pools that differ from the plan's.
        adapt: Settings of stage 1 that differ from the plan's.

    Raises:
        OwnlmError: The assembly of a user failed. Finished ones are kept.

    Source: Per-Pcs (arXiv 2406.10471), section 3.2; adapting: ours.
    """
    base = case.adapted(adapt)
    pool = pool_of(case, base, share)[1]
    how: dict[str, Any] = {
        "combine": combine, "top_k": top_k, "tau": tau, "recent": recent, "adapt_steps": adapt_steps,
        "residual_rank": residual_rank,
    }  # fmt: skip
    home = case.home("assemble", base, {"pool": pool.digest, **how})
    if profile or {**case.share, **share}.get("profile"):
        case.profile(home)
    if not home.pools.ls(case.task.name):
        home.pools.add(pool.folder, case.task.name, base=BASE, progress=case.progress)
    done = home.assemble(
        case.task.name, users=case.users, base=BASE, seed=case.seed, progress=case.progress, **how
    )  # fmt: skip
    raise_first(done.failed)
    return asking(case, home, _costs(case, home), rag=rag, profile=profile)


def _costs(case: Case, home: Home) -> Costs:
    """Costs of the users' assemblies, adapting included, as their home keeps them."""
    made = case.newest(home)
    if by_base := sum(one.provenance.get("kept") == "base" for one in made):
        case.warnings.append(
            f"the base answers for {by_base:,} of {len(made):,} users: it did best on held-back records"
        )
    return Costs(
        assemble_seconds=sum(one.seconds for one in made),
        bytes_per_user=sum(one.bytes for one in made) / len(made),
    )


def check(given: Mapping[str, Any], task: Task | None) -> None:
    """Raises a ConfigError where settings of the assembly do not go together."""
    AssembleOptions(task="", **{name: value for name, value in given.items() if name in AssembleOptions.model_fields})


METHOD = Method("assembled", assembled, check, learns=True, pool=True)
