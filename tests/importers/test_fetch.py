"""Fetching from a real server on this machine that cuts connections, lies, and changes files between tries."""

import base64
import errno
import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import httpx2 as httpx
import pytest

from ownlm.errors import ConfigError, DataError
from ownlm.importers import fetch as module
from ownlm.importers.fetch import fetch_file
from ownlm.importers.part import Part, Source
from tests.importers.file_server import Asked, Behaviour, FileServer, etag, serving

BODY = random.Random(1).randbytes(300_000)
OTHER = random.Random(2).randbytes(280_000)
RUBBISH = "server's rubbish"
pytestmark = pytest.mark.usefixtures("soon")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "data.json"


def fine(path: Path) -> None:
    """Everything is as it should be."""


def fetch(server: FileServer, path: Path, body: bytes = BODY) -> None:
    """Fetches what then lies there, and nothing beside it."""
    assert fetch_file(f"{server.url}/data", path, check=fine)
    assert path.read_bytes() == body and list(path.parent.iterdir()) == [path]


def failure(behaviour: Behaviour, path: Path, check=fine) -> str:  # type: ignore[no-untyped-def]
    """What is said where nothing can be fetched; never what the server said."""
    with serving({"/data": BODY}, behaviour) as server, pytest.raises(DataError) as caught:
        fetch_file(f"{server.url}/data", path, check=check)
    assert not path.exists() and caught.value.got and caught.value.hint and RUBBISH not in str(caught.value)
    return str(caught.value)


def interrupt(server: FileServer, path: Path, after: int = 1) -> int:
    """Ctrl-C in the middle; how many bytes were kept."""

    def stop(stage: str, done: float, total: float, note: str = "") -> None:
        if done * 1e6 >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_file(f"{server.url}/data", path, check=fine, progress=stop)
    assert not path.exists()
    return Part(path).size


def test_a_file_is_fetched_once(path: Path) -> None:
    reported: list[tuple[str, float, float]] = []
    with serving({"/data": BODY}) as server:
        progress = lambda stage, done, total, note="": reported.append((stage, done, total))  # noqa: E731
        assert fetch_file(f"{server.url}/data", path, check=fine, progress=progress)
        assert not fetch_file(f"{server.url}/data", path, check=fine)
        assert len(server.requests) == 1
    assert path.read_bytes() == BODY and reported[-1] == ("data.json, MB", 0.3, 0.3)


def test_cut_at_random_bytes_it_goes_on(path: Path) -> None:
    draw = random.Random(3)

    def cuts(asked: Asked) -> None:
        asked.file(cut=draw.randrange(60_000) if asked.number < 12 else None)

    with serving({"/data": BODY}, cuts) as server:
        fetch(server, path)
        assert server.ranges == sorted(server.ranges) and server.ranges[-1] > 100_000  # nothing was fetched twice
        assert {headers["If-Range"] for _, headers in server.requests[1:]} <= {etag(BODY), None}


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_last_modified_stands_in_for_a_strong_etag(path: Path, etag: str) -> None:
    at = "Wed, 21 Oct 2015 07:28:00 GMT"
    same = partial(Asked.file, trust=True, ETag=etag, Last_Modified=at)
    with serving({"/data": BODY}, lambda asked: same(asked, cut=None if asked.number else 999)) as server:
        fetch(server, path)
    assert server.ranges == [0, 999] and server.requests[1][1]["If-Range"] == at


@pytest.mark.parametrize("why", ["no ranges", "no validator"])
def test_where_no_part_can_be_had_it_starts_over(path: Path, why: str) -> None:
    def behaviour(asked: Asked) -> None:
        cut = None if asked.number else 200_000
        asked.file(ranges=why != "no ranges", ETag="" if why == "no validator" else etag(BODY), cut=cut)

    with serving({"/data": BODY}, behaviour) as server:
        fetch(server, path)
    assert server.ranges == ([0, 200_000] if why == "no ranges" else [0, 0])


@pytest.mark.parametrize("trust", [False, True])
def test_a_file_that_changed_between_tries_starts_over(path: Path, trust: bool) -> None:
    """Whether the server minds If-Range, or sends part of another file."""
    with serving({"/data": BODY}, partial(Asked.file, trust=trust)) as server:
        assert 0 < interrupt(server, path) < len(BODY)
        server.files["/data"] = OTHER
        fetch(server, path, OTHER)
        assert server.ranges[1] > 0


def test_a_part_of_another_address_is_no_beginning(path: Path) -> None:
    with serving({"/data": BODY, "/else": OTHER}) as server:
        interrupt(server, path)
        assert fetch_file(f"{server.url}/else", path, check=fine)
    assert path.read_bytes() == OTHER and server.ranges == [0, 0]


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"size": 3}', b'{"url": "x", "age": 3}'])
def test_a_part_of_unknown_origin_is_no_beginning(path: Path, note: bytes) -> None:
    path.parent.mkdir()
    path.with_name("data.json.part").write_bytes(b"old bytes")
    path.with_name("data.json.part.json").write_bytes(note)
    with serving({"/data": BODY}) as server:
        fetch(server, path)
    assert server.ranges == [0]


def test_killed_before_the_last_step_nothing_is_fetched_again(path: Path) -> None:
    with serving({"/data": BODY}) as server:
        path.parent.mkdir()
        part = Part(path)
        part.begin(Source(f"{server.url}/data", len(BODY), etag(BODY)))
        part.data.write_bytes(BODY)
        fetch(server, path)
        part.begin(Source(f"{server.url}/data", len(BODY), etag(BODY)))  # and after it
        assert not fetch_file(f"{server.url}/data", path, check=fine)
    assert server.requests == [] and list(path.parent.iterdir()) == [path]


def test_more_than_there_is_starts_over(path: Path) -> None:
    def behaviour(asked: Asked) -> None:
        asked.give(b"", 416) if "Range" in asked.headers else asked.file()

    with serving({"/data": BODY}, behaviour) as server:
        path.parent.mkdir()
        part = Part(path)
        part.begin(Source(f"{server.url}/data", None, etag(BODY)))
        part.data.write_bytes(BODY)
        fetch(server, path)
    assert server.ranges == [len(BODY), 0]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 204])
def test_a_refusal_is_not_tried_again(path: Path, status: int) -> None:
    def refuse(asked: Asked) -> None:
        assert asked.number == 0
        asked.give(RUBBISH.encode() if status != 204 else b"", status)

    assert f"Got: status {status}. Next: check the address" in failure(refuse, path)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again(path: Path, status: int) -> None:
    def busy(asked: Asked) -> None:
        asked.file() if asked.number == 3 else asked.give(RUBBISH.encode(), status, Retry_After="0.02")

    with serving({"/data": BODY}, busy) as server:
        fetch(server, path)
    said = failure(lambda asked: asked.give(b"", status), path.with_name("other"))
    assert f"status {status}. Next: try again" in said


def test_no_try_goes_on_for_ever(path: Path) -> None:
    """A server that always cuts at the same byte, and knows no ranges."""
    tries: list[int] = []

    def cut(asked: Asked) -> None:
        tries.append(asked.number)
        asked.file(ranges=False, cut=1000)

    assert "was cut" in failure(cut, path) and len(tries) == 5


def test_no_server(path: Path) -> None:
    with serving({}) as server:
        pass
    with pytest.raises(DataError, match="no connection to 127"):
        fetch_file(f"{server.url}/data", path, check=fine)


def test_what_is_no_data_is_refused(path: Path) -> None:
    page = lambda asked: asked.give(RUBBISH.encode(), Content_Type="text/html; charset=utf-8")  # noqa: E731
    assert "a web page instead of data" in failure(page, path)
    packed = lambda asked: asked.file(Content_Encoding="gzip")  # noqa: E731
    assert "packed bytes" in failure(packed, path)
    assert not list(path.parent.iterdir())


def test_a_page_in_between_costs_nothing(path: Path) -> None:
    def page(asked: Asked) -> None:
        asked.give(RUBBISH.encode(), Content_Type="text/html") if asked.number == 1 else asked.file()

    with serving({"/data": BODY}, page) as server:
        kept = interrupt(server, path)
        with pytest.raises(DataError, match="web page"):
            fetch_file(f"{server.url}/data", path, check=fine)
        fetch(server, path)
        assert kept and server.ranges == [0, kept, kept]


def test_what_fails_the_check_is_thrown_away(path: Path) -> None:
    def check(path: Path) -> None:
        if path.read_bytes() != BODY:
            raise DataError("it is too short", got="half of it")

    half = lambda asked: asked.give(BODY[:1000], length=False)  # noqa: E731 - ends as if it were whole
    said = failure(half, path, check)
    assert "is not what it should be. Got: it is too short: half of it." in said and not list(path.parent.iterdir())


@pytest.mark.parametrize("header", ["Repr-Digest: sha-512=:AAAA:, sha-256=:{}:", "Digest: SHA-256={}"])
def test_a_digest_is_checked(path: Path, header: str) -> None:
    name, form = header.split(": ", 1)

    def headers(body: bytes) -> dict[str, str]:
        return {name.replace("-", "_"): form.format(base64.b64encode(hashlib.sha256(body).digest()).decode())}

    with serving({"/data": BODY}, lambda asked: asked.file(**headers(BODY))) as server:
        fetch(server, path)
    said = failure(lambda asked: asked.file(**headers(OTHER)), path.with_name("other"))
    assert "damaged on the way" in said and f"SHA-256 {hashlib.sha256(OTHER).hexdigest()}" in said
    assert list(path.parent.iterdir()) == [path]


def test_a_size_has_its_limit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", len(BODY) - 1)
    assert "a file of more than" in failure(Asked.file, path)
    assert "that it may have" in failure(lambda asked: asked.give(BODY, length=False), path)
    assert not list(path.parent.iterdir())


def test_redirects_are_followed_where_they_are_safe(path: Path) -> None:
    def lead(asked: Asked) -> None:
        asked.file() if asked.path == "/data" else asked.give(b"", 302, Location="/data")

    with serving({"/data": BODY}, lead) as server:
        assert fetch_file(f"{server.url}/old", path, check=fine)
    assert path.read_bytes() == BODY
    for place in (
        "http://example.org/data",
        "ftp://127.0.0.1/data",
        "file:///etc/passwd",
        "http://[",
        "//example.org/",
    ):
        lead_off = lambda asked, place=place: asked.give(b"", 302, Location=place)  # noqa: E731
        assert "a redirect to an address that is not https" in failure(lead_off, path.with_name("other"))
    assert "more than 5 redirects" in failure(
        lambda asked: asked.give(b"", 301, Location="/data"), path.with_name("other")
    )


@pytest.mark.parametrize(
    "url", ["", "x", "http://example.org/x", "https://", "https://u:secret@h/x", "https://h/x?secret", "file:///x"]
)
def test_only_https(path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        fetch_file(url, path, check=fine)
    assert "secret" not in str(caught.value)


def test_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = Part.appending

    class Full:
        def __init__(self, file: BinaryIO) -> None:
            self.file = file

        def tell(self) -> int:
            return self.file.tell()

        def write(self, piece: bytes) -> int:
            if self.file.tell() > 100_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(piece)

    @contextmanager
    def appending(part: Part) -> Iterator[Full]:
        with genuine(part) as file:
            yield Full(file)

    with monkeypatch.context() as patched:
        patched.setattr(Part, "appending", appending)
        assert "No space left on device. Next: check the folder and its room" in failure(Asked.file, path)
    with serving({"/data": BODY}) as server:
        assert Part(path).size > 100_000
        Part(path).clear()  # the server has another port now
        fetch(server, path)


def test_no_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    with serving({}) as server, pytest.raises(DataError, match="cannot be written"):
        fetch_file(f"{server.url}/data", tmp_path / "folder" / "data.json", check=fine)


def from_afar(monkeypatch: pytest.MonkeyPatch, path: Path, **answer: Any) -> str:
    """What is said of one answer of a server that is not on this machine."""
    transport = httpx.MockTransport(lambda request: httpx.Response(**answer))
    monkeypatch.setattr(module, "sync_client", lambda *_: httpx.Client(transport=transport))
    with pytest.raises(DataError) as caught:
        fetch_file("https://example.org/data", path, check=fine)
    assert not path.exists()
    return str(caught.value)


def test_no_redirect_leads_to_this_machine(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("http://127.0.0.1/data", "https://localhost/data", "http://[::1]/"):
        assert "a redirect to" in from_afar(monkeypatch, path, status_code=302, headers={"Location": place})


def test_less_than_was_said_is_not_the_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the HTTP library does not mind."""
    said = from_afar(
        monkeypatch, path, status_code=200, headers={"Content-Length": "9"}, stream=httpx.ByteStream(b"12")
    )
    assert "a connection that was cut" in said
