"""One file over https. A cut download goes on where it stopped; a file has its name only when it is whole and right.

The server is a stranger: it may cut, stall, change the file meanwhile, or answer with a page instead of data. What has
come lies in NAME.part, and what it is a part of in NAME.part.json; both go when the file is whole, or turns out wrong.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import httpx2 as httpx

from ownlm import __version__
from ownlm.errors import ConfigError, DataError
from ownlm.importers.part import Part, Source, sha256_of, validator_of
from ownlm.progress import Progress, silent

CONNECT_S: Final = 10.0
SILENCE_S: Final = 60.0  # without a byte
BACK_OFF_S: Final = (1.0, 4.0, 15.0)  # before tries that bring nothing new; one that does begins to count anew
LONGEST_WAIT_S: Final = 60.0  # however long the server says to wait
MAX_BYTES: Final = 8 * 2**30
MAX_REDIRECTS: Final = 5

_LATER: Final = "run the same command again later: it goes on from here"
_ADDRESS: Final = "check the address; the data may have moved"


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why the file is not there."""

    got: str
    hint: str = _LATER
    passing: bool = False  # another try may help
    wait: float | None = None  # seconds that the server asks to wait


def fetch_file(url: str, path: Path, *, check: Callable[[Path], None], progress: Progress = silent) -> bool:
    """Fetches a file, unless it is there.

    Safe to stop and to kill at any time: the same call goes on. Bytes that are there already are fetched again if the
    server cannot send the rest alone, or the file has changed there (Range with If-Range).

    Args:
        url: https; or http, for a server on this machine.
        path: where it goes; its folder is made.
        check: raises DataError where the file, under a temporary name, is not what it should be.
        progress: told of megabytes.

    Returns:
        Whether it was fetched.

    Raises:
        ConfigError: the URL cannot be used.
        DataError: the server does not give the file, it is not what it should be, or it cannot be written.

    Source: ours.
    """
    address = check_url(url)
    part = Part(path)
    try:
        if path.exists():
            part.clear()
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        with _client(address) as client:
            _fetch(client, address, part, progress)
        part.finish(check)
    except OSError as error:
        raise DataError(
            f"The file {path} cannot be written",
            got=error.strerror or type(error).__name__,
            hint="make room there, then run the same command again: it goes on from here",
        ) from None
    return True


def check_url(url: str) -> httpx.URL:
    """A URL that a file may be fetched from. What is wrong with another is told without it: it may hold a password.

    Raises:
        ConfigError: it is none.
    """
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        parts = httpx.URL("")
    if not _trusted(parts) or parts.userinfo or "?" in url or "#" in url:
        raise ConfigError(
            "The URL to fetch from cannot be used", expected="https://, a host and a path; http:// for localhost alone"
        )
    return parts


def _trusted(url: httpx.URL) -> bool:
    return bool(url.host) and (url.scheme == "https" or (url.scheme == "http" and _local(url)))


def _local(url: httpx.URL) -> bool:
    return url.host in ("localhost", "127.0.0.1", "::1")


def _client(url: httpx.URL) -> httpx.Client:
    # Ranges count the bytes as they lie there, so nothing is to be packed on the way.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"ownlm/{__version__}"}
    timeout = httpx.Timeout(SILENCE_S, connect=CONNECT_S)
    transport = httpx.HTTPTransport() if _local(url) else None  # where one is given, no proxy is used
    try:
        return httpx.Client(headers=headers, timeout=timeout, transport=transport, follow_redirects=False)
    except (ImportError, ValueError):
        raise ConfigError(
            "The proxy that the environment names cannot be used",
            expected="an http or https URL in HTTPS_PROXY or HTTP_PROXY",
        ) from None


def _fetch(client: httpx.Client, url: httpx.URL, part: Part, progress: Progress) -> None:
    """Tries until all bytes are there."""
    tries, most = 0, part.size
    while not part.whole(str(url)):
        failure = _try(client, url, part, progress)
        if failure is None:
            break
        tries, most = (0, part.size) if part.size > most else (tries + 1, most)
        if not failure.passing or tries > len(BACK_OFF_S):
            raise DataError(f"{url} cannot be fetched", got=failure.got, hint=failure.hint)
        progress("trying again", 0, 0, f"after {failure.got}")
        time.sleep(min(failure.wait or BACK_OFF_S[max(tries - 1, 0)], LONGEST_WAIT_S))


def _try(client: httpx.Client, url: httpx.URL, part: Part, progress: Progress) -> _Failure | None:
    """One request, for what is missing; None once the body has ended as it should."""
    source = part.source
    # A part of another file, or one that the server could not tell from another, is no beginning.
    have = part.size if source and source.url == str(url) and source.validator else 0
    ranged = {"Range": f"bytes={have}-", "If-Range": source.validator or ""} if have and source else {}
    try:
        with _response(client, url, ranged) as response:
            if isinstance(response, _Failure):
                return response
            if response.status_code == 416 or (response.status_code == 206 and not _continues(response, part, have)):
                part.clear()
                return _Failure(f"status {response.status_code}, of another file than before", passing=True)
            if failure := _refusal(response):
                return failure
            if response.status_code == 200:
                part.begin(_source(url, response))
            return _copy(response, part, progress)
    except httpx.TimeoutException:
        return _Failure(f"nothing for {SILENCE_S:g} s", passing=True)
    except httpx.ProxyError:
        return _Failure("a proxy that does not let it through", "check HTTPS_PROXY and the network")
    except httpx.ConnectError:
        return _Failure(
            f"no connection to {url.host}", "check the network and the address, then run the same again", True
        )
    except httpx.TransportError:  # its words may be the server's
        return _Failure("a connection that failed or was cut", f"check the network; {_LATER}", passing=True)


@contextmanager
def _response(client: httpx.Client, url: httpx.URL, ranged: dict[str, str]) -> Iterator[httpx.Response | _Failure]:
    """The answer at the end of the redirects. None of them leads off https."""
    at = url
    for _ in range(MAX_REDIRECTS + 1):
        response = client.send(client.build_request("GET", at, headers=ranged), stream=True)
        try:
            if response.status_code not in (301, 302, 303, 307, 308):
                yield response
                return
            try:
                at = at.join(response.headers.get("Location", ""))
            except httpx.InvalidURL:
                at = httpx.URL("")
        finally:
            response.close()
        if not _trusted(at) or (_local(at) and not _local(url)):
            yield _Failure("a redirect to an address that is not https", _ADDRESS)
            return
    yield _Failure(f"more than {MAX_REDIRECTS} redirects", _ADDRESS)


def _continues(response: httpx.Response, part: Part, have: int) -> bool:
    """Whether a 206 brings the bytes after those that are there, of the same file."""
    source, said = part.source, response.headers.get("Content-Range", "")
    size = source.size if source else None
    if not have or not said.startswith(f"bytes {have}-") or (size is not None and not said.endswith(f"/{size}")):
        return False
    validator = validator_of(response.headers)
    return validator is None or source is None or validator == source.validator


def _refusal(response: httpx.Response) -> _Failure | None:
    """Why this answer is not the file."""
    status = response.status_code
    if status == 429 or status >= 500:
        return _Failure(f"status {status}", passing=True, wait=_seconds(response.headers.get("Retry-After", "")))
    if status not in (200, 206):
        return _Failure(f"status {status}", _ADDRESS)
    if response.headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml")):
        return _Failure(f"status {status}, and a web page instead of data", _ADDRESS)
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        return _Failure(f"status {status}, and packed bytes, which were not asked for", _ADDRESS)
    length = response.headers.get("Content-Length", "0")
    if not length.isdigit() or int(length) > MAX_BYTES:
        return _Failure(f"status {status}, and a file of more than {MAX_BYTES:,} bytes", _ADDRESS)
    return None


def _source(url: httpx.URL, response: httpx.Response) -> Source:
    """What a whole answer says of its file."""
    length = response.headers.get("Content-Length")
    return Source(
        str(url), int(length) if length else None, validator_of(response.headers), sha256_of(response.headers)
    )


def _copy(response: httpx.Response, part: Part, progress: Progress) -> _Failure | None:
    size = part.source.size if part.source else None
    with part.appending() as file:
        done = file.tell()
        for piece in response.iter_raw():
            file.write(piece)
            done += len(piece)
            if done > min(size or MAX_BYTES, MAX_BYTES):
                file.close()
                part.clear()
                return _Failure(f"more than the {size or MAX_BYTES:,} bytes that it may have", _ADDRESS)
            progress(f"{part.path.name}, MB", done / 1e6, (size or done) / 1e6)
    if size is not None and done < size:
        return _Failure("a connection that was cut", passing=True)
    return None


def _seconds(retry_after: str) -> float | None:
    """How long a Retry-After header asks to wait: a number of seconds, or a date."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
