"""The adapted base with random records of the user in the prompt."""

import random

from ownlm.bench.case import AS_PLANNED, Case, Changes
from ownlm.bench.methods.method import Count, Made, Method
from ownlm.bench.results import Costs
from ownlm.history.record import Query, Record
from ownlm.prompt.example import prompt_text


def random_records(case: Case, *, k: Count = 1, adapt: Changes = AS_PLANNED) -> Made:
    """The adapted base, with k random records in the prompt instead of the nearest.

    Args:
        k: Number of records; all, where there are fewer.
        adapt: Settings of stage 1 that differ from the plan's.

    Source: OPPU (arXiv 2402.04401), the random k of its tables. Differs: the choice depends on seed and query alone.
    """
    home = case.home("adapted", case.adapted(adapt))
    case.loaded(home)

    def prompt(query: Query) -> str:
        return prompt_text(case.task, query.fields, drawn(case, query, k))

    return Made(lambda queries: case.generate(home, queries, prompt), Costs())


def drawn(case: Case, query: Query, k: int) -> list[Record]:
    """k of the user's records, in the order of the prompt."""
    records = case.histories[query.user_id].records
    return random.Random(f"{case.seed}\0{query.user_id}\0{query.id}").sample(records, min(k, len(records)))


METHOD = Method("random", random_records)
