"""The pool that all methods made of other people's pieces share."""

from pathlib import Path
from typing import Any

from ownlm.bench.case import BASE, Case, timed
from ownlm.bench.methods.values import Changes, Count, Fraction
from ownlm.home import Home
from ownlm.verbs.share import Select


def pool_of(case: Case, base: Path, share: Changes) -> Home:
    """The home of those who share, with a pool of their pieces: made once for each of its settings.

    What it took is no target user's cost, and in no method's; `Case.shared` has it.

    Args:
        base: the folder of the one that the pieces are for.
        share: what differs from the plan's settings of pools; arguments of `make_pool`.

    Raises:
        DataError, NotFoundError: nobody shares, or nobody who does has enough records. TrainingError, and others: as
            `Pools.share`.
    """
    home = make_pool(case, base, **{**case.share, **share})
    case.note("the pool", share, home, home.pools.ls(case.task.name)[-1].sharers)
    return home


def make_pool(
    case: Case, base: Path, *, select: Select = "clustered", sharers: Count = 50, ratio: Fraction = 1.0,
    centre: bool = False, preset: str | None = None, gate_steps: Count | None = None,
    gate_learning_rate: Fraction | None = None, **train: Any,
) -> Home:  # fmt: skip
    """`pool_of`, by its settings, all of which the pool depends on.

    Args:
        train: settings of the sharers' adapters that differ from the preset, by their names in `TrainConfig` and its
            parts; all others as for `Pools.share`.

    Source: Per-Pcs (arXiv 2406.10471), sections 3.1 and 4.
    """
    how = {
        "select": select, "sharers": sharers, "ratio": ratio, "centre": centre, "preset": preset,
        "gate_steps": gate_steps, "gate_learning_rate": gate_learning_rate, **train,
    }  # fmt: skip
    home = case.home("share", base, "sharers", **how)
    if not home.pools.ls(case.task.name):
        for person in home.people(case.task.name):
            home.consent(person.user, True)
        if train.get("profile"):
            case.profile(home)
        with timed(home):
            home.pools.share(case.task.name, base=BASE, seed=case.seed, progress=case.progress, **how)
    return home
