"""The made-up community is reproducible, balanced, without leaks, and its users disagree."""

import json
import sys
import tomllib
from collections import Counter
from itertools import combinations, islice
from pathlib import Path
from random import Random

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))  # the examples are scripts beside each other, not a package

import community  # noqa: E402
import messages  # noqa: E402
from community import ARCHETYPES, FOLDERS, OUTSIDERS, Person, make_community, shared_messages  # noqa: E402


@pytest.fixture(scope="module")
def people() -> list[Person]:
    return make_community()


def test_the_same_seed_makes_the_same_community(people: list[Person]) -> None:
    assert make_community() == people
    assert shared_messages() == shared_messages()
    assert make_community(seed=1) != people


def test_a_larger_community_begins_with_a_smaller_one(people: list[Person]) -> None:
    larger = make_community(people=30)
    assert larger[: len(people)] == people
    assert len({person.name for person in larger}) == 30


def test_sizes_and_archetypes(people: list[Person]) -> None:
    assert len({person.name for person in people}) == len(people) == 24
    assert {len(person.records) for person in people} == {40}
    assert {len(person.queries) for person in people} == {12}
    assert set(Counter(person.archetype for person in people).values()) == {6}
    assert set(Counter(person.archetype for person in people[:OUTSIDERS]).values()) == {2}
    with pytest.raises(ValueError, match="at least 20 records"):
        make_community(records=5)


def test_no_message_occurs_twice(people: list[Person]) -> None:
    texts = [row["text"] for person in people for row in person.records + person.queries]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_folder_dominates_a_history_and_exceptions_show(seed: int) -> None:
    for person in make_community(seed=seed):
        share = max(Counter(row["folder"] for row in person.records).values()) / len(person.records)
        assert 0.25 <= share <= 0.40, person.name
        assert 1 <= len(person.habits) <= 3


def test_archetypes_disagree_on_most_messages() -> None:
    drawn = list(islice(community.messages(Random(0)), 1000))
    for one, other in combinations(ARCHETYPES.values(), 2):
        agreed = sum(community.file(message, one) == community.file(message, other) for message in drawn)
        assert agreed / len(drawn) < 1 / 3


def test_archetypes_disagree_on_every_shared_message(people: list[Person]) -> None:
    shared = shared_messages()
    assert len(set(shared)) == 6
    for message in shared:
        assert len({community.file(message, rules) for rules in ARCHETYPES.values()}) == len(ARCHETYPES)
        assert len({person.file(message) for person in people}) >= len(ARCHETYPES)


def test_users_mostly_keep_to_their_archetype(people: list[Person]) -> None:
    drawn = list(islice(community.messages(Random(0)), 1000))
    for person in people:
        kept = sum(person.file(message) == community.file(message, ARCHETYPES[person.archetype]) for message in drawn)
        assert 0.7 <= kept / len(drawn) < 1, person.name


def test_every_folder_is_a_label_of_the_task_file() -> None:
    task = tomllib.loads((EXAMPLES / "triage.toml").read_text(encoding="utf-8"))
    assert task["name"] == "triage"
    assert task["labels"] == list(FOLDERS)
    rules = [*community.EXCEPTIONS, *(rule for rules in ARCHETYPES.values() for rule in rules)]
    assert {rule.folder for rule in rules} == set(FOLDERS)


def test_phrasings_hold_one_slot_for_time_and_no_word_of_a_folder() -> None:
    for (_, ask), phrasings in messages.PHRASINGS.items():
        assert ask in messages.ASKS
        assert len(set(phrasings)) == len(phrasings) >= 10
        for phrasing in phrasings:
            assert phrasing.count("{by}") + phrasing.count("{on}") == 1, phrasing
            assert ("£" in phrasing) == ("{sum}" in phrasing), phrasing
            assert not {word.strip(".,!?") for word in phrasing.split()} & set(FOLDERS), phrasing


def test_written_files_parse(people: list[Person], tmp_path: Path) -> None:
    community.write(people, tmp_path / "new" / "folder")
    rows = {
        path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (tmp_path / "new" / "folder").iterdir()
    }
    assert {name: len(found) for name, found in rows.items()} == {"outsiders": 320, "people": 640, "queries": 192}
    assert all(row.keys() == {"user_id", "id", "time", "text", "folder"} for row in rows["outsiders"] + rows["people"])
    assert all(row.keys() == {"user_id", "id", "text", "gold"} for row in rows["queries"])
    assert {row["user_id"] for row in rows["people"]} == {row["user_id"] for row in rows["queries"]}
    assert not {row["user_id"] for row in rows["people"]} & {row["user_id"] for row in rows["outsiders"]}
    assert len({row["id"] for found in rows.values() for row in found}) == 320 + 640 + 192


def test_newcomers_files_hold_their_first_records(people: list[Person], tmp_path: Path) -> None:
    community.write_newcomers(people[-3:], tmp_path)
    lines = (tmp_path / "newcomers.jsonl").read_text("utf-8").splitlines()
    expected = [row for person in people[-3:] for row in person.records[:20]]
    assert [json.loads(line) for line in lines] == expected and len(lines) == 60
    assert len((tmp_path / "newcomers-queries.jsonl").read_text("utf-8").splitlines()) == 36


def test_summary_says_first_that_users_are_made_up(people: list[Person]) -> None:
    assert "made up" in community.summary(people).splitlines()[0]
    assert "made up" in (community.__doc__ or "")
