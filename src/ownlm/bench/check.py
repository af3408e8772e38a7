"""Checks of a whole plan before anything runs: files are read, and methods, sizes and base are tried against them."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Final, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ownlm.bench.case import RANDOM, no_outsiders
from ownlm.bench.data import SetData, read_set
from ownlm.bench.methods import METHODS
from ownlm.bench.methods.pool import make_pool
from ownlm.bench.plan import MethodPlan, Plan, Problems, SetPlan, check_names, nearest, slug_of
from ownlm.errors import ConfigError, DataError, NotFoundError, fitting, many
from ownlm.history.task import Task, load_task
from ownlm.model.bases import smollm2
from ownlm.model.bases.architecture import check_architecture, check_tokenizer
from ownlm.model.bases.files import check_base_folder, decoder_shapes
from ownlm.model.bases.source import resolve_source
from ownlm.perpcs.sharers import MIN_RECORDS
from ownlm.workflows.options import SETTINGS
from ownlm.workflows.plan import Stage, settings

_LLAMA: Final = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
_SHARERS, _TOP_K = 50, 3  # defaults of pools, and of `assembled`
_PEFT: Final = ("ia3", "prompt")  # methods named as `TrainConfig.method`
_OF_TRAINING: Final = SETTINGS - {"method"}


@dataclass(frozen=True, slots=True)
class Ready:
    """A set that can run.

    Attributes:
        methods: Methods that apply to it, in the plan's order.
        left_out: Names of the other methods.
        notes: Sentences about what is smaller than the plan asks for.
    """

    spec: SetPlan
    data: SetData
    methods: tuple[MethodPlan, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def check_plan(plan: Plan, folder: Path, problems: Problems | None = None) -> list[Ready]:
    """Checks a plan, and reads its sets. No base is loaded or downloaded, and nothing is written.

    Args:
        folder: OUT.
        problems: Problems that the plan's file has.

    Raises:
        ConfigError: Several things are wrong; the error lists them.
        OwnlmError: One thing is wrong.
    """
    problems = Problems() if problems is None else problems
    check_names(plan, problems)
    of_pools = Problems()
    check_share(plan.share, problems=of_pools)
    problems.take(of_pools)
    check_adapt(plan.adapt or {}, problems=problems)
    of_kinds = {kind: _found(kind, given) for kind, given in plan.settings.items()}
    for found in of_kinds.values():
        problems.take(found)
    names = {one.name for one in plan.sets}
    if len({slug_of(name) for name in names}) < len(names):
        expected = "names that differ in their first 40 letters"
        problems.add(ConfigError("Two sets of the plan would be kept in one folder", expected=expected))
    with problems.collect():
        _check_folder(folder)
    with problems.collect():
        _check_base(plan)
    for method in plan.methods:  # without a set: what is wrong with any data
        given = method.settings if of_kinds.get(method.method) else plan.settings_of(method)
        problems.take(_found(method.method, given, where=_where(method)))
    plan = plan.model_copy(update={"share": {}}) if of_pools else plan
    ready = [one for spec in plan.sets for one in _read(plan, spec, problems)]
    problems.raise_all(f"The plan {plan.name!r}")
    return ready


def size_of(plan: Plan, ready: Ready) -> dict[str, Any]:
    """The size of a set in numbers of users, queries and answers. A shift leaves fewer queries."""
    data, methods = ready.data, len(ready.methods)
    return {
        "name": data.name, "asked": len(data.targets), "queries": len(data.queries), "outsiders": len(data.outsiders),
        "sharers": len(data.sharers), "methods": methods, "answers": methods * len(data.queries) * len(plan.seeds),
        "people": dict(data.people), "left_out": list(ready.left_out), "notes": list(ready.notes),
    }  # fmt: skip


def check_settings(
    method: str,
    given: Mapping[str, Any],
    task: Task | None = None,
    *,
    problems: Problems | None = None,
    where: str = "",
) -> None:
    """Checks a method of a plan and its settings.

    Args:
        method: Name in the plan.
        given: All keys beside name and method.
        task: Task of a set, to check whether the method can answer it.
        problems: Collects errors. By default they are raised as a ConfigError.
        where: Beginning of the messages.
    """
    found = _found(method, given, task, where)
    if problems is None:
        found.raise_all(f"The method {method!r}")
    else:
        problems.take(found)


def check_share(share: Mapping[str, Any], *, problems: Problems, what: str = "of the plan", where: str = "") -> None:
    """Checks settings of pools."""
    _check(make_pool, share, f"of pools {what}", "sharer", {}, problems, where)


def check_adapt(adapt: Mapping[str, Any], *, problems: Problems, what: str = "of the plan", where: str = "") -> None:
    """Checks settings of stage 1."""
    known = _OF_TRAINING | {"preset"}
    _check_names(adapt, known, f"of stage 1 {what}", problems, where)
    _check_training("task_adapter", {name: value for name, value in adapt.items() if name in known}, problems, where)


def _found(method: str, given: Mapping[str, Any], task: Task | None = None, where: str = "") -> Problems:
    """What is wrong with a method: its name, each setting alone; then settings together, and with a task."""
    problems = Problems()
    if not method:  # reported with the plan's file
        return problems
    if method not in METHODS:
        with problems.collect(where):
            raise ConfigError(
                "There is no such method", got=method, expected=f"one of: {', '.join(METHODS)}",
                hint=nearest(method, list(METHODS)),
            )  # fmt: skip
        return problems
    what, fixed = f"of the method {method!r}", {"method": method} if method in _PEFT else {}
    _check(METHODS[method].make, given, what, "adapter", fixed, problems, where)
    for name, check in (("share", check_share), ("adapt", check_adapt)):
        if isinstance(given.get(name, {}), Mapping):
            check(given.get(name, {}), what=what, problems=problems, where=where)
    if not problems:
        with problems.collect(where):
            METHODS[method].check(given, task)
    return problems


def _check(
    function: Callable[..., Any], given: Mapping[str, Any], what: str, stage: Stage, fixed: Mapping[str, Any],
    problems: Problems, where: str,
) -> None:  # fmt: skip
    """Checks that a function takes these settings; those beside its own are settings of a stage's training."""
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
    """Checks settings of training one by one; where each is right, together."""
    preset = given.get("preset")
    changes = {name: value for name, value in given.items() if name != "preset"}
    fixed = {name: changes[name] for name in ("method",) if name in changes}
    found = Problems()
    for name, value in changes.items():
        with found.collect(where):
            settings(stage, 0, preset, {**fixed, name: value})
    if not found:
        with found.collect(where):
            settings(stage, 0, preset, changes)
    problems.take(found)


def _check_names(given: Mapping[str, Any], known: set[str], what: str, problems: Problems, where: str) -> None:
    if unknown := sorted(given.keys() - known):
        meant = [hint for one in unknown if (hint := nearest(one, sorted(known)))]
        with problems.collect(where):
            raise ConfigError(
                f"There is no such setting {what}", got=", ".join(unknown), expected=", ".join(sorted(known)) or "none",
                hint="; ".join(meant) or None,
            )  # fmt: skip


def _read(plan: Plan, spec: SetPlan, problems: Problems) -> Iterator[Ready]:
    files = _check_files(spec)
    problems.take(files)
    data = None
    if not files and spec.task and spec.data is not None:
        with problems.collect():
            data = read_set(spec)
    if data is None:
        return
    sound = [one for one in plan.methods if one.method and not _found(one.method, plan.settings_of(one))]
    methods = tuple(method for method in sound if _applies(method.method, plan.settings_of(method), data))
    if sound and not methods:
        what = f"No method of the plan has anything to say to the set {spec.name!r}"
        problems.add(ConfigError(what, hint="leave the set out, or add a method such as `base`"))
    for method in methods:
        given, kind = plan.settings_of(method), METHODS[method.method]
        check_settings(method.method, given, data.task, problems=problems, where=_where(method))
        if kind.stage_1 and plan.adapt is not False and not data.outsiders:
            problems.add(no_outsiders(data.name))
        if kind.pool:
            with problems.collect():
                _check_pool(plan, method, given, data)
    left_out = tuple(method.name for method in plan.methods if method not in methods)
    yield Ready(spec, data, methods, left_out, tuple(_notes(plan, spec, data, methods)))


def _check_files(spec: SetPlan) -> Problems:
    """What is wrong with a set's task, and which of its files are missing."""
    found, where = Problems(), f"The set {spec.name!r}"
    if spec.task:
        with found.collect(where):
            load_task(spec.task)
    for path in (spec.data, spec.queries, spec.labels, spec.outsiders, spec.outsiders_labels):
        if path is not None and not path.exists():
            found.add(NotFoundError(f"{where}: there is no file {path}"))
    return found


def _where(method: MethodPlan) -> str:
    return f"The plan's method {method.name!r} is wrong"


def _applies(method: str, given: Mapping[str, Any], data: SetData) -> bool:
    """Whether a method can answer a set's task and learn from its records."""
    kind = METHODS[method]
    if (kind.labels and not data.task.labels) or (not kind.options and data.task.options):
        return False
    return data.learnable or not (kind.learns or given.get("profile"))


def _check_pool(plan: Plan, method: MethodPlan, given: Mapping[str, Any], data: SetData) -> None:
    """Raises where a set has too few users who could share."""
    able, most = _sharers(plan, given, data)
    if able == 0:
        raise DataError(
            f"The set {data.name!r} has no sharers for the method {method.name!r}",
            got=f"{len(data.sharers)} possible sharers, none with more than {MIN_RECORDS} records",
            hint="name a file of `outsiders`, or let users of the data share: `sharing = 3`",
        )
    top_k = given.get("top_k", _TOP_K)
    if method.method == "assembled" and top_k > most:
        raise ConfigError(
            f"The method {method.name!r} takes more pieces a module than the set {data.name!r} has sharers",
            got=f"top_k = {top_k}, {most} sharers", hint="take a smaller top_k, more `sharers`, or data of more users",
        )  # fmt: skip


def _sharers(plan: Plan, given: Mapping[str, Any], data: SetData) -> tuple[int, int]:
    """The number of users with enough records to share, and the largest number of sharers in a method's pool."""
    able = sum(len(history) > MIN_RECORDS for history in data.sharers.values())
    asked = {**plan.share, **given.get("share", {})}.get("sharers", _SHARERS)
    return able, min(able, asked if isinstance(asked, int) else able)


def _notes(plan: Plan, spec: SetPlan, data: SetData, methods: tuple[MethodPlan, ...]) -> Iterator[str]:
    """Sentences about what is smaller than the plan asks for."""
    if spec.people is not None and spec.people > len(data.targets):
        yield f"The plan asks for {spec.people:,} users; the data have {len(data.targets):,} to ask."
    fewest = min(len(history) for history in data.targets.values())
    for method in methods:
        given = plan.settings_of(method)
        wanted = max(given.get("rag", 0), given.get("k", 0) if method.method in ("knn", "random") else 0)
        if wanted > fewest:
            few = sum(len(history) < wanted for history in data.targets.values())
            users = f"{few:,} of {many(len(data.targets), 'user')}"
            yield f"{method.name}: {users} have fewer than the {wanted} records it takes."
        share = {**plan.share, **given.get("share", {})}
        able, most = _sharers(plan, given, data)
        if METHODS[method.method].pool and share.get("sharers", most) > most:
            there = many(able, "user with enough records")
            yield f"{method.name}: {share['sharers']} sharers are asked for; the data have {there}."


def _check_folder(folder: Path) -> None:
    """Raises a ConfigError where OUT cannot be written."""
    what = f"The results cannot be written to {folder}"
    if folder.exists() and not folder.is_dir():
        raise ConfigError(what, got="a file", expected="a folder")
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(what, got=f"{there} cannot be written", hint="choose another folder")


def _check_base(plan: Plan) -> None:
    """Raises where the base cannot be loaded, or lacks modules that the plan names. A hub id is not downloaded."""
    source, known = plan.base, _LLAMA
    if source not in (RANDOM, smollm2.NAME):
        folder = Path(os.path.expanduser(source))
        if not folder.is_dir():
            if folder.exists() or source.startswith((".", "/", "~")):
                resolve_source(source)  # raises the error
            return
        check_base_folder(folder)
        check_architecture(folder, folder.name)
        check_tokenizer(folder)
        known = frozenset(name.removesuffix(".weight").rpartition(".")[2] for name in decoder_shapes(folder))
    of_methods = [plan.settings_of(method) for method in plan.methods]
    named = {name: None for given in (plan.adapt or {}, plan.share, *of_methods) for name in _modules(given)}
    if missing := [name for name in named if name not in known]:
        expected = ", ".join(sorted(known & _LLAMA) or sorted(known))
        raise ConfigError("The base has no such modules", got=", ".join(missing), expected=expected)


def _modules(given: Mapping[str, Any]) -> list[str]:
    """The modules that settings name, for what is trained and its stages."""
    own = given.get("target_modules", ())
    below = [given[name] for name in ("adapt", "share") if isinstance(given.get(name), dict)]
    named = [one for one in own if isinstance(one, str)] if isinstance(own, list | tuple) else []
    return [*named, *(one for each in below for one in _modules(each))]
