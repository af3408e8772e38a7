"""Opens data files as UTF-8 text: detects compression and encoding by the first bytes, refuses other formats."""

import bz2
import codecs
import gzip
import io
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO, Final, cast

from ownlm.errors import DataError, quoted
from ownlm.filesystem import open_regular

HEAD: Final = 4096
_CHUNK: Final = 1 << 16
_MOST_UNPACKED: Final = 256 << 20  # bytes, or _MOST_TIMES the packed size if that is more
_MOST_TIMES: Final = 200
_XZ_MEMORY: Final = 256 << 20

_PACKED: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x5d\x00\x00", "lzma"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
    *((bytes([first]) + b"\x2a\x4d\x18", "zstd") for first in range(0x50, 0x60)),  # a skippable frame
)
_BESIDE: Final = re.compile(
    r"(^|/)(\._[^/]*|\.DS_Store|Thumbs\.db|desktop\.ini)$|^__MACOSX/|/$"
)  # added by operating systems
_TABLE: Final = "save the table as CSV (UTF-8), JSON Lines or Parquet"
_UNPACK: Final = "unpack it first"
_OTHERS: Final = (
    (b"SQLite format 3\0", "an SQLite database", "export the rows as CSV"),
    (b"\x93NUMPY", "a NumPy array", _TABLE),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a document of old Microsoft Office", _TABLE),
    (b"PK\x05\x06", "an empty zip archive", "pack it again"),
    (b"%PDF", "a PDF document", _TABLE),
    (b"{\\rtf", "an RTF document", _TABLE),
    (b"ARROW1", "an Arrow (Feather) file", "write it as Parquet"),
    (b"FEA1", "a Feather file", "write it as Parquet"),
    (b"ORC", "an ORC file", "write it as Parquet"),
    (b"Obj\x01", "an Avro file", "write it as Parquet or JSON Lines"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", _TABLE),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"\x04\x22\x4d\x18", "an lz4 file", _UNPACK),
    (b"\x1f\x9d", "a file packed with compress", _UNPACK),
    (b"\xff\x06\x00\x00sNaPpY", "a snappy file", _UNPACK),
    (b"\x89PNG", "a picture", "give the file of rows"),
    (b"\xff\xd8\xff", "a picture", "give the file of rows"),
    (b"version https://git-lfs", "a pointer of Git LFS instead of the file itself", "fetch the file itself"),
)
_PICKLE: Final = re.compile(rb"\x80[\x02-\x05][\x80-\xff}\](cK)]|\(dp0|\(lp0|c[a-z_.]+\n[A-Za-z_]+\n", re.DOTALL)
_MAILBOX: Final = re.compile(rb"From \S+ [^\n]*\d{4}\r?\n[\w-]+:")
_BOMS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def open_content(path: Path) -> io.BufferedReader:
    """Opens a file of text, unpacked, as UTF-8.

    Supports gzip, bzip2, xz, zstd and a zip archive of one file, whatever the file's name, and UTF-16 and UTF-32 with
    a byte order mark.

    Raises:
        DataError: the file is packed twice, or not text. During reading: it is damaged, or unpacks to too many bytes.
        OSError: the file cannot be read.
    """
    file = open_regular(path)
    try:
        packed = next((kind for magic, kind in _PACKED if file.peek(HEAD).startswith(magic)), None)
        if packed:
            file = io.BufferedReader(_Chunks(_unpacked(path, file, packed), file), _CHUNK)
        head = file.peek(HEAD)
        _refuse_others(path, head, packed)
        encoding = next((name for bom, name in _BOMS if head.startswith(bom)), None)
        if encoding:
            file = io.BufferedReader(_Chunks(_as_utf8(path, file, encoding), file), _CHUNK)
        elif b"\0" in head[:4]:
            raise DataError(
                f"The file {path} begins with NUL bytes, as UTF-16 without a byte order mark or no text does",
                expected="text in UTF-8", hint="save it as UTF-8 if it is text",
            )  # fmt: skip
        return file
    except BaseException:
        file.close()
        raise


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet by its first bytes, or by its suffix where the first bytes are not another format's.

    Raises:
        OSError: the file cannot be read.
    """
    with open_regular(path) as file:
        head = file.read(HEAD)
    other = head.startswith((*(magic for magic, _ in _PACKED), *(magic for magic, *_ in _OTHERS)))
    return head.startswith(b"PAR1") or (path.suffix == ".parquet" and not other)


def _refuse_others(path: Path, head: bytes, packed: str | None) -> None:
    """Raises a DataError for a known format that is not text."""
    what = hint = None
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()[:64].lower()
    for magic, name, advice in _OTHERS:
        if head.startswith(magic):
            what, hint = name, advice
    if head[257:262] == b"ustar":
        what, hint = "a tar archive", _UNPACK
    elif packed and (head.startswith(b"PAR1") or any(head.startswith(magic) for magic, _ in _PACKED)):
        what, hint = "Parquet or a packed file within a packed file", _UNPACK
    elif _PICKLE.match(head):
        what, hint = "a Python pickle", "write it as Parquet: pickles can run code, and are not read"
    elif start.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<script")):
        what, hint = "a web page", "perhaps an error or a login page was saved; fetch the file again"
    elif start.startswith((b"<?xml", b"<")):
        what, hint = "XML or HTML", _TABLE
    elif _MAILBOX.match(head):
        what, hint = "a mailbox", "import it, and name the history that the import writes"
    if what:
        command = {
            "an SQLite database": f"sqlite3 -csv -header {quoted(path)} 'SELECT ...' > rows.csv",
            "a mailbox": f"ownlm import mbox {quoted(path)} mail.jsonl",
            "a pointer of Git LFS instead of the file itself": "git lfs pull",
        }.get(what)
        expected = "JSON Lines, JSON, CSV or Parquet"
        raise DataError(f"The file {path} is {what}", expected=expected, hint=hint, command=command)


class _Chunks(io.RawIOBase):
    """A raw stream over an iterator of chunks; closing it closes the underlying file."""

    def __init__(self, chunks: Iterator[bytes], behind: IO[bytes]) -> None:
        self._chunks, self._behind, self._rest = chunks, behind, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = chunk
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def close(self) -> None:
        self._behind.close()
        super().close()


def _unpacked(path: Path, file: BinaryIO, packed: str) -> Iterator[bytes]:
    import pyarrow as pa  # here, because few need it

    most, total = max(_MOST_UNPACKED, _MOST_TIMES * os.stat(path).st_size), 0
    try:
        for chunk in _pieces(path, file, packed):
            total += len(chunk)
            if total > most:
                raise DataError(
                    f"The file {path} unpacks to more than {most:,} bytes",
                    got=f"over {_MOST_TIMES} times its size",
                    hint="unpack it yourself if it is what you expect",
                )
            yield chunk
    except (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError, pa.ArrowException):
        raise DataError(f"The {packed} file {path} is damaged or cut off", hint="fetch it again") from None


def _pieces(path: Path, file: BinaryIO, packed: str) -> Iterator[bytes]:
    if packed in ("xz", "lzma"):
        yield from _streams(file, lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY))
        return
    if packed == "bzip2":  # BZ2File ends without an error where a second stream is damaged
        yield from _streams(file, bz2.BZ2Decompressor)
        return
    unpacking: IO[bytes]
    if packed == "gzip":
        unpacking = cast(IO[bytes], gzip.GzipFile(fileobj=file))
    elif packed == "zip":
        unpacking = _zipped(path, file)
    else:
        import pyarrow as pa

        unpacking = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")
    while chunk := unpacking.read(_CHUNK):
        yield bytes(chunk)


def _streams(file: BinaryIO, new: Callable[[], lzma.LZMADecompressor | bz2.BZ2Decompressor]) -> Iterator[bytes]:
    """Yields the content of concatenated streams; an xz stream that needs too much memory raises LZMAError."""
    decoder, content = new(), b""
    while True:
        if decoder.eof:
            content = decoder.unused_data.lstrip(b"\0")
            while not content:
                if not (content := file.read(_CHUNK)):
                    return
                content = content.lstrip(b"\0")
            decoder = new()
        elif decoder.needs_input:
            content = file.read(_CHUNK)
            if not content:
                raise EOFError
        chunk, content = decoder.decompress(content, _CHUNK), b""
        if chunk:
            yield chunk


def _zipped(path: Path, file: BinaryIO) -> IO[bytes]:
    """Opens the only file of a zip archive."""
    archive = zipfile.ZipFile(file)
    names = [name for name in archive.namelist() if not _BESIDE.search(name)]
    kinds = (
        ("xl/", "an Excel workbook", "save the sheet as CSV UTF-8"),
        ("word/", "a Word document", _TABLE),
        ("META-INF/manifest.xml", "an OpenDocument file", "save the sheet as CSV (UTF-8)"),
    )
    for start, what, hint in kinds:
        if any(name.startswith(start) for name in names):
            raise DataError(f"The file {path} is {what}", expected="JSON Lines, JSON, CSV or Parquet", hint=hint)
    if any(name.endswith((".npy", "data.pkl")) for name in names):
        what = "an archive of NumPy or PyTorch"
        raise DataError(f"The file {path} is {what}", expected="JSON Lines, JSON, CSV or Parquet", hint=_TABLE)
    if len(names) != 1:
        raise DataError(f"The zip archive {path} holds {len(names):,} files", expected="one file", hint=_UNPACK)
    if archive.getinfo(names[0]).flag_bits & 1:
        raise DataError(f"The zip archive {path} is encrypted", hint=_UNPACK)
    return archive.open(names[0])


def _as_utf8(path: Path, file: BinaryIO, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        while content := file.read(_CHUNK):
            yield decoder.decode(content).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError:
        raise DataError(
            f"The file {path} is not the {encoding.upper()} that its first bytes say", hint="save it as UTF-8"
        ) from None
