"""Prompt tuning for each user, trained with peft, one user after the other."""

from typing import Any

from ownlm.bench.case import AS_PLANNED, Case, Changes
from ownlm.bench.methods.method import Made, Method, Records
from ownlm.bench.methods.own import train_own


def prompt(
    case: Case, *, rag: Records = 0, profile: bool = False, preset: str | None = None, adapt: Changes = AS_PLANNED,
    **train: Any,
) -> Made:  # fmt: skip
    """Trains prompt tuning for each user on the adapted base; arguments and errors as for `own`.

    Source: prompt tuning (arXiv 2104.08691), in OPPU's comparison of PEFT methods.
    """
    return train_own(case, rag, profile, adapt, {"preset": preset, "method": "prompt", **train})


METHOD = Method("prompt", prompt, learns=True)
