"""The adapted base: RAG with retrieved records in the prompt, PAG with a text profile."""

from ownlm.bench.case import AS_PLANNED, Case, Changes
from ownlm.bench.methods.method import Made, Method, Records, asking
from ownlm.bench.results import Costs


def adapted(case: Case, *, rag: Records = 0, profile: bool = False, adapt: Changes = AS_PLANNED) -> Made:
    """The base after stage 1, which teaches it the task.

    Args:
        rag: Number of the user's records that the prompt shows.
        profile: Whether the prompt shows the user's text profile.
        adapt: Settings of stage 1 that differ from the plan's.

    Source: OPPU (arXiv 2402.04401), the non-personalised, retrieval- and profile-augmented rows of its tables. Differs:
        there stage 1 is shown the same records and profile; `adapt` with `rag` and `profile` does that.
    """
    home = case.home("adapted", case.adapted(adapt))
    if profile:
        case.profile(home)
    return asking(case, home, Costs(), rag=rag, profile=profile, base_only=True)


METHOD = Method("adapted", adapted)
