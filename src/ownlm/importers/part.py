"""A partly downloaded file, with a note of the file that it is a part of."""

import base64
import binascii
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ownlm.durable import sync
from ownlm.errors import DataError
from ownlm.filesystem import check_regular, open_regular, read_regular

_DIGEST: Final = re.compile(r"(?:^|[,\s])sha-256=:?([A-Za-z0-9+/]{43}=):?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Source:
    """A file at a server, as its response headers describe it.

    Attributes:
        url: the file's address.
        size: the file's bytes, if the server sent a length.
        validator: a strong ETag or Last-Modified, which names this content in If-Range.
        sha256: the whole file's SHA-256 in hex, if the server sent one.
    """

    url: str
    size: int | None = None
    validator: str | None = None
    sha256: str | None = None


class Part:
    """The bytes of a file so far in `NAME.part`, and their source in `NAME.part.json`.

    Bytes without a source are never continued: the source is removed first and written last.

    Args:
        path: the finished file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data, self._source_file = (path.with_name(path.name + suffix) for suffix in (".part", ".part.json"))

    @property
    def source(self) -> Source | None:
        """The file that the bytes are a part of; None without a readable note."""
        try:
            return Source(**json.loads(read_regular(self._source_file)))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def size(self) -> int:
        """The number of bytes so far."""
        return self.data.stat().st_size if self.data.exists() else 0

    def whole(self, url: str) -> bool:
        """Whether all bytes of that URL's file have come, by its length."""
        source = self.source
        return source is not None and source.url == url and source.size is not None and source.size == self.size > 0

    def begin(self, source: Source) -> None:
        """Deletes the bytes so far and begins with another source."""
        self._source_file.unlink(missing_ok=True)
        sync(self.path.parent)
        self.data.write_bytes(b"")
        sync(self.data)
        temporary = self._source_file.with_name(f".{self._source_file.name}")
        temporary.write_text(json.dumps(asdict(source)), "utf8")
        sync(temporary)
        temporary.replace(self._source_file)
        sync(self.path.parent)

    @contextmanager
    def appending(self) -> Iterator[BinaryIO]:
        """Opens the file for further bytes; they are synced to disk on leaving."""
        check_regular(self.data)
        with self.data.open("ab") as file:
            try:
                yield file
            finally:
                if not file.closed:
                    file.flush()
                    os.fsync(file.fileno())

    def clear(self) -> None:
        """Deletes the bytes and the note."""
        self._source_file.unlink(missing_ok=True)
        self.data.unlink(missing_ok=True)

    def finish(self, check: Callable[[Path], None]) -> None:
        """Renames the checked file to its final name, or deletes it.

        Raises:
            DataError: the SHA-256 differs, or `check` failed.
        """
        source = self.source
        try:
            if source and source.sha256:
                with open_regular(self.data) as file:
                    got = hashlib.file_digest(file, "sha256").hexdigest()
                if got != source.sha256:
                    raise DataError("it was damaged on the way", expected=f"SHA-256 {source.sha256}")
            check(self.data)
        except DataError as error:
            self.clear()
            raise DataError(
                f"What came from {source.url if source else 'the server'} is not what it should be",
                got=error.what if error.got is None else f"{error.what}: {error.got}",
                expected=error.expected,
                hint="try again; if the result is the same, the server has another file there",
            ) from None
        self.data.replace(self.path)
        sync(self.path.parent)
        self._source_file.unlink(missing_ok=True)


def validator_of(headers: Mapping[str, str]) -> str | None:
    """The value that names a file's content in If-Range. A weak ETag does not: it allows other bytes.

    >>> validator_of({"ETag": '"a1"'}), validator_of({"ETag": 'W/"a1"', "Last-Modified": "Mon"})
    ('"a1"', 'Mon')
    """
    etag = headers.get("ETag") or ""
    return etag if etag.startswith('"') else headers.get("Last-Modified") or None


def sha256_of(headers: Mapping[str, str]) -> str | None:
    """The whole file's SHA-256 in hex, from Repr-Digest (RFC 9530) or its forerunner Digest (RFC 3230)."""
    for name in ("Repr-Digest", "Digest"):
        if found := _DIGEST.search(headers.get(name) or ""):
            try:
                return base64.b64decode(found[1], validate=True).hex()
            except binascii.Error:
                continue
    return None
