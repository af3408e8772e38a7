"""(IA)3 for each user, trained with peft, one user after the other."""

from typing import Any

from ownlm.bench.case import AS_PLANNED, Case, Changes
from ownlm.bench.methods.method import Made, Method, Records
from ownlm.bench.methods.own import train_own


def ia3(
    case: Case, *, rag: Records = 0, profile: bool = False, preset: str | None = None, adapt: Changes = AS_PLANNED,
    **train: Any,
) -> Made:  # fmt: skip
    """Trains (IA)3 for each user on the adapted base; arguments and errors as for `own`.

    Source: (IA)3 (arXiv 2205.05638), in OPPU's comparison of PEFT methods.
    """
    return train_own(case, rag, profile, adapt, {"preset": preset, "method": "ia3", **train})


METHOD = Method("ia3", ia3, learns=True)
