"""The demo, `make demo`: OPPU and Per-Pcs from start to end on a made-up community.

Nineteen users file the same kind of messages, each by different rules. Eight teach the base the task (stage 1). Eight
others get one adapter each, trained on forty records per user, the first one alone and the others in one pass, and
agree to share: their pieces make a pool. Three newcomers with twenty records get adapters assembled from the pool,
without training. Then every user's held-out messages are filed. The home stays in `.demo`, and the messages beside it
in `.demo-data`: a copy in the home would block the deletion of users.
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
BASE, SOURCE = "smollm2-135m", "smollm2-135m"  # the base's name in the home, and its source
TASK = str(Path(__file__).with_name("triage.toml"))
PEOPLE, NEWCOMERS = 8, 3  # without the outsiders; two users of each archetype
# Forty records make few steps, so batches are small and the rate is high; both were tuned on this community (LOG.md).
STAGE_1 = {"learning_rate": 1e-3, "epochs": 1, "batch_size": 8}
STAGE_2 = {"learning_rate": 2e-3, "epochs": 2, "batch_size": 8}
SHARING = {"learning_rate": 2e-3, "steps": 6, "batch_size": 8, "gate_steps": 4, "centre": True}
Answers = dict[str, str | None]  # by the query's id


def main() -> None:
    started = time.perf_counter()
    everyone = community.make_community(community.OUTSIDERS + PEOPLE + NEWCOMERS)
    people, newcomers = everyone[community.OUTSIDERS : -NEWCOMERS], everyone[-NEWCOMERS:]
    say(
        f"{len(everyone)} made-up users file made-up messages, each by rules of their own; rules of one kind, such as "
        f"who wrote, are alike.\n{community.OUTSIDERS} of them teach the base the task, {PEOPLE} get an adapter each "
        f"and share its pieces, {NEWCOMERS} newcomers get adapters made of these pieces.\n"
    )
    data = HOME.with_name(f"{HOME.name}-data")
    for folder in (HOME, data):
        shutil.rmtree(folder, ignore_errors=True)
    home = Home(HOME)
    community.write(everyone[:-NEWCOMERS], data)
    community.write_newcomers(newcomers, data)
    with progress_bar() as progress:
        home.add_base(SOURCE, BASE, progress=progress)
        home.adapt("triage-base", TASK, data=data / "outsiders.jsonl", progress=progress, **STAGE_1)
        first_answer(home, people[0], data / "people.jsonl", progress, started)
        training = home.train(TASK, slots=16, progress=progress, **STAGE_2)
        assembled = share_and_assemble(home, people, data / "newcomers.jsonl", progress)
        mine, theirs = (home.read_queries(data / name, TASK) for name in ("queries.jsonl", "newcomers-queries.jsonl"))
        queries = mine + theirs
        by = {
            "base model": answers(home, queries, progress, base=BASE, base_only=True),
            "adapted base": answers(home, queries, progress, base="triage-base", base_only=True),
            "assembled": answers(home, theirs, progress),
            "own adapter": answers(home, mine, progress),
        }
        side_by_side = compare(home, people[:4], progress)
    show_accuracy(people, newcomers, queries, by)
    show_pieces(home, people, newcomers)
    say("\nThe same message, filed with different users' adapters:")
    columns = ["message", "base", *(f"{person.name} ({person.archetype})" for person in people[:4])]
    print_table("", columns, side_by_side)
    say(
        f"\n{PEOPLE} adapters of {size(training.trained[0].bytes)} each, at "
        f"{training.tokens_per_s:,.0f} tokens/s, and {NEWCOMERS} recipes of {size(assembled)} each, without training; "
        f"{time.perf_counter() - started:.0f} s in all."
    )
    say(NEXT)


def first_answer(home: Home, person: community.Person, data: Path, progress: Progress, started: float) -> None:
    """Trains one user's adapter and files a message with it; the adapter is the same as in the company of others."""
    home.train(TASK, data=data, users=[person.name], progress=progress, **STAGE_2)
    message = str(community.shared_messages()[0])
    base, own = (
        home.ask(person.name, message, "triage", choose=True, **how).answer
        for how in ({"base": "triage-base", "base_only": True}, {})
    )
    say(f"The first answer, after {time.perf_counter() - started:.0f} s. A message: {message}")
    say(f"The adapted base files it under {base}, {person.name}'s own adapter under {own}.\n")


def share_and_assemble(home: Home, people: list[community.Person], newcomers: Path, progress: Progress) -> int:
    """All users share, and newcomers are assembled from the pool; returns the bytes of one recipe."""
    for person in people:
        home.consent(person.name, True)
    home.pools.share(TASK, select="active", progress=progress, **SHARING)  # type: ignore[arg-type]
    return home.assemble(TASK, data=newcomers, top_k=1, progress=progress).assembled[0].bytes


def answers(home: Home, queries: list[Query], progress: Progress, **how: object) -> Answers:
    """The chosen folder of each query, by query id."""
    given = home.ask_many(queries, "triage", choose=True, progress=progress, **how)  # type: ignore[arg-type]
    return {answer.query.id: answer.answer for answer in given}


def compare(home: Home, people: list[community.Person], progress: Progress) -> list[list[str | None]]:
    """Messages on which the archetypes disagree, each filed by the base and by these users' adapters."""
    messages = community.shared_messages()
    asked = [
        Query(person.name, f"{person.name} {number}", {"text": str(message)})
        for person in people
        for number, message in enumerate(messages)
    ]
    own = answers(home, asked, progress)
    base = answers(home, asked[: len(messages)], progress, base=BASE, base_only=True)
    return [
        [str(message), base[f"{people[0].name} {n}"], *(own[f"{person.name} {n}"] for person in people)]
        for n, message in enumerate(messages)
    ]


def show_accuracy(
    people: list[community.Person], newcomers: list[community.Person], queries: list[Query], by: dict[str, Answers]
) -> None:
    """One row per user and one per group: the share of held-out messages filed as the user would."""
    rows = []
    for group, records, name in ((people, None, "together"), (newcomers, community.NEW_RECORDS, "newcomers together")):
        total, asked = Counter[str](), 0
        for person in group:
            mine = [query for query in queries if query.user_id == person.name]
            known = [row["folder"] for row in person.records[:records]]
            right = Counter(
                {who: sum(given[q.id] == q.gold for q in mine if q.id in given) for who, given in by.items()}
            )
            right["frequent"] = sum(query.gold == Counter(known).most_common(1)[0][0] for query in mine)
            rows.append([person.name, person.archetype, len(known), *shares(right, len(mine), by, group is people)])
            total, asked = total + right, asked + len(mine)
        rows.append([name, "", "", *shares(total, asked, by, group is people)])
    print_table(
        f"\nHeld-out messages filed as the user would, of {len(queries) // (len(people) + len(newcomers))} each",
        ["user", "files by", "records#", "own most frequent folder#", *(f"{who}#" for who in by)],
        rows,
    )


def shares(right: Counter[str], of: int, by: dict[str, Answers], trained: bool) -> list[str]:
    """The accuracies of a row; a user has either an assembled or an own adapter."""
    none = "assembled" if trained else "own adapter"
    return ["" if who == none else f"{right[who] / of:.0%}" for who in ("frequent", *by)]


def show_pieces(home: Home, people: list[community.Person], newcomers: list[community.Person]) -> None:
    """The sharers that newcomers' histories selected: one row per newcomer, one column per archetype."""
    weights = {person.name: weight_by_archetype(home, person.name, people) for person in newcomers}
    kinds = list(community.ARCHETYPES)
    chance = Counter(person.archetype for person in people)
    rows = [[who.name, who.archetype, *(f"{weights[who.name][kind]:.0%}" for kind in kinds)] for who in newcomers]
    rows.append(["by chance", "", *(f"{chance[kind] / len(people):.0%}" for kind in kinds)])
    print_table(
        "\nSharers of the newcomers' pieces: the share of the recipe's weight, by the sharers' archetypes",
        ["newcomer", "files by", *(f"{kind}#" for kind in kinds)],
        rows,
    )
    own = sum(weights[who.name][who.archetype] for who in newcomers) / len(newcomers)
    say(MIXED.format(own=own, chance=sum(chance[who.archetype] for who in newcomers) / len(newcomers) / len(people)))


def weight_by_archetype(home: Home, user: str, people: list[community.Person]) -> Counter[str]:
    """The share of a recipe's weight on the pieces of each archetype's sharers."""
    from ownlm.inference.load import load_pool, load_recipe
    from ownlm.store.pools import users_of
    from ownlm.workflows.assemble import top_sharers

    info = home.latest_adapters("triage")["triage", user]
    pool = load_pool(home.store, info)
    names, archetypes = users_of(home.store, pool=info.pool), {one.name: one.archetype for one in people}
    weights = Counter[str]()
    for sharer, share in top_sharers(pool, load_recipe(info, pool), most=len(people)):
        weights[archetypes[names[sharer]]] += share  # type: ignore[assignment]
    return weights


MIXED = """
{own:.0%} of the newcomers' weight lies on pieces of users who file as they do; by chance it would be {chance:.0%}.
The gates are centred: what all histories have in common is subtracted. Without that, they select as by chance
(benchmarks/LOG.md)."""
NEXT = """
Look around:
  .venv/bin/ownlm users ls --home .demo
  .venv/bin/ownlm ask iris "From the bank: your card is ready today." --task triage --choose --home .demo
On your own data, a file of JSON lines such as {"user_id": "me", "text": "...", "folder": "..."}:
  .venv/bin/ownlm base add smollm2-135m
  .venv/bin/ownlm train my.jsonl --task examples/triage.toml    (copy the task file and adapt it to yours)
README.md goes on from there."""


if __name__ == "__main__":
    main()
