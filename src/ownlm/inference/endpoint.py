"""Answers to many questions from a model behind an OpenAI-compatible endpoint.

The endpoint is not trusted: it may be slow, silent, wrong or hostile. A request has one deadline for everything, an
answer is read up to a bound, no redirect is followed (it would carry a user's text elsewhere), and nothing that the
endpoint sends reaches an error message.
"""

import asyncio
import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final

import httpx2 as httpx
from anyio.from_thread import start_blocking_portal

from ownlm.errors import ConfigError, OwnlmError
from ownlm.http_client import CONNECT_S, async_client, is_local, retry_after

TIMEOUT_S: Final = 60.0  # for one request, from its connection to the answer's last byte
BACK_OFF_S: Final = (1.0, 4.0)  # before the second and the third try
LONGEST_WAIT_S: Final = 30.0  # however long the endpoint asks to wait
AT_ONCE: Final = 8
IN_A_ROW: Final = 8  # after so many failures in a row the remaining questions are not sent
MAX_BYTES: Final = 2**20

_LATER: Final = "run the same command again later: it goes on from here"
_DOWN: Final = "see that the endpoint runs, and check its URL; the same command goes on from here"
_KEY: Final = "set OWNLM_PROFILE_KEY to a key that the endpoint takes"
_ADDRESS: Final = "check its URL, to which /chat/completions is added, and the model's name"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address, model and key that questions are sent with: POST {url}/chat/completions.

    Args:
        url: the address, such as https://api.example.com/v1.
        model: the model's name at that endpoint.
        key: a key that is sent as a bearer token; None to send none.

    Raises:
        ConfigError: the URL or the key cannot be used.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (wrong := _wrong_url(self.url)) is not None:
            raise ConfigError(
                "The endpoint's URL cannot be used", got=wrong, expected="one such as https://api.example.com/v1"
            )
        if not self.model.strip():
            raise ConfigError("The endpoint's model has no name", hint="name the model")
        if self.key is not None and not (self.key.isascii() and self.key.isprintable() and " " not in self.key):
            raise ConfigError("The endpoint's key cannot be sent", expected="printable ASCII characters, no blanks")

    @property
    def host(self) -> str:
        """The host, with the port where the URL names one."""
        return httpx.URL(self.url).netloc.decode("ascii")

    @property
    def local(self) -> bool:
        """Whether the endpoint is on this machine."""
        return is_local(httpx.URL(self.url))

    @property
    def encrypted(self) -> bool:
        """Whether the connection is encrypted."""
        return httpx.URL(self.url).scheme == "https"


def _wrong_url(url: str) -> str | None:
    """What is wrong with an endpoint's URL. The URL may hold a password, so it is not repeated."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        return "no URL"
    if parts.scheme not in ("http", "https") or not parts.host:
        return "no http or https URL"
    if parts.userinfo:
        return "a URL with a user or password in it; a key goes into OWNLM_PROFILE_KEY"
    return "a URL with '?' or '#' in it" if "?" in url or "#" in url else None


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a question has no answer."""

    got: str
    hint: str = _LATER
    temporary: bool = False  # another try may help
    unreachable: bool = False  # no other question can be answered either
    wait: float | None = None  # seconds that the endpoint asks to wait


_Outcome = tuple[str, str | _Failure]  # a user, and the answer to that user's question


def answers(endpoint: Endpoint, questions: Mapping[str, str]) -> Generator[tuple[str, str | OwnlmError], None, None]:
    """Yields each user's answer, or the error of its request, in the order of arrival.

    Args:
        endpoint: where the questions go, `AT_ONCE` at a time.
        questions: one text by user.

    Raises:
        ConfigError: the proxy of the environment cannot be used.
        OwnlmError: the endpoint is unreachable, or failed many times in a row; the remaining questions are not sent.
    """
    in_a_row, outcomes = 0, SimpleQueue[_Outcome | None]()
    with (
        start_blocking_portal() as portal
    ):  # a thread: the caller may have an event loop; an exception cancels its tasks
        asking = portal.start_task_soon(_ask_all, endpoint, questions, outcomes.put)
        asking.add_done_callback(lambda _: outcomes.put(None))
        for done, (user, outcome) in enumerate(iter(outcomes.get, None), 1):
            if isinstance(outcome, str):
                in_a_row = 0
                yield user, outcome
                continue
            if outcome.unreachable:
                raise OwnlmError(f"{endpoint.host} cannot be reached", got=outcome.got, hint=outcome.hint)
            what = f"{endpoint.host} gave no answer for user {user!r}"
            yield user, OwnlmError(what, got=outcome.got, hint=outcome.hint)
            in_a_row += 1
            if in_a_row == IN_A_ROW and done < len(questions):
                what = f"{endpoint.host} failed {IN_A_ROW} times in a row; the others were not tried"
                raise OwnlmError(what, got=outcome.got, hint=outcome.hint)
        asking.result()


async def _ask_all(endpoint: Endpoint, questions: Mapping[str, str], put: Callable[[_Outcome], None]) -> None:
    left = iter(questions.items())
    async with async_client(httpx.URL(endpoint.url), TIMEOUT_S, endpoint.key) as client, asyncio.TaskGroup() as group:

        async def ask_some() -> None:
            for user, question in left:
                put((user, await _ask(client, endpoint, question)))

        for _ in range(min(AT_ONCE, len(questions))):
            group.create_task(ask_some())


async def _ask(client: httpx.AsyncClient, endpoint: Endpoint, question: str) -> str | _Failure:
    """The outcome of up to three tries."""
    outcome = await _try(client, endpoint, question)
    for wait in BACK_OFF_S:
        if isinstance(outcome, str) or not outcome.temporary:
            break
        await asyncio.sleep(min(outcome.wait or wait, LONGEST_WAIT_S))
        outcome = await _try(client, endpoint, question)
    return outcome


async def _try(client: httpx.AsyncClient, endpoint: Endpoint, question: str) -> str | _Failure:
    url = endpoint.url.rstrip("/") + "/chat/completions"
    request = {"model": endpoint.model, "messages": [{"role": "user", "content": question}]}
    body = bytearray()
    try:
        async with asyncio.timeout(TIMEOUT_S), client.stream("POST", url, json=request) as response:
            if response.status_code != 200:
                return _refusal(response)
            async for part in response.aiter_raw():
                body += part
                if len(body) > MAX_BYTES:
                    return _Failure(f"status 200, and more than {MAX_BYTES:,} bytes of it", _ADDRESS)
    except httpx.ConnectTimeout:
        return _Failure(f"no connection within {CONNECT_S:g} s", _DOWN, temporary=True, unreachable=True)
    except (TimeoutError, httpx.TimeoutException):
        return _Failure(f"no whole answer within {TIMEOUT_S:g} s", temporary=True)
    except (httpx.ConnectError, httpx.ProxyError) as error:
        return _Failure(str(error) or type(error).__name__, _DOWN, unreachable=True)
    except httpx.TransportError:  # its message may repeat the endpoint's words
        return _Failure("a connection that broke, or that speaks no HTTP", temporary=True)
    return _content(bytes(body))


def _refusal(response: httpx.Response) -> _Failure:
    status = response.status_code
    if 300 <= status < 400:
        return _Failure(f"status {status}, a redirect", "redirects are not followed: give the URL that it leads to")
    if status == 429 or status >= 500:
        return _Failure(f"status {status}", temporary=True, wait=retry_after(response))
    return _Failure(f"status {status}", _KEY if status in (401, 403) else _ADDRESS)


def _content(body: bytes) -> str | _Failure:
    """The first choice's text."""
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        return _Failure("status 200, and no JSON", _ADDRESS)
    try:
        content = document["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        return _Failure("status 200, and JSON without choices[0].message.content", _ADDRESS)
    if not isinstance(content, str):
        return _Failure(f"status 200, and a message whose content is a {type(content).__name__}, not a text", _ADDRESS)
    return content
