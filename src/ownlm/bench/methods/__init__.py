"""The methods that a plan can compare: each a short function of a case and its settings."""

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any, Final, cast, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ownlm.bench.case import Made
from ownlm.bench.methods.assembled import assembled
from ownlm.bench.methods.bases import adapted, base, random_records
from ownlm.bench.methods.own import check_format, ia3, own, prompt
from ownlm.bench.methods.own_history import check_knn, check_most_frequent, knn, most_frequent
from ownlm.bench.methods.pool import make_pool
from ownlm.bench.methods.sharers import arrow, averaged, nearest
from ownlm.bench.problems import Problems
from ownlm.bench.problems import nearest as nearest_to
from ownlm.config import LoraConfig, PromptConfig, TrainConfig
from ownlm.errors import ConfigError, fitting
from ownlm.history.task import Task
from ownlm.workflows.assemble import AssemblyPlan
from ownlm.workflows.plan import Stage, settings

__all__ = [
    "LEARN", "METHODS", "NEEDS_LABELS", "NEEDS_POOL", "NO_OPTIONS", "WITHOUT_MODEL", "WITHOUT_STAGE_1", "check_adapt",
    "check_settings", "check_share",
]  # fmt: skip

METHODS: Final[Mapping[str, Callable[..., Made]]] = {
    "base": base,
    "adapted": adapted,
    "most_frequent": most_frequent,
    "knn": knn,
    "random": random_records,
    "own": own,
    "ia3": ia3,
    "prompt": prompt,
    "nearest": nearest,
    "averaged": averaged,
    "arrow": arrow,
    "assembled": assembled,
}

NEEDS_LABELS: Final = frozenset({"most_frequent"})  # what says nothing to a task without labels
NO_OPTIONS: Final = frozenset({"most_frequent", "knn"})  # what says nothing to one whose labels number options
# What is trained on people's records, or made of what is: nothing where these have no answers.
LEARN: Final = frozenset({"own", "ia3", "prompt", "nearest", "averaged", "arrow", "assembled"})
NEEDS_POOL: Final = frozenset({"nearest", "averaged", "arrow", "assembled"})
WITHOUT_MODEL: Final = frozenset({"most_frequent", "knn"})
WITHOUT_STAGE_1: Final = frozenset({"base", "most_frequent", "knn"})

RAISE: Final = Problems(at_once=True)
_PEFT: Final = ("ia3", "prompt")  # methods whose name is that of what they train
_OF_TRAINING: Final = {*TrainConfig.model_fields, *LoraConfig.model_fields, *PromptConfig.model_fields} - {
    "lora", "prompt", "method",
}  # fmt: skip


def check_settings(
    method: str, given: Mapping[str, Any], task: Task | None = None, *, problems: Problems = RAISE, where: str = ""
) -> None:
    """Checks a plan's method and its settings before anything runs.

    Args:
        method: its name in the plan.
        given: what is set beside name and method.
        task: of a set; whether the method can answer it is checked too, where it is given.
        problems: takes what is wrong; by default it is raised, as a ConfigError.
        where: begins the messages.
    """
    found = Problems()
    _check_alone(method, given, found, where)
    if not found:  # settings of a wrong kind are not compared with each other, nor with the task
        _check_together(method, given, task, found, where)
    problems.take(found)


def _check_alone(method: str, given: Mapping[str, Any], problems: Problems, where: str) -> None:
    """Checks the method's name, and each setting by itself."""
    if method not in METHODS:
        with problems.collect(where):
            hint = nearest_to(method, list(METHODS))
            raise ConfigError(
                "There is no such method", got=method, expected=f"one of: {', '.join(METHODS)}", hint=hint
            )
        return
    function, what = METHODS[method], f"of the method {method!r}"
    _check(function, given, what, "adapter", {"method": method} if method in _PEFT else {}, problems, where)
    for name, check in (("share", check_share), ("adapt", check_adapt)):
        if isinstance(given.get(name, {}), Mapping):
            check(given.get(name, {}), what, problems=problems, where=where)


def _check_together(method: str, given: Mapping[str, Any], task: Task | None, problems: Problems, where: str) -> None:
    """Checks settings that are right by themselves: whether they go together, and with a set's task."""
    function = METHODS[method]
    with problems.collect(where):
        if function is own:
            check_format(**{name: given[name] for name in ("format", "rag", "profile") if name in given})
        if function is assembled:
            of_plan = {name: value for name, value in given.items() if name in AssemblyPlan.__dataclass_fields__}
            AssemblyPlan(*[cast(Any, None)] * 3, **of_plan)  # whether settings go together; it looks at nothing else
        if task is not None and function is most_frequent:
            check_most_frequent(task)
        if task is not None and function is knn:
            check_knn(task, given.get("k", 1))


def check_share(
    share: Mapping[str, Any], whose: str = "of the plan", *, problems: Problems = RAISE, where: str = ""
) -> None:
    """The same for settings of pools."""
    _check(make_pool, share, f"of pools {whose}", "sharer", {}, problems, where)


def check_adapt(
    adapt: Mapping[str, Any], whose: str = "of the plan", *, problems: Problems = RAISE, where: str = ""
) -> None:
    """The same for settings of stage 1."""
    known = _OF_TRAINING | {"preset"}
    _check_names(adapt, known, f"of stage 1 {whose}", problems, where)
    _check_training("task_adapter", {name: value for name, value in adapt.items() if name in known}, problems, where)


def _check(
    function: Callable[..., Any], given: Mapping[str, Any], what: str, stage: Stage, fixed: Mapping[str, Any],
    problems: Problems, where: str,
) -> None:  # fmt: skip
    """Checks that a function can be called so; what it takes beside its own is a stage's training."""
    parameters = signature(function).parameters.values()
    own = {one.name for one in parameters if one.kind is Parameter.KEYWORD_ONLY}
    trains = any(one.kind is Parameter.VAR_KEYWORD for one in parameters)
    _check_names(given, own | _OF_TRAINING if trains else own, what, problems, where)
    kinds = get_type_hints(function, include_extras=True)
    for name, value in given.items():
        if name in own:
            with problems.collect(where):
                try:
                    TypeAdapter(kinds[name]).validate_python(value, strict=True)
                except ValidationError as error:
                    fits = fitting(error.errors()[0])
                    raise ConfigError(f"The setting {name!r} {what} is wrong", got=repr(value), expected=fits) from None
    if trains:
        changes = {name: value for name, value in given.items() if name in {*_OF_TRAINING, "preset"}}
        _check_training(stage, {**changes, **fixed}, problems, where)


def _check_training(stage: Stage, given: Mapping[str, Any], problems: Problems, where: str) -> None:
    """Checks settings of training one by one; then, where each is right, all together."""
    preset = given.get("preset")
    changes = {name: value for name, value in given.items() if name != "preset"}
    fixed = {name: changes[name] for name in ("method",) if name in changes}
    wrong = False
    for name, value in changes.items():
        with problems.collect(where):
            try:
                settings(stage, 0, preset, {**fixed, name: value})
            except ConfigError:
                wrong = True
                raise
    if not wrong:
        with problems.collect(where):
            settings(stage, 0, preset, changes)


def _check_names(given: Mapping[str, Any], known: set[str], what: str, problems: Problems, where: str) -> None:
    if unknown := sorted(given.keys() - known):
        meant = [hint for one in unknown if (hint := nearest_to(one, sorted(known)))]
        with problems.collect(where):
            raise ConfigError(
                f"There is no such setting {what}", got=", ".join(unknown), expected=", ".join(sorted(known)) or "none",
                hint="; ".join(meant) or None,
            )  # fmt: skip
