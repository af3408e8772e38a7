"""Random records are the person's own, and the same each time."""

from collections import Counter
from dataclasses import replace

from ownlm.bench import case as cases
from ownlm.bench.case import Case
from ownlm.bench.methods.random_records import drawn
from ownlm.oppu.examples import encode_within
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

    def look(base, text, room, what):
        read.append(text)
        user = case.data.queries[len(read) - 1].user_id
        others = set(case.histories) - {user}
        about = text.rsplit("message:", 1)[0]
        assert user in about and not any(f"{other} secret" in about for other in others)
        assert all(record.fields["text"] in about for record in drawn(case, case.data.queries[len(read) - 1], 2))
        return encode_within(base, text, room, what)

    monkeypatch.setattr(cases, "encode_within", look)
    ask(case, "random", k=2)
    assert len(read) == len(case.data.queries)
