"""Templates: text with {fields} in it."""

from collections.abc import Iterator, Mapping
from string import Formatter


def template_fields(template: str) -> tuple[str, ...]:
    """The names of a template's fields, each once, in their order.

    Raises:
        ValueError: a brace is unmatched, or a field is not a plain name.

    >>> template_fields("title: {title}\\narticle: {text}")
    ('title', 'text')
    """
    names = (name for line in template.splitlines() for _, name in _parts(line) if name is not None)
    return tuple(dict.fromkeys(names))


def fill(template: str, values: Mapping[str, str]) -> str:
    """Fills in a template. A line with fields of which none has a value is left out.

    >>> fill("title: {title}\\narticle: {text}", {"text": "Rain {again}"})
    'article: Rain {again}'
    """
    lines = []
    for line in template.splitlines():
        parts = list(_parts(line))
        names = [name for _, name in parts if name is not None]
        if not names or any(name in values for name in names):
            lines.append("".join(literal + values.get(name or "", "") for literal, name in parts))
    return "\n".join(lines)


def _parts(line: str) -> Iterator[tuple[str, str | None]]:
    """Pieces of plain text, each with the field that follows it."""
    for literal, name, form, conversion in Formatter().parse(line):
        if name is not None and (not name.isidentifier() or form or conversion):
            raise ValueError("a field is written {name}, with a plain name; a brace itself is doubled")
        yield literal, name
