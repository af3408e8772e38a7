"""An adapter of each person's own, trained on their history (OPPU)."""

from typing import Any

from ownlm.bench.case import BASE, Case, Made
from ownlm.bench.methods.bases import AS_PLANNED
from ownlm.bench.methods.costs import of_training
from ownlm.bench.methods.formats import Format, trained_on_text
from ownlm.bench.methods.values import Changes, Records
from ownlm.errors import ConfigError


def own(
    case: Case, *, format: Format = "task", rag: Records = 0, profile: bool = False, preset: str | None = None,
    adapt: Changes = AS_PLANNED, **train: Any,
) -> Made:  # fmt: skip
    """Stage 2 on the adapted base, with LoRA.

    Args:
        format: what is learnt of a record: the task as it is asked; or its answer, its input, or both, as plain text.
        rag, profile: how many of the person's records a prompt shows, and whether their text profile: in training as
            in asking.
        preset: "paper" or "small"; by default the one for the base's size.
        adapt: what differs from the plan's settings of stage 1.
        train: settings that differ from the preset, by their names in `TrainConfig` and its parts: learning_rate,
            epochs, recent, r, ...

    Raises:
        ConfigError: plain text is to show records or a profile. OwnlmError: somebody's training failed; those who are
            done stay so.

    Source: OPPU (arXiv 2402.04401), section 3; formats: its section on history formats.
    """
    check_format(format, rag, profile)
    if format != "task":
        return trained_on_text(case, format, case.adapted(**adapt), {"preset": preset, **train})
    return _trained(case, rag, profile, adapt, {"preset": preset, **train})


def ia3(
    case: Case, *, rag: Records = 0, profile: bool = False, preset: str | None = None, adapt: Changes = AS_PLANNED,
    **train: Any,
) -> Made:  # fmt: skip
    """The same with (IA)3, which peft trains, one person at a time; arguments and errors as for `own`.

    Source: (IA)3 (arXiv 2205.05638), in OPPU's comparison of PEFT methods.
    """
    return _trained(case, rag, profile, adapt, {"preset": preset, "method": "ia3", **train})


def prompt(
    case: Case, *, rag: Records = 0, profile: bool = False, preset: str | None = None, adapt: Changes = AS_PLANNED,
    **train: Any,
) -> Made:  # fmt: skip
    """The same with prompt tuning, which peft trains, one person at a time; arguments and errors as for `own`.

    Source: prompt tuning (arXiv 2104.08691), in OPPU's comparison of PEFT methods.
    """
    return _trained(case, rag, profile, adapt, {"preset": preset, "method": "prompt", **train})


def check_format(format: Format = "task", rag: int = 0, profile: bool = False) -> None:
    """Raises a ConfigError where adapters that learn plain text are to be shown records, or a profile."""
    if format != "task" and (rag or profile):
        raise ConfigError(
            "Plain text is learnt without records or a profile beside it",
            got=f"format {format!r} with {'rag' if rag else 'profile'}",
            hint="leave one of them out",
        )


def _trained(case: Case, rag: int, profile: bool, adapt: Changes, train: dict[str, Any]) -> Made:
    how = {"rag": rag, "profile": profile, **train}
    home = case.home("own", case.adapted(**adapt), **how)
    if profile:
        case.profile(home)
    done = home.train(case.task.name, users=case.people, base=BASE, seed=case.seed, progress=case.progress, **how)
    if done.failed:
        raise done.failed[0][1]
    case.loaded(home)
    return Made(
        lambda queries: case.ask(home, queries, base=BASE, rag=rag, profile=profile), of_training(case, home)
    )  # fmt: skip
