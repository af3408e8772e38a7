"""JSON Lines: one JSON document per line, for readers that split lines in any way."""

import json
from typing import Any

# Line ends for `str.splitlines` and httpx's `iter_lines` that `json.dumps` does not escape by itself.
_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\u0085\u2028\u2029"}


def json_line(document: Any, *, indent: int | None = None) -> str:
    """One document as one line, its line feed included. Letters of any language stay readable.

    Args:
        indent: for one document as several lines, of which none ends within a text.

    >>> json_line({"text": "Grüße\\u2028"})
    '{"text": "Grüße\\\\u2028"}\\n'
    """
    return json.dumps(document, ensure_ascii=False, indent=indent).translate(_LINE_ENDS) + "\n"
