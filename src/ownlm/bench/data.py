"""Reads a benchmark's data set and assigns its users to roles: asked, sharers, outsiders."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from ownlm.bench.metrics import metric, metrics_of
from ownlm.bench.plan import SetPlan
from ownlm.errors import DataError
from ownlm.history.readers import read_dataset, read_queries
from ownlm.history.record import History, Query, Record
from ownlm.history.task import OPTION_FIELDS, Task, load_task, with_instruction
from ownlm.history.times import time_key
from ownlm.prompt.example import history_examples, retrieval_document, retrieval_query
from ownlm.prompt.retrieval import bm25, words

if TYPE_CHECKING:
    from ownlm.model.base import BaseLM

Thing = TypeVar("Thing")
ALIKE: Final = "left out: for the most part the records of a person asked"
_AT_MOST: Final = 5  # one record of so many is held back


@dataclass(frozen=True, slots=True)
class SetData:
    """A benchmark's data set: histories by role, and the queries to ask.

    Attributes:
        task: Task, with the instruction and labels that the queries carry.
        targets: Histories of the users who are asked.
        queries: Queries of those users, each with the right answer.
        sharers: Histories of users who may share adapters: users of the set who are not asked, and outsiders.
        outsiders: Histories for stage 1. Their answered queries are their latest records.
        unlabelled: Number of queries that are not asked because the right answer is unknown.
        people: Number of users of the data in each role; the numbers add up to all users.
        outsiders_found: Number of users of the outsiders' file in each role.
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
        """Whether any asked user has a record with an answer to learn from; LaMP_1's records have none."""
        return any(history_examples(self.task, history, recent=1) for history in self.targets.values())


def read_set(plan: SetPlan) -> SetData:
    """Reads a set's files and assigns users to roles.

    The users who are asked are evenly spread over the sorted ids, or those with the most records. Every n-th user of
    the data shares instead (`SetPlan.sharing`). No method learns from a user who is asked: users with mostly the same
    records as one who is asked are left out (in LaMP's questions several users are one author), and so are records
    that hold a query with its answer.

    Raises:
        DataError, NotFoundError, TaskError: A file or the task is wrong, a history holds the answer to its own user's
            query, or no users are left to ask.
    """
    task = load_task(plan.task)
    dataset = read_dataset(plan.data, task, labels=plan.labels, all_rows=True)
    task = with_instruction(task, dataset.instruction, dataset.labels)
    histories = {history.user_id: _usable(history, task) for history in dataset.histories}
    if plan.held_back is not None:
        histories, asked = _held_back(plan, plan.held_back, task, histories)
    else:
        asked = read_queries(plan.queries, task) if plan.queries else dataset.queries
    queries: dict[str, list[Query]] = {}
    unlabelled = 0
    for query in {(query.user_id, query.id): query for query in asked}.values():  # plain rows may repeat one
        if histories.get(query.user_id):
            unlabelled += query.gold is None
            if query.gold is not None:
                queries.setdefault(query.user_id, []).append(query)
    if not queries:
        raise _nothing_to_ask(plan, len(asked), unlabelled)
    users = sorted(queries)
    sharing = set(users[:: plan.sharing]) if plan.sharing > 1 else set()
    targets = _chosen([user for user in users if user not in sharing], histories, plan)
    if not targets:
        raise DataError(
            f"In the set {plan.name!r} no users are left to ask", got=f"{len(users)} users, who all share",
            hint="set `sharing = 0`: then outsiders alone share",
        )  # fmt: skip
    outsiders, unused = _outsiders(plan, task, histories.keys() | queries.keys())
    own = {user: histories[user] for user in sorted(targets)}
    chosen = tuple(query for user in own for query in spread(queries[user], plan.queries_each))
    _check_own(plan, task, own, chosen)
    learnt = _strangers(task, outsiders, own, chosen)
    sharers = _strangers(task, {user: histories[user] for user in sorted(sharing)}, own, chosen)
    _check_golds(plan, task, chosen)
    known = {query.user_id for query in asked}
    roles = (
        ("asked", own.keys()),
        ("share and are not asked", sharers.keys()),
        (ALIKE, sharing),
        ("without a usable record", {user for user in histories.keys() | known if not histories.get(user)}),
        ("with too few records to hold one back" if plan.held_back else "without a query", histories.keys() - known),
        ("without a query whose right answer is known", known - queries.keys()),
        ("not taken: the plan asks for fewer", queries.keys()),
    )
    return SetData(
        plan.name, task, own, chosen, sharers | learnt, learnt, unlabelled, _counted(roles),
        _counted((("learnt from", learnt.keys()), (ALIKE, outsiders.keys()), *unused)),
    )  # fmt: skip


def least_like(
    data: SetData, by: Literal["bm25", "embedding"], share: float, load: "Callable[[], BaseLM]"
) -> tuple[Query, ...]:
    """Selects the given share of queries that are least similar to their users' histories (behaviour shift).

        bm25        max over records d of  score(q, d) / score(q, q)
        embedding   cosine of  e(q) - m  and  e(history) - m,  m the mean of all users' e(history)

    A query counts by its input alone, a record by input and answer. score is BM25+ over the user's records and the
    query itself, so that rare words alone do not make a query unlike.

    Args:
        load: Loads the base for `embedding`.

    Source: OPPU (arXiv 2402.04401), section on behaviour shift, keeps queries with irrelevant records of the user.
        Differs: both measures, and that likeness is relative to the query itself or to the mean of all users.
    """
    like_Q = _by_words(data) if by == "bm25" else _by_embedding(data, load())
    places = sorted(range(len(data.queries)), key=like_Q.__getitem__)
    kept = set(places[: max(1, round(share * len(places)))])
    return tuple(query for place, query in enumerate(data.queries) if place in kept)


def _by_words(data: SetData) -> list[float]:
    documents = {
        user: [words(retrieval_document(data.task, record)) for record in history.records]
        for user, history in data.targets.items()
    }
    like = []
    for query in data.queries:
        own = words(retrieval_query(data.task, query.fields))
        *scores, itself = bm25(own, [*documents[query.user_id], own])
        like.append(max(scores) / itself if itself else 0.0)
    return like


def _by_embedding(data: SetData, base: "BaseLM") -> list[float]:
    from torch.nn.functional import normalize

    from ownlm.perpcs.embedding import embed_histories

    history_UD = embed_histories(
        base, ([retrieval_document(data.task, record) for record in one.records] for one in data.targets.values())
    )
    query_QD = embed_histories(base, ([retrieval_query(data.task, query.fields)] for query in data.queries))
    mean_D, place = history_UD.mean(0), {user: number for number, user in enumerate(data.targets)}
    own_QD = history_UD[[place[query.user_id] for query in data.queries]]
    like_Q: list[float] = (normalize(query_QD - mean_D, dim=1) * normalize(own_QD - mean_D, dim=1)).sum(1).tolist()
    return like_Q


def _counted(roles: Iterable[tuple[str, AbstractSet[str]]]) -> dict[str, int]:
    """Number of users in each role; a user counts in the first."""
    seen, counts = set[str](), dict[str, int]()
    for what, users in roles:
        if new := users - seen:
            counts[what] = len(new)
            seen |= new
    return counts


def _held_back(
    plan: SetPlan, most: int, task: Task, histories: dict[str, History]
) -> tuple[dict[str, History], list[Query]]:
    """Histories without their latest records, and these as queries: at most `most` of a user, and a fifth of theirs.

    Records without any input are left out: the queries of a user would all be the same.

    Raises:
        DataError: The task's queries have options, no record has an input, or all histories are too short.
    """
    what = f"No records of the set {plan.name!r} can be held back"
    if task.options is not None:
        raise DataError(
            what, got=f"task {task.name!r} shows options in a query",
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
    if not asked and all(len(history) < _AT_MOST for history in histories.values()):
        raise DataError(what, got="histories of fewer than five records", expected="a user with five records or more")
    if not asked:
        got, expected = "records that are answers without an input", "records with what their query would ask"
        raise DataError(what, got=got, expected=expected, hint="leave `held_back` out")
    return earlier, asked


def _nothing_to_ask(plan: SetPlan, asked: int, unlabelled: int) -> DataError:
    if not asked:
        got, hint = f"no queries in {plan.queries or plan.data}", "name the file of queries as `queries`"
    elif unlabelled:
        got = f"{asked:,} queries, none of them with its right answer"
        hint = "name the label file as `labels`, or give plain rows a `gold`"
    else:
        got, hint = (
            f"{asked:,} queries, all of users without records",
            f"compare the user ids with those in {plan.data}",
        )
    return DataError(f"The set {plan.name!r} has nothing to ask", got=got, hint=hint)


def _check_golds(plan: SetPlan, task: Task, queries: Sequence[Query]) -> None:
    """Raises a DataError where the task's metrics cannot judge a right answer: before the run, not after it."""
    for name in metrics_of(task):
        try:
            metric(name).terms([""] * len(queries), [query.gold or "" for query in queries], task.labels or ())
        except DataError as error:
            raise DataError(f"In the set {plan.name!r} {error.what}", got=error.got, hint=error.hint) from None


def spread(things: Sequence[Thing], count: int | None) -> list[Thing]:
    """Selects `count` evenly spaced items; all of them if there are fewer, or if `count` is None.

    >>> spread("abcdefg", 3)
    ['a', 'c', 'e']
    """
    if count is None or count >= len(things):
        return list(things)
    return [things[place * len(things) // count] for place in range(count)]


def _chosen(users: list[str], histories: dict[str, History], plan: SetPlan) -> set[str]:
    if plan.who == "active":
        return set(sorted(users, key=lambda user: (-len(histories[user]), user))[: plan.people])
    return set(spread(users, plan.people))


def _outsiders(
    plan: SetPlan, task: Task, others: AbstractSet[str]
) -> tuple[dict[str, History], tuple[tuple[str, AbstractSet[str]], ...]]:
    """Histories of the outsiders, and the roles of users of their file who are not taken.

    Raises:
        DataError: An outsider is among the others, the users of the data.
    """
    if plan.outsiders is None:
        return {}, ()
    dataset = read_dataset(plan.outsiders, task, labels=plan.outsiders_labels, all_rows=True)
    known: dict[str, list[Query]] = {}
    for query in dataset.queries:
        if query.gold is not None:
            known.setdefault(query.user_id, []).append(query)
    histories = {history.user_id: history for history in dataset.histories}
    everyone = histories.keys() | known.keys()
    if both := others & everyone:
        raise DataError(
            f"{len(both)} of the users of the set {plan.name!r} are outsiders too", got=min(both),
            hint="remove these users from `data` or from `outsiders`",
        )  # fmt: skip
    chosen = {
        user: _with_queries(_usable(histories.get(user, History(user, ())), task), known.get(user, []), task)
        for user in spread(sorted(everyone), plan.outsiders_people)
    }
    unused = (("without a usable record", chosen.keys()), ("not taken: the plan asks for fewer", everyone))
    return {user: history for user, history in chosen.items() if len(history)}, unused


def _check_own(plan: SetPlan, task: Task, targets: dict[str, History], queries: Sequence[Query]) -> None:
    """Raises a DataError where a history holds its user's query with the answer, or records later than it."""
    content = {user: {(one.id, retrieval_query(task, one.fields)) for one in h.records} for user, h in targets.items()}
    latest = {
        user: max((time_key(one.time) for one in history.records if one.time is not None), default=float("-inf"))
        for user, history in targets.items()
    }
    same = sum((one.id, retrieval_query(task, one.fields)) in content[one.user_id] for one in queries)
    late = sum(one.time is not None and time_key(one.time) < latest[one.user_id] for one in queries)
    if same or late:
        raise DataError(
            f"Histories of the set {plan.name!r} contain queries, or records later than a query",
            got=f"{same:,} of {len(queries):,} queries are records too, {late:,} are older than the latest record",
            expected="records from before the queries alone",
            hint="take these records out of the histories",
        )


def _strangers(
    task: Task, others: dict[str, History], targets: dict[str, History], queries: Sequence[Query]
) -> dict[str, History]:
    """The others without users who are a target under another id, and without records that answer a query."""
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
    """The records with all required fields: LaMP's own may lack their answer."""
    whole = (one for one in history.records if all(name in one.fields for name in task.required_in_records))
    return History(history.user_id, tuple(whole))


def _with_queries(history: History, queries: list[Query], task: Task) -> History:
    """A history with the user's answered queries as its latest records."""
    found = ((one, _answered(task, one)) for one in queries)
    answered = (Record(history.user_id, f"query-{one.id}", fields) for one, fields in found if fields is not None)
    return History(history.user_id, (*history.records, *answered))


def _answered(task: Task, query: Query) -> dict[str, str] | None:
    """The fields of a record made of a query and its right answer; of a choice the right and the wrong option."""
    if task.options is None:
        return {**query.fields, task.answer_field: query.gold or ""}
    gold, labels = (query.gold or "").strip(), task.labels or ()
    if gold not in labels:
        return None
    fields = dict(query.fields)
    first, second = (fields.pop(name) for name in OPTION_FIELDS)
    right, wrong = (first, second) if gold == labels[0] else (second, first)
    return {**fields, task.options.right: right, task.options.wrong: wrong}
