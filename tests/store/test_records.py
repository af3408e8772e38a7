"""Pages, counts and sizes of records: the same as of all of them, without reading all of them."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis.strategies import lists, none, one_of, sampled_from

from ownlm.errors import DataError
from ownlm.history.record import History, Record, in_order, order_of
from ownlm.store.records import Bounds, history_bytes, history_page, record_counts
from ownlm.store.store import Store
from tests.store.rows import TASK

TIMES = ("2024", "2024-02-01", "2023-05-05T10:00:00+02:00", "1700000000", None, None)
TEXTS = ("Straße", "strasse", 'a "quoted" text\\', "KELVIN", "50% _off_", "text", "ünï", "😀 x", "\0 nul")


def put(store: Store, user: str, times: list[str | None]) -> History:
    records = [
        Record(user, f"{user}-{n}", {"text": f"{TEXTS[n % len(TEXTS)]} {n}", "label": "a"}, time)
        for n, time in enumerate(times)
    ]
    store.add_records(TASK.name, [History(user, tuple(records))])
    return in_order(user, records)


@given(lists(one_of(none(), sampled_from(TIMES)), max_size=30))
def test_the_order_is_that_of_histories(times: list[str | None]) -> None:
    records = [Record("u", str(n), {}, time) for n, time in enumerate(times)]
    assert [records[n] for n in order_of(times)] == list(in_order("u", records).records)


@pytest.mark.parametrize("limit", [1, 3, 20])
def test_pages_are_those_of_the_whole_history(paged: tuple[Store, History], limit: int) -> None:
    store, history = paged
    for contains in ("", "STRASSE", '"quoted"', "%", "_", "\\", "kelvin", "ÜNÏ", "😀", "label", "\0", "nothing"):
        wanted = contains.casefold()
        expected = [one for one in history.records if any(wanted in text.casefold() for text in one.fields.values())]
        seen, before = list[Record](), None
        while True:
            page, total = history_page(store, TASK.name, "ada", limit, before=before, contains=contains)
            assert total == len(expected)
            seen += page
            end = total if before is None else before
            if end <= limit:
                break
            before = end - limit
        assert seen == expected[::-1]


@pytest.fixture
def paged(store: Store) -> tuple[Store, History]:
    put(store, "bela", [None] * 3)
    return store, put(store, "ada", [TIMES[n % len(TIMES)] for n in range(20)])


def test_a_record_is_found_by_its_id(paged: tuple[Store, History]) -> None:
    store, history = paged
    for one in history.records:
        assert history_page(store, TASK.name, "ada", 5, id=one.id) == ([one], 1)
    assert history_page(store, TASK.name, "ada", 5, id="bela-1") == ([], 0)
    assert history_page(store, TASK.name, "ada", 5, before=10**6)[1] == len(history)


def test_counts_and_sizes_are_a_users_own(paged: tuple[Store, History]) -> None:
    store, _ = paged
    assert record_counts(store, "ada") == {TASK.name: 20} and record_counts(store, "nobody") == {}
    with store.database.reading() as db:
        texts = db.exec_driver_sql("SELECT fields FROM records WHERE user = 'ada'").scalars().all()
    assert history_bytes(store, TASK.name, "ada") == sum(len(text.encode()) for text in texts)
    assert history_bytes(store, TASK.name, "nobody") == 0


@pytest.mark.parametrize(("bounds", "what"), [
    (lambda size: Bounds(21, 10**6), "too many records"), (lambda size: Bounds(100, size + 50), "too large"),
])  # fmt: skip
def test_a_history_is_bounded_in_records_and_bytes(
    bounds: Callable[[int], Bounds], what: str, paged: tuple[Store, History]
) -> None:
    store, _ = paged
    size = history_bytes(store, TASK.name, "ada")
    more = History("ada", tuple(Record("ada", f"more {n}", {"text": "x" * 50}) for n in range(2)))
    with pytest.raises(DataError, match=what) as refused:
        store.add_records(TASK.name, [more], bounds=bounds(size))
    assert "delete older records" in (refused.value.hint or "") and history_bytes(store, TASK.name, "ada") == size
    assert store.add_records(TASK.name, [more], bounds=Bounds(22, size + 200)) == (2, 0, 0)
