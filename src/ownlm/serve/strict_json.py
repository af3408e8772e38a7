"""Bodies of requests, read as strict JSON: what cannot be stored or sent on is refused before anything looks at it."""

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # an escape, which may be half of a character


class _StrictRequest(Request):
    async def json(self) -> Any:
        """The body; an HTTPException where Python's reader would take what is no JSON.

        Of a name that stands twice in an object the last one counts, as in most readers.
        """
        body = await self.body()
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


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)
