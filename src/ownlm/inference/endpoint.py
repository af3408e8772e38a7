"""Questions of many people, answered by a model behind an OpenAI-compatible endpoint.

The endpoint is a stranger: it may be slow, silent, wrong or hostile. A request has one deadline for everything, an
answer is read up to a bound, no redirect is followed (it would carry a person's text elsewhere), and nothing that the
endpoint says reaches an error message.
"""

import asyncio
import ipaddress
import json
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from queue import SimpleQueue
from threading import Thread
from time import time
from typing import Any, Final

import httpx2 as httpx

from ownlm import __version__
from ownlm.errors import ConfigError, OwnlmError

TIMEOUT_S: Final = 60.0  # of one request, from its connection to the answer's last byte
CONNECT_S: Final = 10.0
BACK_OFF_S: Final = (1.0, 4.0)  # before the second and the third try
LONGEST_WAIT_S: Final = 30.0  # however long the endpoint says to wait
AT_ONCE: Final = 8
IN_A_ROW: Final = 8  # after so many failures in a row the others are not tried
MAX_BYTES: Final = 2**20

_LATER: Final = "run the same command again later: it goes on from here"
_DOWN: Final = "see that the endpoint runs, and check --profile-url; the same command goes on from here"
_KEY: Final = "set OWNLM_PROFILE_KEY to a key that the endpoint takes"
_ADDRESS: Final = "check --profile-url, to which /chat/completions is added, and --profile-model"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where questions go: POST {url}/chat/completions.

    Args:
        url: such as https://api.example.com/v1.
        model: its name there.
        key: sent as a bearer token, if there is one.

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
            raise ConfigError("The endpoint's model has no name", hint="name it with --profile-model")
        if self.key is not None and not (self.key.isascii() and self.key.isprintable() and " " not in self.key):
            raise ConfigError("The endpoint's key cannot be sent", expected="printable ASCII characters, no blanks")

    @property
    def host(self) -> str:
        """Its host, with the port where the URL names one."""
        return httpx.URL(self.url).netloc.decode("ascii")

    @property
    def local(self) -> bool:
        """Whether it is this machine."""
        host = httpx.URL(self.url).host
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def encrypted(self) -> bool:
        """Whether nobody on the way can read along."""
        return httpx.URL(self.url).scheme == "https"


def _wrong_url(url: str) -> str | None:
    """What is wrong with an endpoint's URL. It may hold a password, so it is not repeated."""
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
    """Why there is no answer."""

    got: str
    hint: str = _LATER
    passing: bool = False  # another try may help
    nobody: bool = False  # nobody is there at all
    wait: float | None = None  # seconds that the endpoint asks to wait


def answers(endpoint: Endpoint, questions: Mapping[str, str]) -> Generator[tuple[str, str | OwnlmError], None, None]:
    """Each person's answer, or what went wrong with it, as they come; some requests are under way at once.

    Args:
        questions: by user.

    Raises:
        OwnlmError: nobody is at that address, or it failed many times in a row; the others are not tried.
    """
    in_a_row = 0
    with closing(_outcomes(endpoint, questions)) as outcomes:
        for done, (user, outcome) in enumerate(outcomes, 1):
            if isinstance(outcome, str):
                in_a_row = 0
                yield user, outcome
                continue
            if outcome.nobody:
                raise OwnlmError(f"Nobody answers at {endpoint.host}", got=outcome.got, hint=outcome.hint)
            what = f"{endpoint.host} gave no answer for user {user!r}"
            yield user, OwnlmError(what, got=outcome.got, hint=outcome.hint)
            in_a_row += 1
            if in_a_row == IN_A_ROW and done < len(questions):
                what = f"{endpoint.host} failed {IN_A_ROW} times in a row; the others were not tried"
                raise OwnlmError(what, got=outcome.got, hint=outcome.hint)


def _outcomes(endpoint: Endpoint, questions: Mapping[str, str]) -> Generator[tuple[str, str | _Failure], None, None]:
    """What came of each request. A thread of its own runs them, as the caller may have an event loop already."""
    came = SimpleQueue[tuple[str, str | _Failure] | Exception | None]()

    async def work() -> None:
        try:
            await _send_all(endpoint, questions, came.put)
        except Exception as error:
            came.put(error)
        finally:
            came.put(None)

    loop = asyncio.new_event_loop()
    task = loop.create_task(work())
    thread = Thread(target=lambda: loop.run_until_complete(asyncio.wait([task])), name="endpoint", daemon=True)
    thread.start()
    try:
        while (outcome := came.get()) is not None:
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome
    finally:  # done, Ctrl-C, or the caller had enough
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()


async def _send_all(
    endpoint: Endpoint, questions: Mapping[str, str], tell: Callable[[tuple[str, str | _Failure]], None]
) -> None:
    left = iter(questions.items())
    async with _client(endpoint) as client, asyncio.TaskGroup() as group:

        async def send_some() -> None:
            for user, question in left:
                tell((user, await _answer(client, endpoint, question)))

        for _ in range(min(AT_ONCE, len(questions))):
            group.create_task(send_some())


def _client(endpoint: Endpoint) -> httpx.AsyncClient:
    headers = {"Accept-Encoding": "identity", "User-Agent": f"ownlm/{__version__}"}  # nothing that unpacks to gigabytes
    if endpoint.key is not None:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    timeout = httpx.Timeout(TIMEOUT_S, connect=CONNECT_S)
    transport = httpx.AsyncHTTPTransport() if endpoint.local else None  # where one is given, no proxy is used
    try:
        return httpx.AsyncClient(headers=headers, timeout=timeout, transport=transport, follow_redirects=False)
    except (ImportError, ValueError):
        raise ConfigError(
            "The proxy that the environment names cannot be used",
            expected="an http or https URL in HTTPS_PROXY or HTTP_PROXY",
        ) from None


async def _answer(client: httpx.AsyncClient, endpoint: Endpoint, question: str) -> str | _Failure:
    """What one of up to three tries brought."""
    outcome = await _try(client, endpoint, question)
    for wait in BACK_OFF_S:
        if isinstance(outcome, str) or not outcome.passing:
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
        return _Failure(f"no connection within {CONNECT_S:g} s", _DOWN, passing=True, nobody=True)
    except (TimeoutError, httpx.TimeoutException):
        return _Failure(f"no whole answer within {TIMEOUT_S:g} s", passing=True)
    except (httpx.ConnectError, httpx.ProxyError) as error:
        return _Failure(str(error) or type(error).__name__, _DOWN, nobody=True)
    except httpx.TransportError:  # its words may be the endpoint's
        return _Failure("a connection that broke, or that speaks no HTTP", passing=True)
    return _content(bytes(body))


def _refusal(response: httpx.Response) -> _Failure:
    status = response.status_code
    if 300 <= status < 400:
        return _Failure(f"status {status}, a redirect", "redirects are not followed: give the URL that it leads to")
    passing = status == 429 or status >= 500
    wait = _seconds(response.headers.get("Retry-After", "")) if passing else None
    hint = _LATER if passing else _KEY if status in (401, 403) else _ADDRESS
    return _Failure(f"status {status}", hint, passing=passing, wait=wait)


def _seconds(retry_after: str) -> float | None:
    """How long a Retry-After header asks to wait: a number of seconds, or a date."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time())
    except (ValueError, OverflowError):
        return None


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
