"""A plan: which data, base, methods and seeds a benchmark runs with. It is a TOML file.

    name = "main"
    size = "cpu"                      # of sizes.toml; this line alone changes for a larger machine
    sizes = "sizes.toml"
    baseline = "adapted base"
    seeds = [0]

    [[methods]]
    name = "adapted base"
    method = "adapted"

    [[methods]]
    name = "own adapter, k=1"
    method = "own"
    rag = 1

What a size says stands below what the plan says: base, sets, and settings for all methods of a kind. A plan may take
some of its size's sets, and change them:

    [[sets]]
    from = "*"                        # each of them; or one, by its name
    suffix = "least like by BM25"     # of the name
    shift = "bm25"
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ownlm.bench.problems import Problems, nearest
from ownlm.errors import ConfigError, NotFoundError, fitting
from ownlm.filesystem import read_regular

PATHS = frozenset({"data", "queries", "labels", "outsiders", "outsiders_labels"})  # of a set
_SHIFT_SHARE = 0.25
_STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SetPlan(BaseModel):
    """One data set: whose queries are answered, and out of whose records the base is adapted and a pool is made.

    Paths count from the folder of the file that names them.
    """

    model_config = _STRICT

    name: str = Field(min_length=1)
    task: str = Field(description="a task's name, or the path of a task file")
    data: Path = Field(description="histories and queries, in one of LaMP's shapes; or histories as plain rows")
    queries: Path | None = Field(None, description="the queries, where `data` are plain rows")
    labels: Path | None = Field(None, description="right answers, where they do not lie beside the data")
    held_back: int | None = Field(
        None, ge=1,
        description="ask each person's latest so many records, a fifth of theirs at most, instead of the data's "
        "queries: to choose settings without a look at these, or where there are none",
    )  # fmt: skip
    outsiders: Path | None = Field(None, description="histories for stage 1, and candidates for sharing")
    outsiders_labels: Path | None = None
    people: int | None = Field(None, ge=1, description="how many are asked; all, by default")
    who: Literal["spread", "active"] = Field("spread", description="which, where they are more than `people`")
    queries_each: int | None = Field(None, ge=1, description="at most so many queries a person, evenly spread")
    outsiders_people: int | None = Field(None, ge=1, description="how many of them; evenly spread by name")
    sharing: int = Field(3, ge=0, description="every n-th person of `data` shares and is not asked; 0: nobody shares")
    shift: Literal["bm25", "embedding"] | None = Field(
        None, description="ask only what is least like the person's history, by this measure"
    )
    shift_share: float = Field(_SHIFT_SHARE, gt=0, le=1, description="which share of all queries that is")

    @field_validator("sharing")
    @classmethod
    def _somebody_is_asked(cls, sharing: int) -> int:
        if sharing == 1:
            raise ValueError("where every person shares, nobody is asked: 0 for no sharers, else 2 or more")
        return sharing

    @model_validator(mode="after")
    def _go_together(self) -> "SetPlan":
        of_outsiders = {"outsiders_labels": self.outsiders_labels, "outsiders_people": self.outsiders_people}
        lone = [name for name, value in of_outsiders.items() if value is not None and self.outsiders is None]
        lone += ["shift_share"] if self.shift is None and self.shift_share != _SHIFT_SHARE else []
        if lone:
            without = "shift" if lone == ["shift_share"] else "outsiders"
            raise ValueError(f"{', '.join(lone)} of the set {self.name!r} have no use without `{without}`")
        return self


class ProfilePlan(BaseModel):
    """Who writes people's text profiles."""

    model_config = _STRICT

    writer: Literal["counted", "base"] | None = Field(
        None, description="by default counted where the task has labels, else written by the raw base"
    )
    url: str | None = Field(None, description="of an OpenAI-compatible endpoint that writes them instead")
    model: str | None = None

    @model_validator(mode="after")
    def _one_writer(self) -> "ProfilePlan":
        if self.url is not None and self.writer is not None:
            raise ValueError("profiles have one writer: `writer`, or an endpoint's `url` and `model`")
        if (self.url is None) != (self.model is None):
            raise ValueError("an endpoint that writes profiles has both a `url` and a `model`")
        return self


class MethodPlan(BaseModel):
    """One row of the table: a method, and its settings. `ownlm.bench.methods` says which there are."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = Field(min_length=1)
    method: str

    @property
    def settings(self) -> dict[str, Any]:
        """What is set beside the name and the method."""
        return dict(self.model_extra or {})


class Plan(BaseModel):
    """A whole plan, resolved: what its size says is in it."""

    model_config = _STRICT

    name: str = Field(min_length=1)
    size: str | None = None
    base: str = Field(
        description='"smollm2-135m", a folder such as "./mine", a hub id; or "random", a tiny one to try a plan with'
    )
    sets: tuple[SetPlan, ...] = Field(min_length=1)
    methods: tuple[MethodPlan, ...] = Field(min_length=1)
    baseline: str = Field(description="the method that all others are compared to, by its name")
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    adapt: dict[str, Any] | Literal[False] = Field({}, description="settings of stage 1; false leaves it out")
    share: dict[str, Any] = Field({}, description="settings of `share`, for all methods that need a pool")
    settings: dict[str, dict[str, Any]] = Field({}, description="of all methods of a kind; a method's own stand above")
    profile: ProfilePlan = ProfilePlan()
    choose: bool = Field(True, description="choose among labels by likelihood, where a task has them; else generate")

    @field_validator("seeds")
    @classmethod
    def _differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed stands twice")
        return seeds

    def settings_of(self, method: MethodPlan) -> dict[str, Any]:
        """A method's settings, those of its kind included."""
        return {**self.settings.get(method.method, {}), **method.settings}


def check_names(plan: Plan, problems: Problems) -> None:
    """Checks that names of sets and methods differ, and that the baseline is one of the methods."""
    sets, methods = [one.name for one in plan.sets], [one.name for one in plan.methods]
    for what, names in {"set": sets, "method": methods}.items():
        for name in dict.fromkeys(name for name in names if names.count(name) > 1):
            problems.add(ConfigError(f"{names.count(name)} {what}s of the plan are called {name!r}"))
    if methods and plan.baseline and plan.baseline not in methods:
        problems.add(
            ConfigError(
                f"The baseline {plan.baseline!r} is none of the methods", expected=", ".join(dict.fromkeys(methods)),
                hint=nearest(plan.baseline, methods),
            )
        )  # fmt: skip


def read_plan(path: Path, size: str | None = None, problems: Problems | None = None) -> Plan:
    """Reads a plan and resolves its size.

    Args:
        size: instead of the one that the plan names.
        problems: takes what is wrong with the plan's keys, and the plan is what of it could be read: only good for
            further checks. By default it is raised.

    Raises:
        NotFoundError: there is no such file, size or set. ConfigError: a file is no plan; it says where.
    """
    spec = _read(path)
    sizes_file = path.parent / str(spec.pop("sizes", "sizes.toml"))
    size = size or spec.get("size")
    below = _size(sizes_file, size) if size else {}
    for file, content in ((sizes_file, below), (path, spec)):
        _check_tables(file, content)
        base = content.get("base")
        if isinstance(base, str) and "/" in base and (file.parent / base).is_dir():  # else it is one at the hub
            content["base"] = str(file.parent / base)
    known = {one.get("name"): _anchored(one, sizes_file.parent) for one in below.pop("sets", [])}
    chosen = [each for one in spec.pop("sets", ["*"]) for each in _chosen(one, known, path)]
    settings = {
        method: {**below.get("settings", {}).get(method, {}), **spec.get("settings", {}).get(method, {})}
        for method in {**below.get("settings", {}), **spec.get("settings", {})}
    }
    merged = {**below, **spec, "sets": chosen, "size": size, "settings": settings}
    found = Problems() if problems is None else problems
    merged["sets"] = [_read_part(SetPlan, one, n, path, found) for n, one in enumerate(chosen, 1)]
    methods = merged.get("methods")
    if isinstance(methods, list) and all(isinstance(one, dict) for one in methods):
        merged["methods"] = [_read_part(MethodPlan, one, n, path, found) for n, one in enumerate(methods, 1)]
    if isinstance(merged.get("profile"), dict):
        merged["profile"] = _read_part(ProfilePlan, merged["profile"], 1, path, found)
    plan = _read_part(Plan, merged, 1, path, found)
    if problems is None:
        check_names(plan, found)
        found.raise_all(f"The plan {path}")
    return plan


_Part = TypeVar("_Part", Plan, SetPlan, MethodPlan, ProfilePlan)


def _read_part(kind: type[_Part], given: dict[str, Any], number: int, path: Path, problems: Problems) -> _Part:
    """A plan, or one of its tables; without the keys that are wrong, which are added to the problems.

    Args:
        number: of the table, the first is 1.
    """
    name = given.get("name")
    called = repr(name) if isinstance(name, str) and name else str(number)
    table = {SetPlan: f" in the set {called}", MethodPlan: f" in the method {called}", ProfilePlan: " in `profile`"}
    where, right = f"The plan {path} is wrong{table.get(kind, '')}", dict(given)
    for _ in range(2):  # the second time what does not go together, which wrong keys hide
        try:
            return kind.model_validate(right)
        except ValidationError as error:
            wrong = {one["loc"][0] if one["loc"] else "": one for one in reversed(error.errors())}
        for key in sorted(wrong, key=list(given).index if wrong.keys() <= given.keys() else str):
            if key in right or key not in given:
                problems.add(_mistake(kind, where, str(key), wrong[key], right.pop(str(key), None)))
    stand_in = {
        "name": called,
        "task": "",
        "data": None,
        "method": "",
        "base": "random",
        "baseline": "",
        "sets": (),
        "methods": (),
    }
    known = {one: value for one, value in stand_in.items() if one in kind.model_fields}
    paths = {one: Path(right[one]) for one in PATHS & right.keys()}
    return kind.model_construct(**known | right | paths)


def _mistake(kind: type[BaseModel], where: str, key: str, error: Mapping[str, Any], value: Any) -> ConfigError:
    """What is wrong with a key of a plan's table, or with several that do not go together."""
    known = list(kind.model_fields)
    if error["type"] == "extra_forbidden":
        return ConfigError(
            f"{where}: there is no key {key!r}", expected=f"one of: {', '.join(known)}", hint=nearest(key, known)
        )
    if error["type"] == "missing":
        return ConfigError(f"{where}: {key!r} is missing", expected=kind.model_fields[key].description)
    if error["type"] == "value_error":
        return ConfigError(f"{where}: {fitting(error)}")
    at = next((part for part in error["loc"][1:] if isinstance(part, int)), None)
    found = error["input"] if at is None else value[at]
    got = (
        "nothing in it"
        if error["type"] == "too_short"
        else repr(found)
        if isinstance(found, str | int | float)
        else None
    )
    return ConfigError(f"{where} at {key!r}", got=got, expected=fitting(error))


def _size(file: Path, size: str) -> dict[str, Any]:
    if not file.exists():
        raise NotFoundError(
            f"There is no file {file}",
            expected=f"the size {size!r} in it",
            hint="leave `size` out, or name the file as `sizes`",
        )
    sizes = _read(file)
    if not isinstance(sizes.get(size), dict):
        raise NotFoundError(f"There is no size {size!r} in {file}", expected=f"one of {', '.join(sizes)}")
    below: dict[str, Any] = sizes[size]
    return below


def _check_tables(file: Path, content: dict[str, Any]) -> None:
    """Raises a ConfigError where sets are no list of tables or names, or settings no tables by method."""
    sets, settings = content.get("sets", []), content.get("settings", {})
    whole = isinstance(settings, dict) and all(isinstance(one, dict) for one in settings.values())
    fit = dict if "methods" not in content else (dict, str)  # a size writes its sets out
    if not isinstance(sets, list) or not all(isinstance(one, fit) for one in sets):
        raise ConfigError(f"The sets in {file} are no list", expected="[[sets]]", hint="the plans in plans/ show how")
    if not whole:
        raise ConfigError(f"The settings in {file} are no tables", expected="[settings.METHOD]")


def _chosen(one: Any, known: dict[Any, dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """A set that a plan writes out, or takes from its size, by name or "*" for each of them, perhaps with changes.

    With `without`, "*" is each but those of these names, which a size need not have.
    """
    if isinstance(one, dict) and "from" not in one:
        return [_anchored(one, path.parent)]
    changes = dict(one) if isinstance(one, dict) else {"from": one}
    wanted, suffix, without = changes.pop("from"), changes.pop("suffix", None), changes.pop("without", [])
    if not isinstance(without, list) or (without and wanted != "*"):
        raise ConfigError(f"`without` in {path} is wrong", expected='a list of sets\' names, beside from = "*"')
    if wanted not in (*known, "*"):
        raise NotFoundError(f"The plan {path} names a set {wanted!r}", expected=f"one of {', '.join(map(str, known))}")
    taken = [each for name, each in known.items() if (name == wanted if wanted != "*" else name not in without)]
    named = [each if suffix is None else {**each, "name": f"{each['name']}, {suffix}"} for each in taken]
    return [{**each, **_anchored(changes, path.parent)} for each in named]


def _anchored(spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same with paths that count from a folder."""
    paths = {name: folder / value for name, value in spec.items() if name in PATHS and isinstance(value, str)}
    task = spec.get("task")
    if isinstance(task, str) and task.endswith(".toml"):
        paths["task"] = folder / task
    return {**spec, **{name: str(value) for name, value in paths.items()}}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_regular(path).decode("utf8"))
    except FileNotFoundError:
        raise NotFoundError(f"There is no file {path}", hint="the plans in plans/ show how to write one") from None
    except OSError as error:
        raise ConfigError(f"The file {path} cannot be read", got=error.strerror) from None
    except ValueError as error:  # of TOML or of UTF-8
        raise ConfigError(f"The file {path} is no TOML file", got=error, hint="mend it there") from None


def slug_of(name: str) -> str:
    """A name as a part of a file's.

    >>> slug_of("RAG, k=1"), slug_of("Stücke")
    ('RAG-k-1', 'Stücke')
    """
    return re.sub(r"\W+", "-", name).strip("-")[:40]
