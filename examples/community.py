"""The made-up community of `make demo`: users who file the same kind of messages, each by different rules.

NO USER HERE IS REAL: the users, their rules and their messages are made up by this file, from a seed.

Four archetypes look at different things: the clock (by when?), the people (from whom?), the purse (is it about money?)
and the doer (what is asked of me?). A user's rules are an archetype's with one to three exceptions. So the same message
gets different answers from different users, while users of one archetype mostly agree.

    python examples/community.py OUTDIR    writes outsiders.jsonl, people.jsonl and queries.jsonl
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Final

from messages import ASK_WEIGHTS, ASKS, DEADLINES, MOMENTS, PHRASINGS, SENDER_WEIGHTS, SENDERS, SUMS, VOICES

Row = dict[str, str]

NOTICE: Final = "The users and messages of this community are made up; none of them is real."
FOLDERS: Final = ("today", "week", "later", "family", "work", "money", "help", "reply", "fun", "read", "bin")
NAMES: Final = (
    *("ada", "bela", "ciro", "dana", "edda", "finn", "gwen", "hugo", "iris", "jona", "kaya", "lars"),
    *("mina", "nils", "olga", "pavo", "quin", "rosa", "sami", "tove", "ugo", "vera", "wim", "xena"),
)
OUTSIDERS: Final = 8  # the first users, two of each archetype, from whom the task adapter learns
NEW_RECORDS: Final = 20  # records of a newcomer
TOP_SHARE: Final = (0.25, 0.40)  # the share of a history in its most frequent folder
OWN_SHARE: Final = (0.05, 0.15)  # the share of a history that the archetype would file elsewhere
START: Final = datetime(2025, 1, 6, 8)


class Message(str):
    """A message's text, with the attributes that rules look at."""

    sender: str  # a key of SENDERS
    ask: str  # a key of ASKS
    due: str  # today, week or later
    money: str  # yes or no


def messages(rng: Random) -> Iterator[Message]:
    """Make up messages without end; they may repeat."""
    while True:
        sender = _weighted(rng, SENDER_WEIGHTS)
        voice = VOICES.get(sender, sender)
        ask = _weighted(rng, {ask: weight for ask, weight in ASK_WEIGHTS.items() if (voice, ask) in PHRASINGS})
        due = rng.choice(list(DEADLINES))
        money = _weighted(rng, {"yes": 36, "no": 64})
        phrasing = rng.choice([words for words in PHRASINGS[voice, ask] if ("{sum}" in words) == (money == "yes")])
        words = phrasing.format(by=rng.choice(DEADLINES[due]), on=rng.choice(MOMENTS[due]), sum=rng.choice(SUMS))
        message = Message(f"From {rng.choice(SENDERS[sender])}, who {rng.choice(ASKS[ask])}: {words}")
        message.sender, message.ask, message.due, message.money = sender, ask, due, money
        yield message


def _weighted(rng: Random, weights: Mapping[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


@dataclass(frozen=True)
class Rule:
    """A message whose `trait` (sender, ask, due or money; "any" for all messages) is `value` goes to `folder`."""

    trait: str
    value: str
    folder: str

    def fits(self, message: Message) -> bool:
        """Whether this rule applies to the message."""
        return self.trait == "any" or getattr(message, self.trait) == self.value

    def __str__(self) -> str:
        return f"{self.trait} {self.value} to {self.folder}"


Rules = tuple[Rule, ...]  # the first that fits decides


def _rules(lines: str) -> Rules:
    """Rules from lines such as "sender boss -> today"."""
    return tuple(Rule(*line.replace("->", "").split()) for line in lines.strip().splitlines())


ARCHETYPES: Final[dict[str, Rules]] = {
    "clock": _rules("""
        due today -> today
        due week -> week
        due later -> later
    """),
    "people": _rules("""
        sender family -> family
        sender friend -> family
        sender boss -> work
        sender colleague -> work
        any message -> bin
    """),
    "purse": _rules("""
        money yes -> money
        ask news -> bin
        ask offer -> bin
        sender boss -> work
        sender colleague -> work
        any message -> later
    """),
    "doer": _rules("""
        ask request -> help
        ask question -> reply
        ask invitation -> fun
        any message -> read
    """),
}

EXCEPTIONS: Final = _rules("""
    sender family -> family
    sender family -> today
    sender friend -> fun
    sender friend -> later
    sender boss -> today
    sender boss -> work
    sender colleague -> later
    sender colleague -> help
    sender shop -> bin
    sender shop -> read
    sender bank -> money
    sender bank -> work
    sender club -> bin
    sender club -> fun
    sender stranger -> bin
    sender stranger -> read
    ask offer -> bin
    ask news -> read
    ask invitation -> fun
""")


@dataclass(frozen=True)
class Person:
    """One made-up user.

    Attributes:
        name: the user id.
        archetype: a key of ARCHETYPES.
        habits: the exceptions from the archetype, in words.
        rules: the user's rules, exceptions first.
        records: filed messages, oldest first: rows of user_id, id, time, text, folder.
        queries: held-out messages: rows of user_id, id, text, gold.
    """

    name: str
    archetype: str
    habits: tuple[str, ...]
    rules: Rules
    records: list[Row]
    queries: list[Row]

    def file(self, message: Message) -> str:
        """The folder that this user chooses."""
        return file(message, self.rules)


def file(message: Message, rules: Rules) -> str:
    """The folder that these rules choose."""
    return next(rule.folder for rule in rules if rule.fits(message))


def make_community(people: int = 24, records: int = 40, queries: int = 12, seed: int = 0) -> list[Person]:
    """Make up a community, in which no message occurs twice.

    A larger community begins with the smaller one: later users change nothing about earlier ones.

    Raises:
        ValueError: with fewer than 20 records no history could show the archetype, the exceptions and the balance.
    """
    if records < 20:
        raise ValueError(f"a history needs at least 20 records, not {records}")
    taken: set[str] = set()
    return [_person(number, records, queries, seed, taken) for number in range(people)]


def shared_messages(seed: int = 0, count: int = 6) -> list[Message]:
    """Messages that each archetype files differently; each is a `str` that `Person.file` accepts."""
    found: list[Message] = []
    for message in messages(Random(f"{seed} shared")):
        folders = {file(message, rules) for rules in ARCHETYPES.values()}
        alike = any(message.sender == other.sender or message.ask == other.ask for other in found[-3:])
        if len(folders) == len(ARCHETYPES) and not alike:
            found.append(message)
        if len(found) == count:
            break
    return found


def write(community: list[Person], out: Path) -> None:
    """Write the histories of outsiders and users, and the users' held-out queries."""
    out.mkdir(parents=True, exist_ok=True)
    outsiders, people = community[:OUTSIDERS], community[OUTSIDERS:]
    _write_rows(out / "outsiders.jsonl", (row for person in outsiders for row in person.records))
    _write_rows(out / "people.jsonl", (row for person in people for row in person.records))
    _write_rows(out / "queries.jsonl", (row for person in people for row in person.queries))


def write_newcomers(newcomers: list[Person], out: Path) -> None:
    """Write the newcomers' first records and held-out queries."""
    out.mkdir(parents=True, exist_ok=True)
    _write_rows(out / "newcomers.jsonl", (row for person in newcomers for row in person.records[:NEW_RECORDS]))
    _write_rows(out / "newcomers-queries.jsonl", (row for person in newcomers for row in person.queries))


def summary(community: list[Person], seed: int = 0) -> str:
    """One line per user, and the folders of each archetype for the same messages."""
    lines = [NOTICE, ""]
    for person in community:
        folder, count = Counter(row["folder"] for row in person.records).most_common(1)[0]
        share = f"{folder} {count / len(person.records):.0%}"
        lines.append(f"{person.name:<6} {person.archetype:<7} mostly {share:<11} {'; '.join(person.habits)}")
    lines += ["", "The same message, by archetype: " + ", ".join(ARCHETYPES)]
    for message in shared_messages(seed):
        lines.append(f"  {message}  ->  " + ", ".join(file(message, rules) for rules in ARCHETYPES.values()))
    return "\n".join(lines)


def _person(number: int, records: int, queries: int, seed: int, taken: set[str]) -> Person:
    """Make up one user; drawn again until the history is balanced."""
    lap, place = divmod(number, len(NAMES))
    name = NAMES[place] + (str(lap + 1) if lap else "")
    archetype = list(ARCHETYPES)[number % len(ARCHETYPES)]
    rng = Random(f"{seed} {name}")
    while True:
        own = tuple(rng.sample(EXCEPTIONS, rng.choice((1, 1, 2, 3))))
        rules = own + ARCHETYPES[archetype]
        drawn = _fresh(rng, records + queries, taken)
        past, new = drawn[:records], drawn[records:]
        if _lifelike(past, own, ARCHETYPES[archetype]):
            break
    taken.update(drawn)
    habits = tuple(str(rule) for rule in own)
    return Person(name, archetype, habits, rules, _records(name, past, rules), _queries(name, new, rules))


def _lifelike(past: list[Message], own: Rules, archetype: Rules) -> bool:
    """Whether no folder dominates the history, and every exception shows in it and stays an exception."""
    deciding = [next(rule for rule in own + archetype if rule.fits(message)) for message in past]
    changed = [rule for rule, message in zip(deciding, past, strict=True) if rule.folder != file(message, archetype)]
    top_share = max(Counter(rule.folder for rule in deciding).values()) / len(past)
    own_share = len(changed) / len(past)
    within = TOP_SHARE[0] <= top_share <= TOP_SHARE[1] and OWN_SHARE[0] <= own_share <= OWN_SHARE[1]
    return within and set(changed) == set(own)


def _fresh(rng: Random, count: int, taken: set[str]) -> list[Message]:
    """Messages that no user has yet, all different."""
    found: dict[Message, None] = {}
    for message in messages(rng):
        if message not in taken:
            found[message] = None
        if len(found) == count:
            break
    return list(found)


def _records(name: str, past: list[Message], rules: Rules) -> list[Row]:
    return [
        {
            "user_id": name,
            "id": f"{name}-{number:03d}",
            "time": (START + timedelta(hours=11 * number)).isoformat(),
            "text": str(message),
            "folder": file(message, rules),
        }
        for number, message in enumerate(past, 1)
    ]


def _queries(name: str, new: list[Message], rules: Rules) -> list[Row]:
    return [
        {"user_id": name, "id": f"{name}-q{number:02d}", "text": str(message), "gold": file(message, rules)}
        for number, message in enumerate(new, 1)
    ]


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/community.py OUTDIR")
    everyone = make_community()
    write(everyone, Path(sys.argv[1]))
    print(summary(everyone))
