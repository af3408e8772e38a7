"""BM25 retrieval of the earlier records that a prompt shows."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ownlm.prompt.words import segmented


def words(text: str) -> list[str]:
    """The terms of a text: runs of letters, digits and '_', in lower case.

    In a script without blanks between words, such as Japanese or Thai, the terms are characters and pairs of
    neighbouring characters.

    >>> words("It's Rain, again! 雨が")
    ['it', 's', 'rain', 'again', '雨', 'が', '雨が']
    """
    terms: list[str] = []
    for parts in segmented(text.replace("\u0130", "i")):  # Turkish: its lower case would be an i with a mark
        terms += parts
        terms += map("".join, pairwise(parts))
    return terms


def retrieve(query: str, documents: Sequence[str], k: int) -> list[int]:
    """Indices of the k documents that match the query best, best first.

    Args:
        query: the text to search for.
        documents: the texts to search in, oldest first. The latest wins a tie, also if nothing matches.
        k: the number of indices; there are fewer if there are fewer documents.

    >>> retrieve("rain", ["rain again", "sun", "snow"], 2)
    [0, 2]
    """
    return rank(words(query), [words(document) for document in documents], k)


def rank(query: Sequence[str], documents: Sequence[Sequence[str]], k: int) -> list[int]:
    """`retrieve` for texts that are lists of words."""
    if k < 1 or not documents:
        return []
    ties = bm25(query, documents).round(9)  # equal sums in another order differ in their last digits
    best: list[int] = np.lexsort((np.arange(len(documents)), ties))[::-1][:k].tolist()
    return best


def bm25(query: Sequence[str], documents: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """BM25+ scores of documents for a query, all given as words.

    N documents, df of them with the word w; |d| words in d, avg on average; k1 = 1.5, b = 0.75, delta = 1:

        score(d) = sum over the query's words w of
                   ln((N + 1) / df) (delta + tf (k1 + 1) / (k1 (1 - b + b |d| / avg) + tf))

    Returns:
        score_N, all 0 if the query or the documents have no words.

    Source: Lv and Zhai, "Lower-bounding term frequency normalization" (CIKM 2011), as in rank_bm25 and bm25s.
    """
    import bm25s  # only where prompts show records

    # Words that the query lacks only count for lengths. With one id for all of them, indexing is quick enough to be
    # repeated for each record of a user.
    ids = {word: number for number, word in enumerate(dict.fromkeys(query))}
    other = len(ids)
    corpus = [[ids.get(word, other) for word in document] for document in documents]
    if not query or not any(corpus):
        return np.zeros(len(corpus))
    index = bm25s.BM25(method="bm25+", k1=1.5, b=0.75, delta=1.0, dtype="float64")
    index.scores = index.build_index_from_ids(range(other + 1), corpus, show_progress=False)
    scores: NDArray[np.float64] = index.get_scores_from_ids([ids[word] for word in query])
    return scores
