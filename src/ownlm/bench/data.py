"""A set's data: who is asked what, on which histories, and who shares."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TypeVar

from ownlm.bench.metrics import metric, metrics_of
from ownlm.bench.plan import SetPlan
from ownlm.errors import DataError
from ownlm.history.readers import MEND, read_dataset, read_queries
from ownlm.history.record import History, Query, Record
from ownlm.history.task import OPTION_FIELDS, Task, load_task, with_instruction
from ownlm.history.times import time_key
from ownlm.prompt.example import history_examples, retrieval_document, retrieval_query

Thing = TypeVar("Thing")
ALIKE = "left out: for the most part the records of a person asked"
_AT_MOST = 5  # of how many records one is held back


@dataclass(frozen=True, slots=True)
class SetData:
    """Who takes part in a set.

    Attributes:
        task: with the instruction and labels that the data's own queries carry.
        targets: histories of those who are asked, by user.
        queries: theirs, each with the right answer.
        sharers: histories of those whose adapters a pool may be made of: people of the set who are not asked, and
            outsiders.
        outsiders: histories for stage 1; what is known of their queries stands in them as the latest records.
        unlabelled: how many queries of people with records are not asked, since their right answer is not known.
        people: what became of the people in the data, by what it is; the numbers add up to all of them.
        outsiders_found: the same of the people in the file of outsiders.
    """

    name: str
    task: Task
    targets: dict[str, History]
    queries: tuple[Query, ...]
    sharers: dict[str, History]
    outsiders: dict[str, History]
    unlabelled: int = 0
    people: Mapping[str, int] = field(default_factory=dict)
    outsiders_found: Mapping[str, int] = field(default_factory=dict)

    @property
    def learnable(self) -> bool:
        """Whether anybody asked has a record to learn from: LaMP's own of LaMP_1 have neither answer nor options."""
        return any(history_examples(self.task, history, recent=1) for history in self.targets.values())


def read_set(plan: SetPlan) -> SetData:
    """Reads a set's files and chooses who is asked.

    People are taken evenly spread over their sorted ids, or those with the most records; every n-th of all people in
    the data shares instead (`SetPlan.sharing`). Nobody learns from, or is given pieces of, somebody who is asked: who
    has for the most part the records of a person asked is left out (LaMP's questions are a person each, though several
    are of one author), and so are others' records that are a query with its answer.

    Raises:
        DataError, NotFoundError, TaskError: a file or the task is not what it should be, a history gives an answer of
            its own person away, or nobody is left to ask.
    """
    task = load_task(plan.task)
    dataset = read_dataset(plan.data, task, labels=plan.labels, hint=MEND)
    task = with_instruction(task, dataset.instruction, dataset.labels)
    histories = {history.user_id: _usable(history, task) for history in dataset.histories}
    if plan.held_back is not None:
        histories, asked = _held_back(plan, plan.held_back, task, histories)
    else:
        asked = read_queries(plan.queries, task) if plan.queries else dataset.queries
    queries: dict[str, list[Query]] = {}
    unlabelled = 0
    for query in {(query.user_id, query.id): query for query in asked}.values():  # plain rows may repeat one
        if not histories.get(query.user_id):
            continue
        if query.gold is None:
            unlabelled += 1
        else:
            queries.setdefault(query.user_id, []).append(query)
    if not queries:
        raise _nobody_to_ask(plan, len(asked), unlabelled)
    people = sorted(queries)
    sharing = set(people[:: plan.sharing]) if plan.sharing > 1 else set()
    targets = _chosen([user for user in people if user not in sharing], histories, plan)
    if not targets:
        raise DataError(
            f"In the set {plan.name!r} nobody is left to ask", got=f"{len(people)} people, who all share",
            hint="set `sharing = 0`: then outsiders alone share",
        )  # fmt: skip
    found = _outsiders(plan, task, histories.keys() | queries.keys())
    own = {user: histories[user] for user in sorted(targets)}
    chosen = tuple(query for user in own for query in spread(queries[user], plan.queries_each))
    _check_own(plan, task, own, chosen)
    outsiders = _strangers(task, found.used, own, chosen)
    sharers = _strangers(task, {user: histories[user] for user in sorted(sharing)}, own, chosen)
    _check_golds(plan, task, chosen)
    known = {query.user_id for query in asked}
    became = (
        ("asked", own.keys()),
        ("share and are not asked", sharers.keys()),
        (ALIKE, sharing),
        ("without a usable record", {user for user in histories.keys() | known if not histories.get(user)}),
        ("with too few records to hold one back" if plan.held_back else "without a query", histories.keys() - known),
        ("without a query whose right answer is known", known - queries.keys()),
        ("not taken: the plan asks for fewer", queries.keys()),
    )
    learnt = (("learnt from", outsiders.keys()), (ALIKE, found.used.keys()), *found.unused)
    return SetData(
        plan.name, task, own, chosen, sharers | outsiders, outsiders, unlabelled, _counted(became), _counted(learnt)
    )  # fmt: skip


def _counted(became: Iterable[tuple[str, AbstractSet[str]]]) -> dict[str, int]:
    """Numbers of people by what became of them; each counts where they stand first."""
    seen, counts = set[str](), dict[str, int]()
    for what, users in became:
        if new := users - seen:
            counts[what] = len(new)
            seen |= new
    return counts


def _held_back(
    plan: SetPlan, most: int, task: Task, histories: dict[str, History]
) -> tuple[dict[str, History], list[Query]]:
    """Histories without their latest records, and these as queries: at most `most` of a person, and a fifth of theirs.

    A record without any input is no query: all of a person's would be the same.

    Raises:
        DataError: a query of the task has options, which a record has not; no record that is held back has an input; or
            all histories are too short.
    """
    if task.options is not None:
        raise DataError(
            f"No records of the set {plan.name!r} can be held back", got=f"task {task.name!r} shows options in a query",
            expected="a task whose queries are its records without their answer", hint="leave `held_back` out",
        )  # fmt: skip
    earlier, asked = dict[str, History](), list[Query]()
    for user, history in histories.items():
        first = len(history) - min(most, len(history) // _AT_MOST)
        earlier[user] = History(user, history.records[:first])
        for one in history.records[first:]:
            fields = {name: text for name, text in one.fields.items() if name != task.answer_field}
            if fields:
                asked.append(Query(user, one.id, fields, one.fields[task.answer_field], one.time))
    if not asked:
        short = all(len(history) < _AT_MOST for history in histories.values())
        raise DataError(
            f"No records of the set {plan.name!r} can be held back",
            got="histories of fewer than five records" if short else "records that are answers without an input",
            expected="somebody with five records or more" if short else "records with what their query would ask",
            hint=None if short else "leave `held_back` out",
        )
    return earlier, asked


def _nobody_to_ask(plan: SetPlan, asked: int, unlabelled: int) -> DataError:
    if not asked:
        got, hint = f"no queries in {plan.queries or plan.data}", "name the file of queries as `queries`"
    elif unlabelled:
        got = f"{asked:,} queries, none of them with its right answer"
        hint = "name the label file as `labels`, or give plain rows a `gold`"
    else:
        got, hint = f"{asked:,} queries, all of people without records", f"see whose records are in {plan.data}"
    return DataError(f"The set {plan.name!r} has nothing to ask", got=got, hint=hint)


def _check_golds(plan: SetPlan, task: Task, queries: Sequence[Query]) -> None:
    """Raises a DataError where a right answer cannot be judged by the task's metrics: now, and not when all is done."""
    for name in metrics_of(task):
        try:
            metric(name).terms([""] * len(queries), [query.gold or "" for query in queries], task.labels or ())
        except DataError as error:
            raise DataError(f"In the set {plan.name!r} {error.what}", got=error.got, hint=error.hint) from None


def spread(things: Sequence[Thing], count: int | None) -> list[Thing]:
    """So many of them, evenly spread; all, if they are fewer.

    >>> spread("abcdefg", 3)
    ['a', 'c', 'e']
    """
    if count is None or count >= len(things):
        return list(things)
    return [things[place * len(things) // count] for place in range(count)]


def _chosen(people: list[str], histories: dict[str, History], plan: SetPlan) -> set[str]:
    if plan.who == "active":
        people = sorted(people, key=lambda user: (-len(histories[user]), user))
        return set(people[: plan.people])
    return set(spread(people, plan.people))


@dataclass(frozen=True, slots=True)
class _Outsiders:
    """Histories of those who are only learnt from, and why others of the file are not."""

    used: dict[str, History]
    unused: tuple[tuple[str, AbstractSet[str]], ...] = ()


def _outsiders(plan: SetPlan, task: Task, others: AbstractSet[str]) -> _Outsiders:
    """The outsiders of a set; none where the plan names no file.

    Raises:
        DataError: one of them is among the others, the people of the data.
    """
    if plan.outsiders is None:
        return _Outsiders({})
    dataset = read_dataset(plan.outsiders, task, labels=plan.outsiders_labels, hint=MEND)
    known: dict[str, list[Query]] = {}
    for query in dataset.queries:
        if query.gold is not None:
            known.setdefault(query.user_id, []).append(query)
    histories = {history.user_id: history for history in dataset.histories}
    if both := others & (histories.keys() | known.keys()):
        raise DataError(
            f"{len(both)} of the people of the set {plan.name!r} are outsiders too", got=min(both),
            hint="no person may stand in both files",
        )  # fmt: skip
    chosen = spread(sorted(histories.keys() | known.keys()), plan.outsiders_people)
    everybody = {
        user: _with(_usable(histories.get(user, History(user, ())), task), known.get(user, []), task) for user in chosen
    }
    used = {user: history for user, history in everybody.items() if len(history)}
    unused = (
        ("without a usable record", everybody.keys()),
        ("not taken: the plan asks for fewer", histories.keys() | known.keys()),
    )
    return _Outsiders(used, unused)


def _check_own(plan: SetPlan, task: Task, targets: dict[str, History], queries: Sequence[Query]) -> None:
    """Raises a DataError where somebody's history holds their query with its answer, or what came after it."""
    content = {user: {(one.id, retrieval_query(task, one.fields)) for one in h.records} for user, h in targets.items()}
    latest = {
        user: max((time_key(one.time) for one in history.records if one.time is not None), default=float("-inf"))
        for user, history in targets.items()
    }
    same = sum((one.id, retrieval_query(task, one.fields)) in content[one.user_id] for one in queries)
    late = sum(one.time is not None and time_key(one.time) < latest[one.user_id] for one in queries)
    if same or late:
        raise DataError(
            f"Histories of the set {plan.name!r} know what their people are asked only later",
            got=f"{same:,} of {len(queries):,} queries are records too, {late:,} are older than the latest record",
            expected="records from before the queries alone",
            hint="take these records out of the histories",
        )


def _strangers(
    task: Task, others: dict[str, History], targets: dict[str, History], queries: Sequence[Query]
) -> dict[str, History]:
    """The others without those who are somebody asked, under another id; and without what answers a query."""
    holders: dict[str, set[str]] = {}
    for user, history in targets.items():
        for record in history.records:
            holders.setdefault(retrieval_document(task, record), set()).add(user)
    answered = {f"{retrieval_query(task, one.fields)} {one.gold}" for one in queries} if task.options is None else set()
    sizes = Counter(user for users in holders.values() for user in users)
    kept: dict[str, History] = {}
    for user, history in others.items():
        texts = [retrieval_document(task, record) for record in history.records]
        shared = Counter(target for text in set(texts) for target in holders.get(text, ()))
        if any(2 * count > max(len(set(texts)), sizes[target]) for target, count in shared.items()):
            continue
        records = tuple(one for one, text in zip(history.records, texts, strict=True) if text not in answered)
        if records:
            kept[user] = History(user, records)
    return kept


def _usable(history: History, task: Task) -> History:
    """The records that have all that plain records must have: LaMP's own may lack their answer."""
    whole = (one for one in history.records if all(name in one.fields for name in task.required_in_records))
    return History(history.user_id, tuple(whole))


def _with(history: History, queries: list[Query], task: Task) -> History:
    """A history, and the queries whose answers are known as the latest records."""
    answered = (
        Record(history.user_id, f"query-{one.id}", fields)
        for one in queries
        if (fields := _answered(task, one)) is not None
    )
    return History(history.user_id, (*history.records, *answered))


def _answered(task: Task, query: Query) -> dict[str, str] | None:
    """A record's fields, of a query and its right answer; of a choice the right option and the wrong one."""
    gold = (query.gold or "").strip()
    if task.options is None:
        return {**query.fields, task.answer_field: query.gold or ""}
    if gold not in (labels := task.labels or ()):
        return None
    fields = dict(query.fields)
    first, second = (fields.pop(name) for name in OPTION_FIELDS)
    right, wrong = (first, second) if gold == labels[0] else (second, first)
    return {**fields, task.options.right: right, task.options.wrong: wrong}
