"""Which of a person's earlier records a prompt shows."""

import re
from collections.abc import Sequence

import numpy as np

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words that are matched: runs of letters, digits and '_', lower-cased.

    >>> words("It's Rain, again!")
    ['it', 's', 'rain', 'again']
    """
    return _WORD.findall(text.lower())


def retrieve(query: str, documents: Sequence[str], k: int) -> list[int]:
    """Indices of the k documents that match the query best, best first.

    Args:
        query: a text.
        documents: texts, oldest first. A higher index wins a tie, so a query that matches nothing gets the latest.
        k: how many; all of them if there are fewer.

    >>> retrieve("rain", ["rain again", "sun", "snow"], 2)
    [0, 2]
    """
    return rank(words(query), [words(document) for document in documents], k)


def rank(query: Sequence[str], documents: Sequence[Sequence[str]], k: int) -> list[int]:
    """`retrieve`, of texts that are words already.

    BM25+ with N documents, df of which hold the word w; |d| words in d, avg on average; k1 = 1.5, b = 0.75, delta = 1:

        score(d) = sum over the query's words w of
                   ln((N + 1) / df) (delta + tf (k1 + 1) / (k1 (1 - b + b |d| / avg) + tf))

    Source: Lv and Zhai, "Lower-bounding term frequency normalization" (CIKM 2011), as in rank_bm25 and bm25s.
    """
    if k < 1 or not documents:
        return []
    import bm25s  # only where prompts show records

    # Words that the query lacks count only by how many they are: with one id for all of them, indexing is quick enough
    # to be done anew for each of a person's records.
    ids = {word: number for number, word in enumerate(dict.fromkeys(query))}
    other = len(ids)
    corpus = [[ids.get(word, other) for word in document] for document in documents]
    scores = np.zeros(len(corpus))
    if query and any(corpus):
        bm25 = bm25s.BM25(method="bm25+", k1=1.5, b=0.75, delta=1.0, dtype="float64")
        bm25.scores = bm25.build_index_from_ids(range(other + 1), corpus, show_progress=False)
        scores = bm25.get_scores_from_ids([ids[word] for word in query])
    ties = scores.round(9)  # equal sums, added up in another order, differ in their last digits
    best: list[int] = np.lexsort((np.arange(len(corpus)), ties))[::-1][:k].tolist()
    return best
