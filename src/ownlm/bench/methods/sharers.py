"""Other people's adapters without choosing piece by piece: the nearest sharer's whole, all averaged, or routed."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ownlm.bench.arrow import routing
from ownlm.bench.case import Case, Made
from ownlm.bench.methods.asking import ask_with, retrieving
from ownlm.bench.methods.bases import AS_PLANNED
from ownlm.bench.methods.pool import pool_of
from ownlm.bench.methods.values import Changes, Count, Records, Temperature
from ownlm.bench.results import Costs
from ownlm.history.record import History, Query
from ownlm.home import Home
from ownlm.model.base import BaseLM
from ownlm.perpcs.embedding import embed_histories
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import Recipe
from ownlm.prompt.example import retrieval_document
from ownlm.store.pools import people_of

LOOKED_AT = 16  # latest records of each person, to find the nearest sharer
EVERYBODY = "everybody"  # whose one recipe answers for all


@dataclass(frozen=True, slots=True)
class Opened:
    """A pool, the base that its pieces are for, and the home where it was made."""

    home: Home
    base: BaseLM
    pool: Pool


def nearest(case: Case, *, rag: Records = 0, share: Changes = AS_PLANNED, adapt: Changes = AS_PLANNED) -> Made:
    """The whole adapter of the sharer whose history is nearest: all pieces that they gave, with weight 1.

    Nearest by cosine, of the mean embedding of each one's 16 latest records less the sharers' mean.

    Args:
        rag: how many of the person's records the prompt shows.
        share: what differs from the plan's settings of pools.
        adapt: what differs from the plan's settings of stage 1.

    Source: ours.
    """
    opened = _open(case, share, adapt)
    who = people_of(opened.home.store, pool=opened.pool.digest)
    histories = [opened.home.history(user, case.task.name) for user in who.values()]
    sharer_ND = _embedded(case, opened.base, histories)
    started = time.perf_counter()
    target_UD = _embedded(case, opened.base, [case.histories[user] for user in case.people])
    ids = [list(who)[place] for place in nearest_places(target_UD, sharer_ND)]
    seconds = time.perf_counter() - started
    recipes = {user: recipe_of(opened.pool, sharer) for user, sharer in zip(case.people, ids, strict=True)}

    def answers(queries: Sequence[Query]) -> Iterator[str]:
        return ask_with(
            case, opened.base, queries, retrieving(case, rag), owner=lambda query: query.user_id, recipes=recipes,
            pool=opened.pool,
        )  # fmt: skip

    kept = sum(len(recipe.to_bytes()) for recipe in recipes.values()) / len(recipes)
    return Made(answers, Costs(assemble_seconds=seconds, bytes_per_user=kept))


def averaged(case: Case, *, rag: Records = 0, share: Changes = AS_PLANNED, adapt: Changes = AS_PLANNED) -> Made:
    """The mean of all sharers' adapters, the same for everybody: of each module's N pieces, each with weight 1/N.

    Args:
        rag, share, adapt: as for `nearest`.

    Source: ours.
    """
    opened = _open(case, share, adapt)
    recipes = {EVERYBODY: average_of(opened.pool)}

    def answers(queries: Sequence[Query]) -> Iterator[str]:
        return ask_with(
            case, opened.base, queries, retrieving(case, rag), owner=lambda query: EVERYBODY, recipes=recipes,
            pool=opened.pool,
        )  # fmt: skip

    return Made(answers, Costs(bytes_per_user=0.0))


def arrow(
    case: Case, *, rag: Records = 0, top_k: Count = 3, tau: Temperature = 1.0, share: Changes = AS_PLANNED,
    adapt: Changes = AS_PLANNED,
) -> Made:  # fmt: skip
    """Arrow: each token, at each module, goes through the pieces whose strongest input direction it is most alike.

    Args:
        top_k, tau: as for `ownlm.bench.arrow.routed`.
        rag, share, adapt: as for `nearest`.

    Source: Arrow (arXiv 2405.11157), as peft has it.
    """
    opened = _open(case, share, adapt)

    def answers(queries: Sequence[Query]) -> Iterator[str]:
        with routing(opened.base, opened.pool, top_k=top_k, tau=tau):
            yield from ask_with(case, opened.base, queries, retrieving(case, rag))

    return Made(answers, Costs(bytes_per_user=0.0))


def nearest_places(target_UD: Tensor, sharer_ND: Tensor) -> list[int]:
    """For each target, the place of the sharer with the highest cosine, both less the sharers' mean."""
    mean_D = sharer_ND.mean(0)
    target_UD, sharer_ND = (torch.nn.functional.normalize(one - mean_D, dim=1) for one in (target_UD, sharer_ND))
    places: list[int] = (target_UD @ sharer_ND.T).argmax(dim=1).tolist()
    return places


def recipe_of(pool: Pool, sharer: str) -> Recipe:
    """All pieces of one sharer, by their random id, with weight 1; nothing of a module of which they gave none."""
    places = [
        next((place for place in range(len(pool.gates(name))) if pool.sharer(name, place) == sharer), None)
        for name in pool.modules
    ]
    return Recipe(
        "product",
        np.array([[place or 0] for place in places], dtype=np.uint16),
        np.array([[place is not None] for place in places], dtype=np.float32),
    )


def average_of(pool: Pool) -> Recipe:
    """All pieces, each with weight 1/N, of the N of its module."""
    counts = [len(pool.gates(name)) for name in pool.modules]
    place_K = np.arange(max(counts))
    has_MK = place_K < np.array(counts)[:, None]
    weight_MK = has_MK / np.maximum(counts, 1)[:, None]
    return Recipe("product", np.where(has_MK, place_K, 0).astype(np.uint16), weight_MK.astype(np.float32))


def _open(case: Case, share: Changes, adapt: Changes) -> Opened:
    home, pool = pool_of(case, case.adapted(**adapt), share)
    return Opened(home, case.loaded(home), home.pools.open(pool.digest)[1])


def _embedded(case: Case, base: BaseLM, histories: Sequence[History]) -> Tensor:
    texts = [[retrieval_document(case.task, record) for record in one.records[-LOOKED_AT:]] for one in histories]
    return embed_histories(base, texts)
