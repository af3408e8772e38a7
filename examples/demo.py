"""The main job, from start to end, on a community that is made up: `make demo`.

Twenty-four people file the same kind of messages, each by rules of their own. Eight teach the base the task; the other
sixteen get an adapter each, trained all at once on their forty records; then everybody's held-out messages are filed by
the base model and by the person's own adapter. The home is left in `.demo` for a look around.
"""

import shutil
import time
from collections import Counter
from pathlib import Path

import community

from ownlm import Home
from ownlm.cli.output import print_table, progress_bar, say, size
from ownlm.history.record import Query
from ownlm.progress import Progress

HOME = Path(".demo")
TASK = str(Path(__file__).with_name("triage.toml"))
# Forty records make few steps: small batches and a high rate, found on this community (benchmarks/LOG.md).
STAGE_1 = {"learning_rate": 1e-3, "epochs": 1, "batch_size": 8}
STAGE_2 = {"learning_rate": 2e-3, "epochs": 3, "batch_size": 8}


def main() -> None:
    started = time.perf_counter()
    say("24 made-up people file made-up messages, each by rules of their own.\n")
    shutil.rmtree(HOME, ignore_errors=True)
    home, data = Home(HOME), HOME / "data"
    everyone = community.make_community()
    community.write(everyone, data)
    people = everyone[community.OUTSIDERS :]
    with progress_bar() as progress:
        home.add_base("smollm2-135m", progress=progress)
        home.adapt("triage-base", TASK, data=data / "outsiders.jsonl", progress=progress, **STAGE_1)
        training = home.train(TASK, data=data / "people.jsonl", slots=16, progress=progress, **STAGE_2)
        queries = home.read_queries(data / "queries.jsonl", TASK)
        by_base = answers(home, queries, progress, base="smollm2-135m", base_only=True)
        by_own = answers(home, queries, progress)
        side_by_side = compare(home, people, progress)
    show_accuracy(people, queries, by_base, by_own)
    say("\nThe same message, filed by different people's models:")
    columns = ["message", "base", *(f"{person.name} ({person.archetype})" for person in people[:4])]
    print_table("", columns, side_by_side)
    adapter = training.trained[0]
    say(
        f"\n{len(training.trained)} adapters of {size(adapter.bytes)} each, at {training.tokens_per_s:,.0f} tokens/s; "
        f"{time.perf_counter() - started:.0f} s in all."
    )
    say(NEXT)


def answers(home: Home, queries: list[Query], progress: Progress, **how: object) -> dict[str, str | None]:
    """The chosen folder of each query, by the query's id."""
    given = home.ask_many(queries, "triage", choose=True, progress=progress, **how)  # type: ignore[arg-type]
    return {answer.query.id: answer.answer for answer in given}


def compare(home: Home, people: list[community.Person], progress: Progress) -> list[list[str | None]]:
    """Messages the archetypes disagree on, each filed by the base and by four people's own adapters."""
    messages = community.shared_messages()
    asked = [
        Query(person.name, f"{person.name} {number}", {"text": str(message)})
        for person in people[:4]
        for number, message in enumerate(messages)
    ]
    own = answers(home, asked, progress)
    base = answers(home, asked[: len(messages)], progress, base="smollm2-135m", base_only=True)
    return [
        [str(message), base[f"{people[0].name} {n}"], *(own[f"{person.name} {n}"] for person in people[:4])]
        for n, message in enumerate(messages)
    ]


def show_accuracy(
    people: list[community.Person], queries: list[Query], by_base: dict[str, str | None], by_own: dict[str, str | None]
) -> None:
    """A row a person, and everybody together: how many held-out messages were filed as the person would."""
    rows, total = [], Counter[str]()
    for person in people:
        mine = [query for query in queries if query.user_id == person.name]
        frequent = Counter(str(row["folder"]) for row in person.records).most_common(1)[0][0]
        right = Counter(
            frequent=sum(query.gold == frequent for query in mine),
            base=sum(by_base[query.id] == query.gold for query in mine),
            own=sum(by_own[query.id] == query.gold for query in mine),
        )
        rows.append([person.name, person.archetype, *shares(right, len(mine))])
        total += right
    rows.append(["everybody", "", *shares(total, len(queries))])
    print_table(
        f"\nHeld-out messages filed as the person would, of {len(queries) // len(people)} each",
        ["person", "files by", "own most frequent folder#", "base model#", "own adapter#"],
        rows,
    )


def shares(right: Counter[str], of: int) -> list[str]:
    """The three accuracies of a row."""
    return [f"{right[who] / of:.0%}" for who in ("frequent", "base", "own")]


NEXT = """
Look around:
  .venv/bin/ownlm users ls --home .demo
  .venv/bin/ownlm ask iris "From the bank: your card is ready today." --task triage --choose --home .demo
On your own data, a file of JSON lines such as {"user_id": "me", "text": "...", "folder": "..."}:
  .venv/bin/ownlm base add smollm2-135m
  .venv/bin/ownlm train my.jsonl --task examples/triage.toml    (copy the task file and say in it what yours is)
README.md goes on from there."""


if __name__ == "__main__":
    main()
