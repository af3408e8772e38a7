"""Method `nearest`: each user gets the whole adapter of the sharer with the most similar history."""

import time
from collections.abc import Sequence
from statistics import fmean
from typing import Final

import numpy as np
import torch
from torch import Tensor

from ownlm.bench.case import AS_PLANNED, Case, Changes
from ownlm.bench.methods.method import Made, Method, Records
from ownlm.bench.methods.pool import open_pool
from ownlm.bench.results import Costs
from ownlm.history.record import History
from ownlm.model.base import BaseLM
from ownlm.perpcs.embedding import embed_histories
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import Recipe
from ownlm.prompt.example import retrieval_document
from ownlm.store.pools import users_of

LATEST: Final = 16  # records of each user that are embedded


def nearest(case: Case, *, rag: Records = 0, share: Changes = AS_PLANNED, adapt: Changes = AS_PLANNED) -> Made:
    """Gives each user all pieces of the sharer with the most similar history, with weight 1.

    Nearest is by cosine of the mean embeddings of the 16 latest records, less the sharers' mean.

    Args:
        rag: Number of the user's records that the prompt shows.
        share: Settings of pools that differ from the plan's.
        adapt: Settings of stage 1 that differ from the plan's.

    Source: ours.
    """
    opened = open_pool(case, share, adapt)
    who = users_of(opened.home.store, pool=opened.pool.digest)
    sharer_ND = _embedded(case, opened.base, [opened.home.history(user, case.task.name) for user in who.values()])
    started = time.perf_counter()
    target_UD = _embedded(case, opened.base, [case.histories[user] for user in case.users])
    ids = [list(who)[place] for place in nearest_places(target_UD, sharer_ND)]
    seconds = time.perf_counter() - started
    recipes = {user: recipe_of(opened.pool, sharer) for user, sharer in zip(case.users, ids, strict=True)}
    kept = fmean(len(recipe.to_bytes()) for recipe in recipes.values())
    return opened.answering(case, recipes, rag, Costs(assemble_seconds=seconds, bytes_per_user=kept))


def nearest_places(target_UD: Tensor, sharer_ND: Tensor) -> list[int]:
    """Returns the index of each target's nearest sharer, by cosine after subtracting the sharers' mean."""
    mean_D = sharer_ND.mean(0)
    target_UD, sharer_ND = (torch.nn.functional.normalize(one - mean_D, dim=1) for one in (target_UD, sharer_ND))
    places: list[int] = (target_UD @ sharer_ND.T).argmax(dim=1).tolist()
    return places


def recipe_of(pool: Pool, sharer: str) -> Recipe:
    """Makes a recipe of all pieces of one sharer, with weight 1; modules without such a piece stay unchanged."""
    places = [
        next((place for place in range(len(pool.gates(name))) if pool.sharer(name, place) == sharer), None)
        for name in pool.modules
    ]
    return Recipe(
        "product",
        np.array([[place or 0] for place in places], dtype=np.uint16),
        np.array([[place is not None] for place in places], dtype=np.float32),
    )


def _embedded(case: Case, base: BaseLM, histories: Sequence[History]) -> Tensor:
    texts = [[retrieval_document(case.task, record) for record in one.records[-LATEST:]] for one in histories]
    return embed_histories(base, texts)


METHOD = Method("nearest", nearest, learns=True, pool=True)
