"""Bodies of requests, read as strict JSON: what cannot be stored or sent on is refused before anything looks at it."""

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

MOST_VALUES = 250_000  # of one body: a reader of more of them, such as millions of `[]`, holds up every other request
_MARKS = (b",", b"[", b"{")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # an escape, which may be half of a character


class _StrictRequest(Request):
    async def json(self) -> Any:
        """The body; an HTTPException where Python's reader would take what is no JSON.

        Of a name that stands twice in an object the last one counts, as in most readers.
        """
        body = await self.body()
        if _is_dense(body):
            words = (
                f"The request has too many values. Expected: {MOST_VALUES:,} at most. Next: send it in several parts."
            )
            raise HTTPException(413, words)
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
    """A route whose body is read as strict JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `APIRoute`."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict


def _is_dense(body: bytes) -> bool:
    """Whether a text in JSON has more than about so many values; commas in its strings do not count."""
    if _marks(body) <= MOST_VALUES:
        return False
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 4 * MOST_VALUES:  # the quotes of a name and of a text for each
        return True
    return _marks(b"".join(plain.split(b'"')[::2])) > MOST_VALUES


def _marks(body: bytes) -> int:
    return sum(map(body.count, _MARKS))


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)
