"""JSON Lines: one JSON document per line, for every way of splitting lines."""

import json
from typing import Any

# line ends of `str.splitlines` and httpx's `iter_lines` that `json.dumps` does not escape
_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\u0085\u2028\u2029"}


def json_line(document: Any, *, indent: int | None = None) -> str:
    """One document as one line with a line feed; letters of all languages stay unescaped.

    Args:
        indent: spaces of indentation of a document over several lines; None for one line.

    >>> json_line({"text": "Grüße\\u2028"})
    '{"text": "Grüße\\\\u2028"}\\n'
    """
    return json.dumps(document, ensure_ascii=False, indent=indent).translate(_LINE_ENDS) + "\n"
