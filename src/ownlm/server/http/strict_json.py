"""Strict JSON for request bodies: text that cannot be stored or sent on is an error before the route sees it."""

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

MAX_VALUES = 250_000  # in one body: parsing millions of `[]` would delay all other requests
_MARKS = (b",", b"[", b"{")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # an escape that may be half of a character


class _StrictRequest(Request):
    async def json(self) -> Any:
        """Parses the body; an HTTPException also where Python's parser accepts what is no JSON.

        If an object has a name twice, the last value counts, as in most parsers.
        """
        body = await self.body()
        if _is_dense(body):
            message = (
                f"The request has too many values. Expected: {MAX_VALUES:,} at most. Next: send it in several parts."
            )
            raise HTTPException(413, message)
        try:
            content = json.loads(body.decode("utf-8-sig"), parse_constant=_no_number)
            if _SURROGATE.search(body):
                json.dumps(content, ensure_ascii=False).encode()
        except UnicodeError:
            raise HTTPException(400, "The request is wrong: its text is no valid Unicode (UTF-8)") from None
        except RecursionError:
            raise HTTPException(400, "The request is wrong: it is nested too deeply") from None
        except json.JSONDecodeError:
            raise
        except ValueError:  # a number with thousands of digits
            raise HTTPException(400, "The request is wrong: a number in it is too long, or is none") from None
        return content


class StrictRoute(APIRoute):
    """Route with strict JSON bodies."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns the handler of `APIRoute`, which gets a strict request."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict


def _is_dense(body: bytes) -> bool:
    """Returns whether JSON has more than about MAX_VALUES values; commas within strings do not count."""
    if _marks(body) <= MAX_VALUES:
        return False
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 4 * MAX_VALUES:  # four quotes for each value: those of its name and its text
        return True
    return _marks(b"".join(plain.split(b'"')[::2])) > MAX_VALUES


def _marks(body: bytes) -> int:
    return sum(map(body.count, _MARKS))


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)
