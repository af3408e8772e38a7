"""A plan checked whole before anything runs: its files are read, its methods, sizes and base are tried against them."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ownlm.bench.case import RANDOM, no_outsiders
from ownlm.bench.data import SetData, read_set
from ownlm.bench.methods import (
    LEARN,
    NEEDS_LABELS,
    NEEDS_POOL,
    NO_OPTIONS,
    WITHOUT_STAGE_1,
    check_adapt,
    check_settings,
    check_share,
)
from ownlm.bench.plan import MethodPlan, Plan, SetPlan, check_names, slug_of
from ownlm.bench.problems import Problems
from ownlm.errors import ConfigError, DataError, NotFoundError, many
from ownlm.history.task import load_task
from ownlm.model.bases import smollm2
from ownlm.model.bases.architecture import check_architecture, check_tokenizer
from ownlm.model.bases.files import check_base_folder, decoder_shapes
from ownlm.model.bases.source import resolve_source
from ownlm.perpcs.sharers import MIN_RECORDS

_LLAMA = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
_SHARERS, _TOP_K = 50, 3  # defaults of pools, and of methods that take pieces of them


@dataclass(frozen=True, slots=True)
class Ready:
    """A set that can run.

    Attributes:
        methods: those that apply to it, in the plan's order.
        left_out: names of the others.
        notes: what is smaller than the plan asks for, a sentence each.
    """

    spec: SetPlan
    data: SetData
    methods: tuple[MethodPlan, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def check_plan(plan: Plan, folder: Path, problems: Problems | None = None) -> list[Ready]:
    """Checks a plan, and reads its sets; no base is loaded or downloaded, and nothing is written.

    Args:
        folder: OUT.
        problems: found in the plan's file before.

    Raises:
        ConfigError: several things are wrong: all of them are listed.
        OwnlmError: one thing is wrong: its own error.
    """
    problems = Problems() if problems is None else problems
    check_names(plan, problems)
    of_pools = Problems()
    check_share(plan.share, problems=of_pools)
    problems.take(of_pools)
    check_adapt(plan.adapt or {}, problems=problems)
    of_kinds = {kind: _found_in(kind, settings) for kind, settings in plan.settings.items()}
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
    for method in plan.methods:  # without a set: what is wrong whatever the data are
        wrong = of_kinds.get(method.method)  # is reported once, and not for each of its methods
        problems.take(_found_in(method.method, method.settings if wrong else plan.settings_of(method), _where(method)))
    plan = plan.model_copy(update={"share": {}}) if of_pools else plan
    ready = [one for spec in plan.sets for one in _read(plan, spec, problems)]
    problems.raise_all(f"The plan {plan.name!r}")
    return ready


def _found_in(kind: str, settings: Mapping[str, Any], where: str = "") -> Problems:
    found = Problems()
    if kind:  # a method of a plan's file without one is reported there
        check_settings(kind, settings, problems=found, where=where)
    return found


def size_of(plan: Plan, ready: Ready) -> dict[str, Any]:
    """What running a set takes, in numbers of people, queries and answers; a shift leaves fewer queries."""
    data, methods = ready.data, len(ready.methods)
    return {
        "name": data.name, "asked": len(data.targets), "queries": len(data.queries), "outsiders": len(data.outsiders),
        "sharers": len(data.sharers), "methods": methods, "answers": methods * len(data.queries) * len(plan.seeds),
        "people": dict(data.people), "left_out": list(ready.left_out), "notes": list(ready.notes),
    }  # fmt: skip


def _read(plan: Plan, spec: SetPlan, problems: Problems) -> Iterator[Ready]:
    files = _check_files(spec)
    problems.take(files)
    data = None
    if not files and spec.task and spec.data is not None:
        with problems.collect():
            data = read_set(spec)
    if data is None:
        return
    sound = [one for one in plan.methods if one.method and not _found_in(one.method, plan.settings_of(one))]
    methods = tuple(method for method in sound if _says_something(method.method, plan.settings_of(method), data))
    if sound and not methods:
        what = f"No method of the plan has anything to say to the set {spec.name!r}"
        problems.add(ConfigError(what, hint="leave the set out, or add a method such as `base`"))
    for method in methods:
        settings = plan.settings_of(method)
        check_settings(method.method, settings, data.task, problems=problems, where=_where(method))
        if method.method not in WITHOUT_STAGE_1 and plan.adapt is not False and not data.outsiders:
            problems.add(no_outsiders(data.name))
        if method.method in NEEDS_POOL:
            with problems.collect():
                _check_pool(plan, method, settings, data)
    left_out = tuple(method.name for method in plan.methods if method not in methods)
    yield Ready(spec, data, methods, left_out, tuple(_notes(plan, spec, data, methods)))


def _check_files(spec: SetPlan) -> Problems:
    """What is wrong with a set's task, and which of its files are not there; more than one of them may be."""
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


def _says_something(method: str, settings: Mapping[str, Any], data: SetData) -> bool:
    if (method in NEEDS_LABELS and not data.task.labels) or (method in NO_OPTIONS and data.task.options):
        return False
    return data.learnable or not (method in LEARN or settings.get("profile"))


def _check_pool(plan: Plan, method: MethodPlan, settings: Mapping[str, Any], data: SetData) -> None:
    """Raises where a set has too few people who could share."""
    able, most = _sharers(plan, settings, data)
    if able == 0:
        raise DataError(
            f"The set {data.name!r} has no sharers for the method {method.name!r}",
            got=f"{len(data.sharers)} possible sharers, none with more than {MIN_RECORDS} records",
            hint="name a file of `outsiders`, or let people of the data share: `sharing = 3`",
        )
    if method.method == "assembled" and settings.get("top_k", _TOP_K) > most:
        raise ConfigError(
            f"The method {method.name!r} takes more pieces a module than the set {data.name!r} has sharers",
            got=f"top_k = {settings.get('top_k', _TOP_K)}, {most} sharers",
            hint="take a smaller top_k, more `sharers`, or data of more people",
        )


def _sharers(plan: Plan, settings: Mapping[str, Any], data: SetData) -> tuple[int, int]:
    """How many people have enough records to share, and how many sharers a method's pool has at most."""
    able = sum(len(history) > MIN_RECORDS for history in data.sharers.values())
    asked = {**plan.share, **settings.get("share", {})}.get("sharers", _SHARERS)
    return able, min(able, asked if isinstance(asked, int) else able)


def _notes(plan: Plan, spec: SetPlan, data: SetData, methods: tuple[MethodPlan, ...]) -> Iterator[str]:
    """What is smaller than the plan asks for."""
    if spec.people is not None and spec.people > len(data.targets):
        yield f"The plan asks for {spec.people:,} people; the data have {len(data.targets):,} to ask."
    fewest = min(len(history) for history in data.targets.values())
    for method in methods:
        settings = plan.settings_of(method)
        wanted = max(settings.get("rag", 0), settings.get("k", 0) if method.method in ("knn", "random") else 0)
        if wanted > fewest:
            few = sum(len(history) < wanted for history in data.targets.values())
            people = f"{few:,} of {many(len(data.targets), 'person')}"
            yield f"{method.name}: {people} have fewer than the {wanted} records it takes."
        share = {**plan.share, **settings.get("share", {})}
        able, most = _sharers(plan, settings, data)
        if method.method in NEEDS_POOL and share.get("sharers", most) > most:
            there = many(able, "person with records enough")
            yield f"{method.name}: {share['sharers']} sharers are asked for; the data have {there}."


def _check_folder(folder: Path) -> None:
    """Raises a ConfigError where OUT cannot be written."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"The results cannot be written to {folder}", got="a file", expected="a folder")
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(
            f"The results cannot be written to {folder}", got=f"{there} cannot be written", hint="choose another OUT"
        )


def _check_base(plan: Plan) -> None:
    """Raises where the base cannot be loaded, or lacks modules that the plan names; one on a hub is not downloaded."""
    source, known = plan.base, _LLAMA
    if source not in (RANDOM, smollm2.NAME):
        folder = Path(os.path.expanduser(source))
        if not folder.is_dir():
            if folder.exists() or source.startswith((".", "/", "~")):
                resolve_source(source)  # says what is wrong with it
            return
        check_base_folder(folder)
        check_architecture(folder, folder.name)
        check_tokenizer(folder)
        known = frozenset(name.removesuffix(".weight").rpartition(".")[2] for name in decoder_shapes(folder))
    named = {one: None for settings in _all_settings(plan) for one in _modules(settings)}
    if missing := [name for name in named if name not in known]:
        raise ConfigError(
            "The base has no such modules",
            got=", ".join(missing),
            expected=", ".join(sorted(known & _LLAMA) or sorted(known)),
        )


def _modules(settings: Mapping[str, Any]) -> list[str]:
    """The modules that settings name, for what is trained and its stages."""
    own = settings.get("target_modules", ())
    below = [settings[name] for name in ("adapt", "share") if isinstance(settings.get(name), dict)]
    named = [one for one in own if isinstance(one, str)] if isinstance(own, list | tuple) else []
    return [*named, *(one for each in below for one in _modules(each))]


def _all_settings(plan: Plan) -> Iterator[Mapping[str, Any]]:
    yield from (plan.adapt or {}, plan.share)
    yield from (plan.settings_of(method) for method in plan.methods)
