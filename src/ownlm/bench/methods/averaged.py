"""The mean of all sharers' adapters, the same for every user."""

import numpy as np

from ownlm.bench.case import AS_PLANNED, Case, Changes
from ownlm.bench.methods.method import Made, Method, Records
from ownlm.bench.methods.pool import open_pool
from ownlm.bench.results import Costs
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import Recipe


def averaged(case: Case, *, rag: Records = 0, share: Changes = AS_PLANNED, adapt: Changes = AS_PLANNED) -> Made:
    """Gives every user all N pieces of each module, each with weight 1/N.

    Args:
        rag: Number of the user's records that the prompt shows.
        share: Settings of pools that differ from the plan's.
        adapt: Settings of stage 1 that differ from the plan's.

    Source: ours.
    """
    opened = open_pool(case, share, adapt)
    recipes = dict.fromkeys(case.users, average_of(opened.pool))
    return opened.answering(case, recipes, rag, Costs(bytes_per_user=0.0))


def average_of(pool: Pool) -> Recipe:
    """All pieces, each with weight 1/N, where N is the number of its module's pieces."""
    counts = [len(pool.gates(name)) for name in pool.modules]
    place_K = np.arange(max(counts))
    has_MK = place_K < np.array(counts)[:, None]
    weight_MK = has_MK / np.maximum(counts, 1)[:, None]
    return Recipe("product", np.where(has_MK, place_K, 0).astype(np.uint16), weight_MK.astype(np.float32))


METHOD = Method("averaged", averaged, learns=True, pool=True)
