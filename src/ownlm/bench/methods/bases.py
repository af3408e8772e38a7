"""Nothing of a person's own but what the prompt shows: the raw base, and the adapted one."""

import random
from collections.abc import Mapping
from typing import Any

from ownlm.bench.case import BASE, Case, Made
from ownlm.bench.methods.asking import ask_with
from ownlm.bench.methods.values import Changes, Count, Records
from ownlm.bench.results import Costs
from ownlm.history.record import Query, Record
from ownlm.prompt.example import prompt_text

AS_PLANNED: Mapping[str, Any] = {}


def base(case: Case, *, rag: Records = 0) -> Made:
    """The base as it came.

    Args:
        rag: how many of the person's records the prompt shows.

    Source: what LaMP (arXiv 2304.11406) calls non-personalised (rag = 0) and personalised by retrieval.
    """
    home = case.home("base", case.raw())
    case.loaded(home)
    return Made(
        lambda queries: case.ask(home, queries, base=BASE, base_only=True, rag=rag, profile=False), Costs()
    )  # fmt: skip


def adapted(case: Case, *, rag: Records = 0, profile: bool = False, adapt: Changes = AS_PLANNED) -> Made:
    """The base that stage 1 has taught the task; with `rag` it is RAG, with `profile` PAG.

    Args:
        rag, profile: how many of the person's records the prompt shows, and whether their text profile.
        adapt: what differs from the plan's settings of stage 1.

    Source: OPPU (arXiv 2402.04401), the non-personalised, retrieval- and profile-augmented rows of its tables. Differs:
        there stage 1 is shown the same records and profile; `adapt` with `rag` and `profile` does that.
    """
    home = case.home("adapted", case.adapted(**adapt))
    if profile:
        case.profile(home)
    case.loaded(home)
    return Made(
        lambda queries: case.ask(home, queries, base=BASE, base_only=True, rag=rag, profile=profile), Costs()
    )  # fmt: skip


def random_records(case: Case, *, k: Count = 1, adapt: Changes = AS_PLANNED) -> Made:
    """The adapted base, shown k of the person's records at random instead of the nearest.

    Args:
        k: how many; all, where there are fewer.
        adapt: as for `adapted`.

    Source: OPPU (arXiv 2402.04401), the random k of its tables. Differs: which ones depends on seed and query alone.
    """
    base = case.loaded(case.home("adapted", case.adapted(**adapt)))

    def prompt(query: Query) -> str:
        return prompt_text(case.task, query.fields, drawn(case, query, k))

    return Made(lambda queries: ask_with(case, base, queries, prompt), Costs())


def drawn(case: Case, query: Query, k: int) -> list[Record]:
    """k of the person's records, in the order they are shown."""
    records = case.histories[query.user_id].records
    return random.Random(f"{case.seed}\0{query.user_id}\0{query.id}").sample(records, min(k, len(records)))
