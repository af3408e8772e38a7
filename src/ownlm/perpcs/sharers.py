"""Selection of sharers: users who, together, represent many others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ownlm.errors import ConfigError, DataError
from ownlm.oppu.fleet import job_seed

MIN_RECORDS = 10  # a sharer has more
NAMED = 10  # users that an error names
RUNS = 10  # of k-means, from other starts each; the best one counts
MOST_STEPS = 3000  # of each, as released


@dataclass(frozen=True, slots=True)
class Candidate:
    """A user who may be selected as a sharer, with the number of their records."""

    user: str
    records: int


def choose_sharers(
    how: Literal["clustered", "active", "random"],
    candidates: Sequence[Candidate],
    count: int,
    seed: int,
    embed: Callable[[list[str]], Tensor] | None = None,
) -> list[str]:
    """Selects sharers among the candidates with more than `MIN_RECORDS` records.

    - clustered: their history embeddings are parted by k-means into `count` clusters, fewer where fewer histories
      differ; of each cluster the user with the most records is chosen.
    - active: those with the most records.
    - random: a draw.

    All of them are chosen where they are no more than `count`. The order of the candidates changes nothing: ties go to
    the name that sorts first.

    Args:
        candidates: users who agreed to share, each once.
        count: number of sharers to select.
        seed: seed of k-means and of the random selection.
        embed: gives a history embedding [D] for each of these users, in their order: [U, D]. Called for `clustered`
            alone, where more than `count` have enough records.

    Returns:
        Users, the one with the most records first.

    Raises:
        ConfigError: `count` is below 1, or nothing embeds those to cluster.
        DataError: no user has enough records, or the embeddings do not fit those to cluster.

    Source: Per-Pcs (arXiv 2406.10471), sharer selection. Differs: only users with enough records are clustered, so
    that every cluster has a sharer; k-means keeps the best of ten starts, the released code one; the least number of
    records holds for `active` and `random` too; up to `count` users are not clustered.

    >>> choose_sharers("active", [Candidate("ada", 12), Candidate("bela", 40), Candidate("ciro", 9)], 1, seed=0)
    ['bela']
    """
    if count < 1:
        raise ConfigError("The number of sharers is too small", got=count, expected="at least 1")
    ranked = sorted(candidates, key=lambda one: (-one.records, one.user))
    able = [one.user for one in ranked if one.records > MIN_RECORDS]
    if not able:
        raise _nobody(ranked)
    if len(able) <= count or how == "active":
        return able[:count]
    by_name = sorted(able)  # k-means depends on the order of rows
    if how == "random":
        drawn = set(sorted(by_name, key=lambda user: job_seed(seed, user))[:count])
        return [user for user in able if user in drawn]
    if embed is None:
        raise ConfigError("Sharers cannot be clustered without embeddings of their histories")
    clusters = dict(zip(by_name, _clusters(by_name, embed(by_name), count, seed), strict=True))
    best: dict[int, str] = {}
    for user in able:
        best.setdefault(clusters[user], user)
    return list(best.values())


def _clusters(users: Sequence[str], emb_UD: Tensor, count: int, seed: int) -> list[int]:
    """Each user's cluster."""
    from sklearn.cluster import KMeans  # only here: it takes a second to import

    if emb_UD.ndim != 2 or len(emb_UD) != len(users):
        raise DataError(
            "The embeddings do not fit those to cluster",
            got=f"a tensor of shape {list(emb_UD.shape)}",
            expected=f"a row for each of {len(users)}",
        )
    if not (whole_U := emb_UD.isfinite().all(dim=1)).all():
        broken = users[int(whole_U.int().argmin())]
        raise DataError(
            f"The history of user {broken!r} has an embedding that is not finite", hint="embed with another model"
        )
    points_UD = emb_UD.double().cpu()
    clusters = min(count, len(points_UD.unique(dim=0)))
    kmeans = KMeans(clusters, n_init=RUNS, max_iter=MOST_STEPS, random_state=seed % 2**32)
    labels: list[int] = kmeans.fit_predict(points_UD.numpy()).tolist()
    return labels


def _nobody(ranked: Sequence[Candidate]) -> DataError:
    if not ranked:
        return DataError(
            "There is no user to select as a sharer",
            hint="ask users to share",
            command="ownlm users consent USER --share",
        )
    named = ", ".join(f"{one.user} ({one.records})" for one in ranked[:NAMED])
    others = f" and {len(ranked) - NAMED:,} more users with no more than them" if len(ranked) > NAMED else ""
    return DataError(
        "No user has enough records to share",
        got=named + others,
        expected=f"a user with more than {MIN_RECORDS} records",
        hint="add records, or ask others for consent",
    )
