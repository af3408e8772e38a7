from hypothesis import given
from hypothesis import strategies as st

from ownlm.bench.activity import bucket_of, buckets


def test_where_buckets_begin() -> None:
    begins = [0, 1, 21, 51, 101, 201]
    labels = [bucket_of(records) for records in begins]
    assert labels == [
        "0 records", "1-20 records", "21-50 records", "51-100 records", "101-200 records", "201+ records"
    ]  # fmt: skip
    assert [bucket_of(records - 1) for records in begins[1:]] == labels[:-1]


@given(st.lists(st.integers(0, 300)))
def test_every_query_is_in_one_bucket(records: list[int]) -> None:
    parts = buckets(records)
    assert sorted(place for places in parts.values() for place in places) == list(range(len(records)))
    assert all(bucket_of(records[place]) == label for label, places in parts.items() for place in places)
    assert all(places == sorted(places) and places for places in parts.values())
    assert [min(records[place] for place in places) for places in parts.values()] == sorted(
        min(records[place] for place in places) for places in parts.values()
    )
