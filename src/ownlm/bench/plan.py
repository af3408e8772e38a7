"""Plans: the data, base, methods and seeds of a benchmark, in a TOML file.

    name = "main"
    size = "cpu"                      # one of sizes.toml; this line alone changes for a larger machine
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

A size gives defaults: base, sets, and settings of all methods of a kind. What the plan says takes precedence. A plan
may take some of its size's sets, and change them:

    [[sets]]
    from = "*"                        # every set; or the name of one
    suffix = "least like by BM25"     # added to the name
    shift = "bm25"
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ownlm.errors import ConfigError, NotFoundError, OwnlmError, fitting
from ownlm.filesystem import read_regular

PATHS: Final = frozenset({"data", "queries", "labels", "outsiders", "outsiders_labels"})  # keys of a set
_SHIFT_SHARE: Final = 0.25
_STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SetPlan(BaseModel):
    """A `[[sets]]` entry of a plan: data files and selection of users. Paths are relative to the plan's file."""

    model_config = _STRICT

    name: str = Field(min_length=1)
    task: str = Field(description="a task's name, or the path of a task file")
    data: Path = Field(description="histories and queries, in one of LaMP's shapes; or histories as plain rows")
    queries: Path | None = Field(None, description="the queries, where `data` are plain rows")
    labels: Path | None = Field(None, description="right answers, where they do not lie beside the data")
    held_back: int | None = Field(
        None, ge=1,
        description="ask each user's latest so many records, a fifth of theirs at most, instead of the data's "
        "queries: to choose settings without a look at these, or where there are none",
    )  # fmt: skip
    outsiders: Path | None = Field(None, description="histories for stage 1, and candidates for sharing")
    outsiders_labels: Path | None = None
    people: int | None = Field(None, ge=1, description="how many are asked; all, by default")
    who: Literal["spread", "active"] = Field("spread", description="which, where they are more than `people`")
    queries_each: int | None = Field(None, ge=1, description="at most so many queries a user, evenly spread")
    outsiders_people: int | None = Field(None, ge=1, description="how many of them; evenly spread by name")
    sharing: int = Field(3, ge=0, description="every n-th user of `data` shares and is not asked; 0: none shares")
    shift: Literal["bm25", "embedding"] | None = Field(
        None, description="ask only what is least like the user's history, by this measure"
    )
    shift_share: float = Field(_SHIFT_SHARE, gt=0, le=1, description="which share of all queries that is")

    @field_validator("sharing")
    @classmethod
    def _leaves_users(cls, sharing: int) -> int:
        if sharing == 1:
            raise ValueError("sharing = 1 leaves no user to ask; use 0 (no sharers) or a number from 2 on")
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
    """The writer of text profiles: counts, a base, or an endpoint."""

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
    """A row of the table: a method of `ownlm.bench.methods`, and its settings."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = Field(min_length=1)
    method: str

    @property
    def settings(self) -> dict[str, Any]:
        """All keys beside the name and the method."""
        return dict(self.model_extra or {})


class Plan(BaseModel):
    """A whole plan, with the defaults of its size."""

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
            raise ValueError("a seed is repeated")
        return seeds

    def settings_of(self, method: MethodPlan) -> dict[str, Any]:
        """A method's settings, with those of its kind as defaults."""
        return {**self.settings.get(method.method, {}), **method.settings}


class Problems:
    """Collects the errors of a check, without repeats, and raises them as one error."""

    def __init__(self) -> None:
        self._found: dict[str, OwnlmError] = {}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._found)

    def take(self, others: "Problems") -> None:
        """Adds the errors of another check."""
        for error in others._found.values():
            self.add(error)

    @contextmanager
    def collect(self, where: str = "") -> Iterator[None]:
        """Context manager: collects an error raised in its block.

        Args:
            where: Beginning of the message, such as "The plan's method 'own' is wrong".
        """
        try:
            yield
        except OwnlmError as error:
            kind = type(error) if type(error).__init__ is OwnlmError.__init__ else ConfigError
            said = kind(
                f"{where}: {error.what}",
                got=error.got,
                expected=error.expected,
                hint=error.hint,
                command=error.command,
            )
            self.add(said if where else error)

    def add(self, error: OwnlmError) -> None:
        """Adds an error."""
        self._found.setdefault(str(error), error)

    def raise_all(self, what: str) -> None:
        """Raises one error as it is; several as a ConfigError that lists them.

        Args:
            what: What was checked, such as "The plan 'main'".
        """
        found = list(self._found.values())
        if len(found) == 1:
            raise found[0]
        if found:
            lines = (f"\n  {number}. {_in_short(error)}" for number, error in enumerate(found, 1))
            raise ConfigError(f"{what} is wrong in {len(found)} places; nothing has run:{''.join(lines)}")


def _in_short(error: OwnlmError) -> str:
    parts = {"got": error.got, "expected": error.expected}
    found = ", ".join(f"{name}: {value}" for name, value in parts.items() if value is not None)
    hint = f"; {error.hint}" if error.hint else ""
    return f"{error.what.rstrip('.')}{f' ({found})' if found else ''}{hint}"


def nearest(word: str, known: Sequence[str]) -> str | None:
    """A hint with the known word that is most like a misspelt one.

    >>> nearest("epochz", ["epochs", "rag"]), nearest("zzz", ["epochs"])
    ("did you mean 'epochs'?", None)
    """
    close = get_close_matches(word, known, 1)
    return f"did you mean {close[0]!r}?" if close else None


def check_names(plan: Plan, problems: Problems) -> None:
    """Checks that names of sets and methods differ, and that the baseline is one of the methods."""
    sets, methods = [one.name for one in plan.sets], [one.name for one in plan.methods]
    for what, names in {"set": sets, "method": methods}.items():
        for name in dict.fromkeys(name for name in names if names.count(name) > 1):
            problems.add(ConfigError(f"{names.count(name)} {what}s of the plan are called {name!r}"))
    if methods and plan.baseline and plan.baseline not in methods:
        expected, hint = ", ".join(dict.fromkeys(methods)), nearest(plan.baseline, methods)
        what = f"The baseline {plan.baseline!r} is none of the methods"
        problems.add(ConfigError(what, expected=expected, hint=hint))


def read_plan(path: Path, size: str | None = None, problems: Problems | None = None) -> Plan:
    """Reads a plan, with the defaults of its size.

    Args:
        size: Size to take instead of the plan's own.
        problems: Collects what is wrong with keys; the plan then holds the rest and is good for further checks only.
            By default errors are raised.

    Raises:
        NotFoundError: The file, the size or a set is missing. ConfigError: A file is not a plan.
    """
    spec = _read(path)
    sizes_file = path.parent / str(spec.pop("sizes", "sizes.toml"))
    size = size or spec.get("size")
    below = _size(sizes_file, size) if size else {}
    for file, content in ((sizes_file, below), (path, spec)):
        _check_tables(file, content)
        base = content.get("base")
        if isinstance(base, str) and "/" in base and (file.parent / base).is_dir():  # else it is a hub id
            content["base"] = str(file.parent / base)
    known = {one.get("name"): _anchored(one, sizes_file.parent) for one in below.pop("sets", [])}
    chosen = [each for one in spec.pop("sets", ["*"]) for each in _chosen(one, known, path)]
    mine, theirs = spec.get("settings", {}), below.get("settings", {})
    settings = {method: {**theirs.get(method, {}), **mine.get(method, {})} for method in {**theirs, **mine}}
    merged = {**below, **spec, "size": size, "settings": settings}
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
    """A plan, or one of its tables, without its wrong keys, which are added to the problems.

    Args:
        number: Number of the table; the first is 1.
    """
    name = given.get("name")
    called = repr(name) if isinstance(name, str) and name else str(number)
    table = {SetPlan: f" in the set {called}", MethodPlan: f" in the method {called}", ProfilePlan: " in `profile`"}
    where, right = f"The plan {path} is wrong{table.get(kind, '')}", dict(given)
    for _ in range(2):  # a second time, without the wrong keys, for keys that do not go together
        try:
            return kind.model_validate(right)
        except ValidationError as error:
            wrong = {one["loc"][0] if one["loc"] else "": one for one in reversed(error.errors())}
        for key in sorted(wrong, key=list(given).index if wrong.keys() <= given.keys() else str):
            if key in right or key not in given:
                problems.add(_mistake(kind, where, str(key), wrong[key], right.pop(str(key), None)))
    lacking = {"name": called, "task": "", "data": None, "method": "", "base": "random", "baseline": "", "sets": (),
               "methods": ()}  # fmt: skip
    known = {one: value for one, value in lacking.items() if one in kind.model_fields}
    return kind.model_construct(**known | right | {one: Path(right[one]) for one in PATHS & right.keys()})


def _mistake(kind: type[BaseModel], where: str, key: str, error: Mapping[str, Any], value: Any) -> ConfigError:
    """The error for a wrong key of a plan's table, or for several that do not go together."""
    known = list(kind.model_fields)
    if error["type"] == "extra_forbidden":
        expected = f"one of: {', '.join(known)}"
        return ConfigError(f"{where}: there is no key {key!r}", expected=expected, hint=nearest(key, known))
    if error["type"] == "missing":
        return ConfigError(f"{where}: {key!r} is missing", expected=kind.model_fields[key].description)
    if error["type"] == "value_error":
        return ConfigError(f"{where}: {fitting(error)}")
    at = next((part for part in error["loc"][1:] if isinstance(part, int)), None)
    found = error["input"] if at is None else value[at]
    got = repr(found) if isinstance(found, str | int | float) else None
    if error["type"] == "too_short":
        got = "nothing in it"
    return ConfigError(f"{where} at {key!r}", got=got, expected=fitting(error))


def _size(file: Path, size: str) -> dict[str, Any]:
    if not file.exists():
        hint = "leave `size` out, or name the file as `sizes`"
        raise NotFoundError(f"There is no file {file}", expected=f"the size {size!r} in it", hint=hint)
    sizes = _read(file)
    if not isinstance(sizes.get(size), dict):
        raise NotFoundError(f"There is no size {size!r} in {file}", expected=f"one of {', '.join(sizes)}")
    below: dict[str, Any] = sizes[size]
    return below


def _check_tables(file: Path, content: dict[str, Any]) -> None:
    """Raises a ConfigError where sets are not a list of tables or names, or settings not tables by method."""
    sets, settings = content.get("sets", []), content.get("settings", {})
    fit = dict if "methods" not in content else (dict, str)  # a size writes its sets out
    if not isinstance(sets, list) or not all(isinstance(one, fit) for one in sets):
        raise ConfigError(f"The sets in {file} are no list", expected="[[sets]]", hint="the plans in plans/ show how")
    if not isinstance(settings, dict) or not all(isinstance(one, dict) for one in settings.values()):
        raise ConfigError(f"The settings in {file} are no tables", expected="[settings.METHOD]")


def _chosen(one: Any, known: dict[Any, dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The sets that an entry of `sets` means: its own, or sets of the size by name or "*", perhaps with changes.

    `without` lists names that "*" leaves out; a size need not have them.
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
    """A set with paths that start at a folder."""
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
        raise ConfigError(f"The file {path} is no TOML file", got=error, hint="correct it there") from None


def slug_of(name: str) -> str:
    """Turns a name into a part of a file name.

    >>> slug_of("RAG, k=1"), slug_of("Stücke")
    ('RAG-k-1', 'Stücke')
    """
    return re.sub(r"\W+", "-", name).strip("-")[:40]
