"""The raw base, with or without retrieved records in the prompt."""

from ownlm.bench.case import BASE, Case
from ownlm.bench.methods.method import Made, Method, Records
from ownlm.bench.results import Costs


def base(case: Case, *, rag: Records = 0) -> Made:
    """Answers with the raw base; the prompt may show retrieved records of the user.

    Args:
        rag: Number of the user's records that the prompt shows.

    Source: LaMP (arXiv 2304.11406), non-personalised (rag = 0) and personalised by retrieval.
    """
    home = case.home("base", case.raw())
    case.loaded(home)
    return Made(
        lambda queries: case.ask(home, queries, base=BASE, base_only=True, rag=rag, profile=False), Costs()
    )  # fmt: skip


METHOD = Method("base", base, stage_1=False)
