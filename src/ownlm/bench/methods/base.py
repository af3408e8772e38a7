"""The raw base, with or without retrieved records in the prompt."""

from ownlm.bench.case import Case
from ownlm.bench.methods.method import Made, Method, Records, asking
from ownlm.bench.results import Costs


def base(case: Case, *, rag: Records = 0) -> Made:
    """Answers with the raw base; the prompt may show retrieved records of the user.

    Args:
        rag: Number of the user's records that the prompt shows.

    Source: LaMP (arXiv 2304.11406), non-personalised (rag = 0) and personalised by retrieval.
    """
    return asking(case, case.home("base", case.raw()), Costs(), rag=rag, base_only=True)


METHOD = Method("base", base, stage_1=False)
