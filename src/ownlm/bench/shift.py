"""Behaviour shift: the queries that are least like what a person did before."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ownlm.bench.data import SetData
from ownlm.history.record import Query
from ownlm.model.base import BaseLM
from ownlm.perpcs.embedding import embed_histories
from ownlm.prompt.example import retrieval_document, retrieval_query
from ownlm.prompt.retrieval import bm25, words

Measure = Literal["bm25", "embedding"]


def least_like(data: SetData, by: Measure, share: float, load: Callable[[], BaseLM]) -> tuple[Query, ...]:
    """Of all queries the share that is least like their people's histories, at least one; in the set's order.

        bm25        max over records d of  score(q, d) / score(q, q)
        embedding   cosine of  e(q) - m  and  e(history) - m,  m the mean of all people's e(history)

    A query counts by its input alone, a record by input and answer. score is BM25+ over the person's records and the
    query itself, so that a query made of rare words is not unlike for their rarity.

    Args:
        load: gives the base that embeds; called for `embedding` only.

    Source: OPPU (arXiv 2402.04401), section on behaviour shift, keeps queries whose own records are irrelevant.
        Differs: both measures, and how like a query is is relative to itself or to everybody's mean.
    """
    like_Q = _by_words(data) if by == "bm25" else _by_embedding(data, load())
    places = sorted(range(len(data.queries)), key=like_Q.__getitem__)
    kept = set(places[: max(1, round(share * len(places)))])
    return tuple(query for place, query in enumerate(data.queries) if place in kept)


def _by_words(data: SetData) -> list[float]:
    """How like their person's history the queries are, by the words they share with the record most like them."""
    documents = {
        user: [words(retrieval_document(data.task, record)) for record in history.records]
        for user, history in data.targets.items()
    }
    like = []
    for query in data.queries:
        own = words(retrieval_query(data.task, query.fields))
        *scores, itself = bm25(own, [*documents[query.user_id], own])
        like.append(max(scores) / itself if itself else 0.0)
    return like


def _by_embedding(data: SetData, base: BaseLM) -> list[float]:
    """How like their person's history the queries are, by the angle between embeddings."""
    history_UD = embed_histories(
        base, ([retrieval_document(data.task, record) for record in one.records] for one in data.targets.values())
    )
    query_QD = embed_histories(base, ([retrieval_query(data.task, query.fields)] for query in data.queries))
    mean_D = history_UD.mean(0)
    person = {user: number for number, user in enumerate(data.targets)}
    own_QD = history_UD[torch.tensor([person[query.user_id] for query in data.queries])]
    like_Q: list[float] = cosine(query_QD - mean_D, own_QD - mean_D).tolist()
    return like_Q


def cosine(one_QD: Tensor, other_QD: Tensor) -> Tensor:
    """The cosine of the angle between rows: cos_Q; 0 where one of them is 0."""
    return (normalize(one_QD, dim=1) * normalize(other_QD, dim=1)).sum(1)
