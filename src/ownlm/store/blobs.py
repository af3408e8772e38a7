"""Content-addressed files: written whole or not at all, checked when read."""

import hashlib
import os
from pathlib import Path
from uuid import uuid4

from ownlm.durable import sync
from ownlm.errors import StoreError


class Blobs:
    """A folder of files named by the SHA-256 of their content.

    A blob is written under a temporary name, synced and renamed before anybody learns its name, so that kill -9 or a
    power cut leaves a whole blob or none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, data: bytes) -> str:
        """Stores `data`; returns its name."""
        name = hashlib.sha256(data).hexdigest()
        path = self._path(name)
        if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == name:
            return name
        if not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            sync(self.folder)
        temporary = path.with_name(f".{uuid4().hex}")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise StoreError("An adapter cannot be written", got=error, hint="make room on the disk") from None
        sync(path.parent)
        return name

    def has(self, name: str) -> bool:
        """Whether something lies there under that name."""
        return self._path(name).exists()

    def get(self, name: str) -> bytes:
        """The content stored as `name`.

        Raises:
            StoreError: there is none, or what lies there has another hash.
        """
        path = self._path(name)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoreError(f"The blob {path} cannot be read", got=error, hint="train the person again") from None
        if (got := hashlib.sha256(data).hexdigest()) != name:
            raise StoreError(
                f"The blob {path} is damaged",
                got=f"SHA-256 {got}",
                expected=name,
                hint="delete this file and train the person again",
            )
        return data

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.safetensors"
