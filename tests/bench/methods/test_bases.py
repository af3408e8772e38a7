"""Random records are the person's own, and the same each time."""

from collections import Counter
from dataclasses import replace

from ownlm.bench.case import Case
from ownlm.bench.methods.random_records import drawn
from tests.bench.methods.cases import ask


def test_random_records_are_the_persons_own_and_the_same_each_time(case: Case) -> None:
    shown = {(query.user_id, query.id): drawn(case, query, 3) for query in case.data.queries}
    for (user, _), records in shown.items():
        assert {one.user_id for one in records} == {user} and len({one.id for one in records}) == 3
    again = {(query.user_id, query.id): drawn(case, query, 3) for query in reversed(case.data.queries)}
    assert again == shown
    other = {(query.user_id, query.id): drawn(replace(case, seed=1), query, 3) for query in case.data.queries}
    assert other != shown and len(Counter(tuple(r.id for r in records) for records in shown.values())) > 6


def test_a_person_with_fewer_records_shows_all_of_them(case: Case) -> None:
    query = case.data.queries[0]
    records = drawn(case, query, 100)
    assert sorted(one.id for one in records) == sorted(one.id for one in case.histories[query.user_id].records)


def test_a_prompt_shows_these_records_and_nobody_elses(case: Case, monkeypatch) -> None:
    read = list[str]()
    from ownlm.bench.methods import asking

    genuine = asking._encoded

    def look(case, base, query, text):
        read.append(text)
        others = set(case.histories) - {query.user_id}
        about = text.rsplit("message:", 1)[0]
        assert query.user_id in about and not any(f"{user} secret" in about for user in others)
        assert all(record.fields["text"] in about for record in drawn(case, query, 2))
        return genuine(case, base, query, text)

    monkeypatch.setattr(asking, "_encoded", look)
    ask(case, "random", k=2)
    assert len(read) == len(case.data.queries)
