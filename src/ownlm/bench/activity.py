"""How active people are: buckets by how many records they have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ownlm.bench.statistics import Estimate

_MOST: Final = (0, 20, 50, 100, 200)  # records in each bucket but the last


@dataclass(frozen=True, slots=True)
class Bucket:
    """What answers to people who are about equally active are worth."""

    label: str  # such as "1-20 records"
    users: int
    queries: int
    scores: dict[str, Estimate]  # by metric


def bucket_of(records: int) -> str:
    """What the bucket of a person with so many records is called.

    >>> bucket_of(0), bucket_of(20), bucket_of(21), bucket_of(201)
    ('0 records', '1-20 records', '21-50 records', '201+ records')
    """
    least = 0
    for most in _MOST:
        if records <= most:
            return f"{least}-{most} records" if most > least else f"{most} records"
        least = most + 1
    return f"{least}+ records"


def buckets(records_Q: Sequence[int]) -> dict[str, list[int]]:
    """The places of the queries in each bucket, the least active people's first; empty buckets are left out.

    Args:
        records_Q: how many records the person of each query has.
    """
    parts: dict[str, list[int]] = {}
    for place in sorted(range(len(records_Q)), key=records_Q.__getitem__):
        parts.setdefault(bucket_of(records_Q[place]), []).append(place)
    return {label: sorted(places) for label, places in parts.items()}
