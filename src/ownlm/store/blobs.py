"""Content-addressed files, written atomically and checked when read."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from uuid import uuid4

from ownlm.durable import sync
from ownlm.errors import StoreError
from ownlm.filesystem import read_regular

BLOB_BYTES: Final = 64 << 30


def blob_name(data: bytes) -> str:
    """The name of a blob with this content: its SHA-256."""
    return hashlib.sha256(data).hexdigest()


class Blobs:
    """A folder of files named by the SHA-256 of their content.

    A blob is written under a temporary name, synced and renamed before a row names it. So kill -9 or a power cut leaves
    a whole blob or none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, contents: Iterable[bytes]) -> list[str]:
        """Stores contents; returns their names.

        Raises:
            StoreError: the disk is full, or cannot be written. Some blobs may then exist that no row names.
        """
        names, unfinished = [], dict[Path, Path]()
        try:
            for data in contents:
                name = blob_name(data)
                names.append(name)
                path = self._path(name)
                if path in unfinished.values() or self._holds(path, name):
                    continue
                if not path.parent.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    sync(self.folder)
                temporary = path.with_name(f".{uuid4().hex}")
                unfinished[temporary] = path
                with temporary.open("xb") as file:
                    file.write(data)
            for temporary in unfinished:  # all are written by now: the first sync also writes others
                sync(temporary)
            for temporary, path in unfinished.items():
                temporary.replace(path)
            for folder in {path.parent for path in unfinished.values()}:
                sync(folder)
        except OSError as error:
            for temporary in unfinished:
                temporary.unlink(missing_ok=True)
            raise StoreError("An adapter cannot be written", got=error, hint="make room on the disk") from None
        return names

    def keep_only(self, names: set[str]) -> int:
        """Removes all other files, unfinished ones included; returns their number.

        Raises:
            StoreError: one cannot be removed.
        """
        others = (path for path in self.files() if path != self._path(path.stem) or path.stem not in names)
        return sum(self._remove(path) for path in others)

    def remove(self, names: Iterable[str]) -> int:
        """Removes blobs; returns the number of those that existed.

        Raises:
            StoreError: one cannot be removed.
        """
        return sum(self._remove(self._path(name)) for name in names if self.has(name))

    def _remove(self, path: Path) -> int:
        try:
            path.unlink(missing_ok=True)
            sync(path.parent)
        except OSError as error:
            hint = "make the folder writable, and give the same command again"
            what = f"Unused weights cannot be removed: {path}"
            raise StoreError(what, got=error.strerror, hint=hint) from None
        return 1

    def files(self) -> list[Path]:
        """Every file in the folder."""
        return sorted(path for path in self.folder.glob("*/*") if path.is_file())

    def has(self, name: str) -> bool:
        """Whether a file of that name exists."""
        return self._path(name).exists()

    def get(self, name: str) -> bytes:
        """The content stored as `name`.

        Raises:
            StoreError: there is none, or its content has another hash.
        """
        path = self._path(name)
        try:
            data = read_regular(path, BLOB_BYTES)
        except OSError as error:
            raise StoreError(
                f"The blob {path} cannot be read", got=error, hint="train the user's adapter again"
            ) from None
        if (got := blob_name(data)) != name:
            raise StoreError(
                f"The blob {path} is damaged",
                got=f"SHA-256 {got}",
                expected=name,
                hint="delete this file and train the adapter again",
            )
        return data

    def _holds(self, path: Path, name: str) -> bool:
        """Whether the file of a blob exists and is whole."""
        try:
            return blob_name(read_regular(path, BLOB_BYTES)) == name
        except OSError:
            return False

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.safetensors"
