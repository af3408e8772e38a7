"""One place and reason for an invalid request, from the errors that pydantic reports.

For a value that fits no branch of a union, pydantic reports the errors of each branch, with the branch's name in the
path. The reported reason is that of the branch that fits best: its first error comes latest.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_NAME = 50  # characters of a name in a message: the client may have made it up

_KINDS = {  # types of pydantic's errors, by the expected value
    "a string": ("string_type",),
    "a whole number": ("int_type", "int_parsing", "int_from_float"),
    "a number": ("float_type", "float_parsing"),
    "true or false": ("bool_type", "bool_parsing"),
    "a list": ("list_type",),
    "an object": ("dict_type", "model_type", "model_attributes_type"),
    "null": ("none_required",),
}
_EXPECTED = {error: expected for expected, errors in _KINDS.items() for error in errors}
_WHY = {"extra_forbidden": "there is no such field; leave it out", "missing": "it is missing"}


@dataclass(frozen=True, slots=True)
class _Step:
    """Part of an error's path: a key or an index of the request, or the name of a union's branch."""

    part: str | int
    is_branch: bool


@dataclass(frozen=True, slots=True)
class _Reason:
    """Reason at one place of the request.

    Attributes:
        path: Keys and indexes that lead to the place.
        why: Reason in words.
        expected: Expected types, where the value has another type.
    """

    path: tuple[str | int, ...]
    why: str
    expected: tuple[str, ...] = ()

    @property
    def rank(self) -> tuple[tuple[int, ...], bool]:
        """How well the branch fits: the place of its error; then whether the value there has the right type."""
        return tuple(part if isinstance(part, int) else 0 for part in self.path), not self.expected


_Error = tuple[Mapping[str, Any], tuple[_Step, ...]]


def describe_errors(errors: Sequence[Mapping[str, Any]], body: Any) -> tuple[str | None, str]:
    """Returns where a request is invalid, and why. Both contain names of fields, but no values of the request.

    Args:
        errors: Errors of pydantic; the first part of each path names the part of the request.
        body: Decoded body of the request.

    Returns:
        The place, such as `messages[0].content`, or None for the whole request; and the reason.

    Source: ours.
    """
    found = _best([(error, _steps(error, body)) for error in errors])
    place = "".join(f"[{one}]" if isinstance(one, int) else f".{one[:MAX_NAME]}" for one in found.path)
    why = f"it must be {_either(found.expected)}" if found.expected else found.why
    return place.removeprefix(".") or None, why


def _best(errors: Sequence[_Error]) -> _Reason:
    """Returns the first error; within a union, that of the branch that fits best. At a tie, fewer errors win."""
    first, steps = errors[0]
    at = next((place for place, step in enumerate(steps) if step.is_branch), None)
    if at is None:
        return _plain(first, tuple(step.part for step in steps))
    branches: dict[str | int, list[_Error]] = {}
    for error, path in errors:
        if path[:at] == steps[:at] and len(path) > at and path[at].is_branch:
            branches.setdefault(path[at].part, []).append((error, (*path[:at], *path[at + 1 :])))
    reasons = [_best(branch) for branch in sorted(branches.values(), key=len)]
    best = max(reasons, key=lambda one: one.rank)
    same = [one for one in reasons if one.rank == best.rank and one.path == best.path]
    return _Reason(best.path, best.why, tuple(dict.fromkeys(kind for one in same for kind in one.expected)))


def _plain(error: Mapping[str, Any], path: tuple[str | int, ...]) -> _Reason:
    kind, context = error["type"], error.get("ctx", {})
    if kind in (
        "union_tag_invalid",
        "union_tag_not_found",
    ):  # its message would quote the value
        path = (*path, str(context["discriminator"]).strip("'"))
        tags = context.get("expected_tags")
        return _Reason(path, f"it must be one of {tags}" if tags else _WHY["missing"])
    if "field" in context:  # a rule for the whole request
        path = (*path, *context["field"])
    expected = context["expected"] if kind == "literal_error" else _EXPECTED.get(kind)
    why = _WHY.get(kind) or str(error["msg"]).removeprefix("Value error, ")
    return _Reason(path, why, (expected,) if expected else ())


def _steps(error: Mapping[str, Any], body: Any) -> tuple[_Step, ...]:
    """Returns an error's path. A name that the request does not have at that place is the name of a branch."""
    source, *parts = error["loc"]
    steps, value = list[_Step](), body
    for place, part in enumerate(parts):
        missing = error["type"] == "missing" and place == len(parts) - 1
        is_key = source != "body" or missing or (isinstance(value, dict) and part in value)
        if isinstance(part, int):
            is_key, value = True, value[part] if isinstance(value, list) and part < len(value) else None
        elif is_key and isinstance(value, dict):
            value = value.get(part)
        steps.append(_Step(part, not is_key))
    return tuple(steps)


def _either(kinds: Iterable[str]) -> str:
    """Joins types as one phrase.

    >>> _either(["a string"]), _either(["a string", "a number", "a list"])
    ('a string', 'a string, a number or a list')
    """
    *most, last = kinds
    return f"{', '.join(most)} or {last}" if most else last
