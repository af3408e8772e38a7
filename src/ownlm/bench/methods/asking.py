"""Asking what no home can be asked: with prompts, recipes or hooks of a method's own."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from ownlm.bench.case import Case
from ownlm.history.record import Query
from ownlm.inference.ask import Question, answer
from ownlm.inference.label_scoring import answer_tokens
from ownlm.model.adapter import Adapter
from ownlm.model.base import BaseLM
from ownlm.oppu.examples import check_length
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import Recipe
from ownlm.prompt.example import query_prompt
from ownlm.workflows.ask import PEOPLE_AT_ONCE, QUERIES_AT_ONCE

Prompts = Callable[[Query], str]
Owners = Callable[[Query], str | None]


def retrieving(case: Case, rag: int) -> Prompts:
    """Prompts that show `rag` of the person's records, as a home's do."""
    return lambda query: query_prompt(case.task, query.fields, case.histories[query.user_id], rag=rag)[0]


def nobody(query: Query) -> None:
    """The owner of what answers where the base does, alone."""


def ask_with(
    case: Case,
    base: BaseLM,
    queries: Sequence[Query],
    prompt: Prompts,
    *,
    owner: Owners = nobody,
    load: Callable[[str], Adapter] | None = None,
    recipes: Mapping[str, Recipe] | None = None,
    pool: Pool | None = None,
) -> Iterator[str]:
    """Answers in the queries' order, batch by batch.

    Args:
        prompt: a query's.
        owner: whose adapter or recipe answers a query; None for the base alone.
        load: gives an owner's adapter; those of a batch are in memory together. Or, instead,
        recipes: by owner, of `product`, all of one pool,
        pool: which is this.

    Raises:
        DataError: a prompt is longer than the base's context. PoolError: a recipe is for another pool.
    """
    done = 0
    labels = (case.task.labels or ()) if case.choose else ()
    for batch in _batches(queries, owner):
        questions = [Question(_encoded(case, base, query, prompt(query)), owner(query)) for query in batch]
        owners = dict.fromkeys(one.owner for one in questions if one.owner is not None)
        adapters = {one: load(one) for one in owners} if load else {}
        used = {one: recipes[one] for one in owners} if recipes else {}
        yield from answer(
            base, adapters, questions, recipes=used, pool=pool, labels=labels, max_new_tokens=case.task.max_new_tokens,
            one_line=case.task.one_line,
        )  # fmt: skip
        done += len(batch)
        case.progress("answers", done, len(queries))


def _batches(queries: Sequence[Query], owner: Owners) -> Iterator[list[Query]]:
    """Queries that follow each other, not too many, and not too many owners."""
    batch, owners = list[Query](), set[str | None]()
    for query in queries:
        if len(batch) == QUERIES_AT_ONCE or len(owners | {owner(query)}) > PEOPLE_AT_ONCE:
            yield batch
            batch, owners = [], set()
        batch.append(query)
        owners.add(owner(query))
    if batch:
        yield batch


def _encoded(case: Case, base: BaseLM, query: Query, text: str) -> list[int]:
    prompt = base.encode_prompt(text)
    room = answer_tokens(base, case.task.labels or () if case.choose else (), case.task.max_new_tokens)
    check_length(base, prompt, room, f"The query {query.id!r} of user {query.user_id!r}")
    return prompt
