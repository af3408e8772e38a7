"""The reason for which a request is refused, out of the errors that pydantic reports for it.

For a value that fits no branch of a union pydantic reports the errors of every branch, with the name of the branch
within the path. The reason is the error of the branch that fits best: the one whose first error comes latest.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LONGEST = 50  # letters of a name, which the client may have made up

_KINDS = {  # of pydantic's errors, by what they expect
    "a string": ("string_type",),
    "a whole number": ("int_type", "int_parsing", "int_from_float"),
    "a number": ("float_type", "float_parsing"),
    "true or false": ("bool_type", "bool_parsing"),
    "a list": ("list_type",),
    "an object": ("dict_type", "model_type", "model_attributes_type"),
    "null": ("none_required",),
}
_EXPECTED = {error: expected for expected, errors in _KINDS.items() for error in errors}
_WHY = {"extra_forbidden": "nothing here is called so; leave it out", "missing": "it is missing"}


@dataclass(frozen=True, slots=True)
class _Step:
    """A part of an error's path: a key or index of the request, or else the name of a union's branch."""

    part: str | int
    is_branch: bool


@dataclass(frozen=True, slots=True)
class _Reason:
    """What is wrong at one place.

    Attributes:
        expected: what would be right, where the value is of another type.
    """

    path: tuple[str | int, ...]
    why: str
    expected: tuple[str, ...] = ()

    @property
    def rank(self) -> tuple[tuple[int, ...], bool]:
        """How far the branch fits: up to which place; a value of the right type fits better there."""
        return tuple(part if isinstance(part, int) else 0 for part in self.path), not self.expected


_Error = tuple[Mapping[str, Any], tuple[_Step, ...]]


def describe_errors(errors: Sequence[Mapping[str, Any]], body: Any) -> tuple[str | None, str]:
    """Where a request is wrong, and why; nothing of what was sent, but for names.

    Args:
        errors: as pydantic reports them; the first part of each path says which part of the request is meant.
        body: of the request, decoded.

    Returns:
        The place, such as `messages[0].content`, None for the whole; and the reason.

    Source: ours.
    """
    found = _best([(error, _steps(error, body)) for error in errors])
    place = "".join(f"[{one}]" if isinstance(one, int) else f".{one[:LONGEST]}" for one in found.path)
    why = f"it must be {_either(found.expected)}" if found.expected else found.why
    return place.removeprefix(".") or None, why


def _best(errors: Sequence[_Error]) -> _Reason:
    """The first error; if a union reports it, the error of the branch that fits best. At a tie, fewer errors win."""
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
    if kind in ("union_tag_invalid", "union_tag_not_found"):  # of a discriminated union; its words quote the value
        path = (*path, str(context["discriminator"]).strip("'"))
        tags = context.get("expected_tags")
        return _Reason(path, f"it must be one of {tags}" if tags else _WHY["missing"])
    if "field" in context:  # of a rule for the whole request
        path = (*path, *context["field"])
    expected = context["expected"] if kind == "literal_error" else _EXPECTED.get(kind)
    why = _WHY.get(kind) or str(error["msg"]).removeprefix("Value error, ")
    return _Reason(path, why, (expected,) if expected else ())


def _steps(error: Mapping[str, Any], body: Any) -> tuple[_Step, ...]:
    """An error's path. A name that the request does not have there is that of a branch."""
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
    """Kinds of values as one phrase.

    >>> _either(["a string"]), _either(["a string", "a number", "a list"])
    ('a string', 'a string, a number or a list')
    """
    *most, last = kinds
    return f"{', '.join(most)} or {last}" if most else last
