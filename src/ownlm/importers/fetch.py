"""Downloads one file over https. An interrupted download continues where it stopped.

The server is not trusted: it may cut, stall, change the file between two tries, or answer with a page instead of data.
The bytes so far lie in NAME.part, and their source in NAME.part.json; the file gets its name when it is whole
and checked.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2 as httpx

from ownlm.errors import ConfigError, DataError
from ownlm.http_client import is_local, retry_after, sync_client
from ownlm.importers.imported import unwritable
from ownlm.importers.part import Part, Source, sha256_of, validator_of
from ownlm.progress import Progress, silent

SILENCE_S: Final = 60.0  # without a byte
BACK_OFF_S: Final = (1.0, 4.0, 15.0)  # before tries that bring nothing new; one that does starts the count again
LONGEST_WAIT_S: Final = 60.0  # however long the server asks to wait
MAX_BYTES: Final = 8 * 2**30
MAX_REDIRECTS: Final = 5

_LATER: Final = "try again later: the download continues"
_ADDRESS: Final = "check the address; the data may have moved"


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a try did not bring the whole file."""

    got: str
    hint: str = _LATER
    temporary: bool = False  # another try may help
    wait: float | None = None  # seconds that the server asks to wait


def fetch_file(url: str, path: Path, *, check: Callable[[Path], None], progress: Progress = silent) -> bool:
    """Downloads a file, unless it exists.

    Safe to stop and to kill at any time: the same call goes on. Bytes are downloaded again if the server cannot send
    the rest alone, or if the file has changed there (Range with If-Range).

    Args:
        url: an https address; http is for a server on this machine.
        path: the file to write; its folder is made.
        check: a function of the downloaded file, under a temporary name, that raises DataError for a wrong one.
        progress: a function that is called with the megabytes so far.

    Returns:
        Whether it was downloaded.

    Raises:
        ConfigError: the URL cannot be used.
        DataError: the server does not give the file, the file is a wrong one, or it cannot be written.

    Source: ours.
    """
    address = check_url(url)
    part = Part(path)
    try:
        if path.exists():
            part.clear()
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        with sync_client(address, SILENCE_S) as client:
            _fetch(client, address, part, progress)
        part.finish(check)
    except OSError as error:
        raise unwritable(path, error) from None
    return True


def check_url(url: str) -> httpx.URL:
    """Parses a URL that a file may be downloaded from. Errors do not repeat it: it may hold a password.

    Raises:
        ConfigError: the URL is not https with a host, or has a user, a query or a fragment.
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
    return bool(url.host) and (url.scheme == "https" or (url.scheme == "http" and is_local(url)))


def _fetch(client: httpx.Client, url: httpx.URL, part: Part, progress: Progress) -> None:
    """Tries until all bytes have come."""
    tries, most = 0, part.size
    while not part.whole(str(url)):
        failure = _try(client, url, part, progress)
        if failure is None:
            break
        tries, most = (0, part.size) if part.size > most else (tries + 1, most)
        if not failure.temporary or tries > len(BACK_OFF_S):
            raise DataError(f"{url} cannot be fetched", got=failure.got, hint=failure.hint)
        progress("trying again", 0, 0, f"after {failure.got}")
        time.sleep(min(failure.wait or BACK_OFF_S[max(tries - 1, 0)], LONGEST_WAIT_S))


def _try(client: httpx.Client, url: httpx.URL, part: Part, progress: Progress) -> _Failure | None:
    """Requests the missing bytes; None once the body has ended as it should."""
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
                return _Failure(f"status {response.status_code}, of another file than before", temporary=True)
            if failure := _refusal(response):
                return failure
            if response.status_code == 200:
                part.begin(_source(url, response))
            return _copy(response, part, progress)
    except httpx.TimeoutException:
        return _Failure(f"nothing for {SILENCE_S:g} s", temporary=True)
    except httpx.ProxyError:
        return _Failure("a proxy that does not let it through", "check HTTPS_PROXY and the network")
    except httpx.ConnectError:
        hint = "check the network and the address, then try again"
        return _Failure(f"no connection to {url.host}", hint, temporary=True)
    except httpx.TransportError:  # its message may repeat the server's words
        return _Failure("a connection that failed or was cut", f"check the network; {_LATER}", temporary=True)


@contextmanager
def _response(client: httpx.Client, url: httpx.URL, ranged: dict[str, str]) -> Iterator[httpx.Response | _Failure]:
    """Follows redirects, all of them over https."""
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
        if not _trusted(at) or (is_local(at) and not is_local(url)):
            yield _Failure("a redirect to an address that is not https", _ADDRESS)
            return
    yield _Failure(f"more than {MAX_REDIRECTS} redirects", _ADDRESS)


def _continues(response: httpx.Response, part: Part, have: int) -> bool:
    """Whether a 206 brings the next bytes of the same file."""
    source, said = part.source, response.headers.get("Content-Range", "")
    size = source.size if source else None
    if not have or not said.startswith(f"bytes {have}-") or (size is not None and not said.endswith(f"/{size}")):
        return False
    validator = validator_of(response.headers)
    return validator is None or source is None or validator == source.validator


def _refusal(response: httpx.Response) -> _Failure | None:
    """Why a response is not the file."""
    status = response.status_code
    if status == 429 or status >= 500:
        return _Failure(f"status {status}", temporary=True, wait=retry_after(response))
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
        return _Failure("a connection that was cut", temporary=True)
    return None
