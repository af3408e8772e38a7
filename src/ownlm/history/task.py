"""Tasks: an instruction, an input template, an answer template, labels and metrics."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ownlm.errors import NotFoundError, TaskError, nearest
from ownlm.filesystem import read_regular
from ownlm.history.template import fill, template_fields
from ownlm.history.values import pick_fields

Metric = Literal["accuracy", "f1_macro", "mae", "rmse", "rouge1", "rougeL"]

OPTION_FIELDS: Final = ("option_1", "option_2")  # input fields of a task that lets one choose between two options
_COLUMNS: Final = frozenset({"user_id", "id", "time", "date", "input", "gold", "profile", "query"})  # of data files
_PATTERN_GROUPS: Final = frozenset({"instruction", "labels"})


class Options(BaseModel):
    """The record fields that hold the right and the wrong option of an example."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    right: str
    wrong: str


class Task(BaseModel):
    """A task: the instruction, the input and the answer that make up an example.

    Attributes:
        name: the task's name, of letters, digits, '.', '_' and '-'.
        instruction: the first part of a prompt; `{labels}` in it is replaced by the labels.
        input: template of the input.
        answer: template of the answer: a cue, which ends the prompt, and one field.
        labels: the possible answers; None for free text.
        metrics: the metrics of an evaluation.
        max_new_tokens: the maximum length of a generated answer.
        one_line: whether a generated answer ends with its first line.
        optional: input fields that may be missing in a record or query.
        query: pattern of query texts that carry their own instruction; its named groups are input fields, and
            `instruction` and `labels`. It must match the whole text, and '.' matches line ends too.
        options: for a choice between two: input has option_1 and option_2, and labels name the first and the second.

    Source: ours.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    instruction: str = Field(pattern=r"\S")
    input: str
    answer: str
    labels: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    metrics: tuple[Metric, ...] = ()
    max_new_tokens: int = Field(64, ge=1)
    one_line: bool = False
    optional: tuple[str, ...] = ()
    query: str | None = None
    options: Options | None = None

    @model_validator(mode="after")
    def _check(self) -> "Task":
        try:
            _check_fields(self)
        except ValueError as error:
            raise ValueError(f"input and answer: {error}") from None
        _check_labels(self)
        if self.query is not None:
            _check_pattern(self, self.query)
        if self.options is not None:
            _check_options(self, self.options)
        return self

    @property
    def input_fields(self) -> tuple[str, ...]:
        """Names of the fields of the input."""
        return template_fields(self.input)

    @property
    def required_inputs(self) -> tuple[str, ...]:
        """Names of the input fields that a query must have."""
        return tuple(name for name in self.input_fields if name not in self.optional)

    @property
    def answer_field(self) -> str:
        """Name of the field that holds the answer."""
        return template_fields(self.answer)[0]

    @property
    def cue(self) -> str:
        """The end of the prompt, before the answer."""
        return fill(self.answer, {self.answer_field: ""}).strip()

    @property
    def instruction_text(self) -> str:
        """The instruction with the labels filled in."""
        return self.instruction.strip().replace("{labels}", ", ".join(self.labels or ()))

    @property
    def record_fields(self) -> tuple[str, ...]:
        """Names of the fields a record may have: the input and answer fields, or the fields of the options."""
        if self.options is None:
            return (*self.input_fields, self.answer_field)
        given = (name for name in self.input_fields if name not in OPTION_FIELDS)
        return (*given, self.options.right, self.options.wrong)

    @property
    def required_in_records(self) -> tuple[str, ...]:
        """Names of the fields that a record must have, the answer included; fields of options may be missing."""
        return tuple(
            name
            for name in self.record_fields
            if name in self.required_inputs or (self.options is None and name == self.answer_field)
        )


def _check_fields(task: Task) -> None:
    inputs, answers = template_fields(task.input), template_fields(task.answer)
    if not inputs:
        raise ValueError("the input has no field; write it as 'article: {text}'")
    *before, after = fill(task.answer, dict.fromkeys(answers, "\0")).split("\0")
    if len(answers) != 1 or len(before) != 1 or not before[0].strip() or after.strip():
        raise ValueError("the answer is a cue and then exactly one field; write it as 'category: {category}'")
    if answers[0] in inputs:
        raise ValueError(f"the answer {answers[0]!r} stands in the input")
    if unknown := set(task.optional) - set(inputs):
        raise ValueError(f"optional names {_listed(unknown)}, which the input does not have")
    options = (task.options.right, task.options.wrong) if task.options else ()
    names = {*inputs, *answers, *options}
    if taken := names & (_COLUMNS | (_PATTERN_GROUPS if task.query else frozenset())):
        raise ValueError(f"no field may be called {_listed(taken)}: data files use the name for something else")


def _check_labels(task: Task) -> None:
    if task.labels is None:
        if "{labels}" in task.instruction:
            raise ValueError("the instruction contains {labels}, and the task has no labels")
    elif len(set(task.labels)) < len(task.labels) or any(label != label.strip() or not label for label in task.labels):
        raise ValueError("labels must differ from each other, must not be empty, and must have no blanks around them")


def _check_pattern(task: Task, query: str) -> None:
    try:
        groups = set(re.compile(query, re.DOTALL).groupindex)
    except re.error as error:
        raise ValueError(f"query is not a regular expression: {error}") from None
    if unknown := groups - set(task.input_fields) - _PATTERN_GROUPS:
        raise ValueError(f"query has the groups {_listed(unknown)}, which are not input fields")
    if missing := set(task.required_inputs) - groups:
        raise ValueError(f"query lacks the groups {_listed(missing)}")


def _check_options(task: Task, options: Options) -> None:
    if not set(OPTION_FIELDS) <= set(task.required_inputs) or len(task.labels or ()) != 2:
        raise ValueError("a task with options has the inputs {option_1} and {option_2}, and two labels")
    if options.right == options.wrong or {options.right, options.wrong} & set(task.input_fields):
        raise ValueError("the fields of the right and the wrong option differ, and neither stands in the input")


def _listed(names: set[str] | frozenset[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))


def shipped_tasks() -> list[str]:
    """Names of the tasks in the package."""
    names = (file.name for file in (files("ownlm.history") / "tasks").iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def load_task(name_or_path: str | Path) -> Task:
    """Loads a task of the package by name, or a task file (TOML).

    Raises:
        NotFoundError: there is no such task or file.
        TaskError: the file is not a valid task.

    >>> load_task("LaMP_4").answer_field
    'title'
    """
    name = str(name_or_path)
    if name in shipped_tasks():
        text = (files("ownlm.history") / "tasks" / f"{name}.toml").read_bytes()
    elif Path(name).exists() and not Path(name).is_dir():
        text = _read(Path(name))
    else:
        raise no_task(name, shipped_tasks())
    try:
        spec = tomllib.loads(text.decode("utf-8"))
    except ValueError as error:  # of TOML or of UTF-8
        raise TaskError(f"The task file {name} is not TOML", got=error, hint="correct it there") from None
    return _validated(spec, f"The task {name}")


def no_task(name: str, known: Sequence[str]) -> NotFoundError:
    """The error for an unknown task name."""
    near = nearest(name, known)
    meant = "" if near is None else f"; did you mean {near!r}?"
    write = "write a task file: `name`, `instruction`, `input`, `answer`, and `labels` where the answers are few"
    return NotFoundError(
        f"There is no task {'file ' if name.endswith('.toml') else ''}{name!r}{meant}",
        expected=f"one of {', '.join(known)}, or the path of a TOML file",
        hint=write if near is None else None,
    )


def with_instruction(task: Task, instruction: str | None, labels: tuple[str, ...] | None) -> Task:
    """A copy of the task with another instruction and other labels; None keeps what the task has.

    Raises:
        TaskError: the labels are empty, or do not fit the task.
    """
    changes = {"instruction": instruction, "labels": labels}
    spec = task.model_dump() | {name: value for name, value in changes.items() if value is not None}
    return _validated(spec, f"The task {task.name} with the data's own instruction and labels")


def parse_query(task: Task, text: str) -> tuple[dict[str, str], str | None, tuple[str, ...] | None]:
    """Splits a query's text into its input fields, and its own instruction and labels where it has them.

    A text that the task's `query` pattern does not match is the value of the only required input field (of the only
    field, where none is required). Where several are required, it is a JSON object with them; where some are optional,
    it may be one.

    Raises:
        TaskError: the text is empty or lacks a field. The message does not repeat the text.

    >>> parse_query(load_task("LaMP_4"), "Generate a headline for the following article: Rain again.")
    ({'text': 'Rain again.'}, 'Generate a headline for the following article', None)
    >>> parse_query(load_task("LaMP_4"), "Rain again.")
    ({'text': 'Rain again.'}, None, None)
    """
    match = re.compile(task.query, re.DOTALL).fullmatch(text.strip()) if task.query else None
    if match is None:
        return parse_input(task, text), None, None
    fields = _picked(task, match.groupdict())
    groups = match.groupdict(default="")
    instruction = groups.get("instruction", "").strip()
    labels = tuple(label.strip() for label in groups.get("labels", "").split(",") if label.strip())
    return fields, instruction or None, labels or None


def parse_input(task: Task, text: str) -> dict[str, str]:
    """`parse_query` without the task's pattern, for untrusted texts: a pattern may take quadratic time.

    Raises:
        TaskError: the text is empty or lacks a field. The message does not repeat the text.
    """
    return _picked(task, _unmatched(task, text))


def _picked(task: Task, given: Mapping[str, Any]) -> dict[str, str]:
    try:
        return pick_fields(given, task.input_fields, task.required_inputs)
    except ValueError as error:
        raise TaskError(
            f"The query does not fit task {task.name!r}: {error}", hint="give it as the task wants it"
        ) from None


def _unmatched(task: Task, text: str) -> Mapping[str, Any]:
    fields = task.required_inputs or task.input_fields
    given = _object(text) if len(task.input_fields) > 1 else None
    if len(fields) == 1 and not (given and set(fields) <= given.keys() <= set(task.input_fields)):
        return {fields[0]: text}
    expected = f"a JSON object with {', '.join(map(repr, fields))}"
    if given is None:
        raise TaskError(f"The query does not fit task {task.name!r}", got="another text", expected=expected)
    if unknown := set(given) - set(task.input_fields):
        raise TaskError(f"The query has {len(unknown)} fields that task {task.name!r} does not have", expected=expected)
    return given


def _object(text: str) -> dict[str, Any] | None:
    """Parses a JSON object; None for another text."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return given if isinstance(given, dict) else None


def _read(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise TaskError(f"The task file {path} cannot be read", got=error.strerror) from None


def _validated(spec: Mapping[str, Any], what: str) -> Task:
    try:
        return Task.model_validate(spec)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        value = first["input"]
        if first["type"] == "extra_forbidden":
            known = list((Options if len(first["loc"]) > 1 else Task).model_fields)
            near = nearest(str(first["loc"][-1]), known)
            meant = "" if near is None else f"; did you mean {near!r}?"
            what, expected = f"{what} has the unknown key {place!r}{meant}", f"one of: {', '.join(known)}"
            raise TaskError(what, expected=expected, hint="correct the key, or leave it out") from None
        missing = first["type"] == "missing"
        raise TaskError(
            f"{what} is wrong" + (f" at {place!r}" if place else ""),
            got=repr(value) if isinstance(value, str | int | float | list) else None,
            expected="the key, which is missing" if missing else first["msg"].removeprefix("Value error, "),
            hint="a task file has `name`, `instruction`, `input`, `answer`, and perhaps `labels` and `metrics`",
        ) from None
