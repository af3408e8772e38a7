"""Versions of a pool: written whole or not at all, never changed; the next one can leave sharers out."""

import hashlib
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from pydantic import ValidationError
from safetensors.torch import save as save_tensors

from ownlm.config import LoraConfig
from ownlm.durable import sync
from ownlm.errors import OwnlmError, PoolError, StoreError
from ownlm.perpcs.manifest import FILE, Manifest, ModuleEntry, manifest_error, module_file
from ownlm.perpcs.piece import Piece
from ownlm.perpcs.pool import GATE, LORA_A, LORA_B, Pool, open_pool
from ownlm.perpcs.signing import public_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_LOOSE = ".pool-"

Pieces = Iterable[tuple[str, Sequence[tuple[str, Piece]]]]


@dataclass(frozen=True, slots=True)
class PoolHead:
    """What the manifest of a new version says, besides its modules and signature.

    Attributes:
        base_fingerprint: fingerprint of the base that the pieces were trained on.
        lora: shape of the pieces.
        licence: licence under which the sharers gave them.
        provenance: how they were made, as JSON. It names no user and no sharer.
        sharers: random ids. Neither their order nor that of the pieces matters.
        version: 1, or one more than the parent's.
        parent: digest of the version it is made from.
        line: random name that all versions of one pool share; a new one by default.
        ancestors: digests of the versions before it, the oldest first.
    """

    base_fingerprint: str
    lora: LoraConfig
    licence: str
    provenance: Mapping[str, Any]
    sharers: Sequence[str]
    version: int = 1
    parent: str | None = None
    line: str | None = None
    ancestors: Sequence[str] = ()


def write_pool(
    folder: Path,
    head: PoolHead,
    pieces: Pieces,
    *,
    shapes: Mapping[str, tuple[int, int]] | None = None,
    key: "Ed25519PrivateKey | None" = None,
) -> Pool:
    """Writes a version of a pool. After kill -9 it is whole, or absent with a loose folder beside its place.

    Args:
        folder: where to; must not exist.
        head: fields of the manifest, without modules and signature.
        pieces: modules in the model's order, each with its sharers and pieces; one module's are in memory at a time.
            They are stored in float32.
        shapes: O and D of modules that may have no piece; those of others follow from the pieces.
        key: signing key; None writes format 1, which has no signature.

    Returns:
        The pool, read again.

    Raises:
        PoolError: the folder exists, or pieces, sharers and shapes do not go together. Nothing is left then.
        StoreError: it cannot be written. Nothing is left then.
    """
    sharers = sorted(head.sharers)
    places = {sharer: place for place, sharer in enumerate(sharers)}
    with _whole_or_nothing(folder) as temporary:
        modules = [
            _write_module(temporary, name, own, places, head.lora.r, (shapes or {}).get(name)) for name, own in pieces
        ]
        content: dict[str, Any] = {
            "version": head.version, "parent": head.parent, "base_fingerprint": head.base_fingerprint,
            "lora": head.lora, "licence": head.licence, "created": now(), "provenance": dict(head.provenance),
            "sharers": sharers, "modules": modules,
        }  # fmt: skip
        if key is not None:
            line, publisher = head.line or secrets.token_hex(16), public_key(key)
            content |= {"format": 2, "line": line, "ancestors": head.ancestors, "publisher": publisher}
        data = _manifest(content, key)
        (temporary / FILE).write_bytes(data)
    return open_pool(folder, hashlib.sha256(data).hexdigest())


def now() -> str:
    """The time, as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def without(
    pool: Pool, gone: Collection[str], folder: Path, key: "Ed25519PrivateKey | None" = None, line: str | None = None
) -> Pool:
    """Writes the next version of a pool, without these sharers' ids and pieces. The old version stays.

    Args:
        pool: the version before.
        gone: random ids of sharers.
        folder: where to; must not exist.
        key: as for `write_pool`.
        line: the pool's own where its publisher makes the version; by default a new one.

    Returns:
        The new version. All other pieces are equal bit for bit; a module may be left with none.

    Raises:
        PoolError: an id is not in the pool, no sharer would be left, the pool is damaged, or the folder exists.
        StoreError: it cannot be written.
    """
    gone, manifest = set(gone), pool.manifest
    if strange := gone - set(manifest.sharers):
        raise PoolError("The pool has no such sharer", got=min(strange))
    if gone == set(manifest.sharers):
        raise PoolError("No sharer would be left in the pool", got=f"{len(gone)} sharers", hint="remove the pool")
    head = PoolHead(
        base_fingerprint=manifest.base_fingerprint,
        lora=pool.lora,
        licence=manifest.licence,
        provenance=manifest.provenance,
        sharers=[sharer for sharer in manifest.sharers if sharer not in gone],
        version=manifest.version + 1,
        parent=pool.digest,
        line=line,
        ancestors=[*(manifest.ancestors or ([manifest.parent] if manifest.parent else [])), pool.digest],
    )
    shapes = {name: pool.shape(name) for name in pool.modules}
    return write_pool(folder, head, _pieces_without(pool, gone), shapes=shapes, key=key)


def copy_pool(pool: Pool, folder: Path) -> Pool:
    """Copies a pool as it is, whole or not at all; a README or a LICENSE beside it is not copied.

    Args:
        folder: where to; must not exist.

    Raises:
        PoolError: it changed during the copy, or the folder exists.
        StoreError: it cannot be written.
    """
    with _whole_or_nothing(folder) as temporary:
        for name in pool.files:
            shutil.copyfile(pool.folder / name, temporary / name)
    return open_pool(folder, pool.digest)


@contextmanager
def _whole_or_nothing(folder: Path) -> Iterator[Path]:
    """A new folder to fill; it gets its name once everything in it is on the disk, and is removed on failure."""
    folder = folder.absolute()
    if folder.exists() or folder.is_symlink():
        raise PoolError(f"The folder {folder} exists", expected="a new one: versions are never overwritten")
    temporary = folder.with_name(f"{_LOOSE}{uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        temporary.rename(folder)
        sync(folder.parent)
    except OwnlmError:  # one may be an OSError too
        raise
    except OSError as error:
        raise StoreError(f"The pool cannot be written to {folder}", got=error, hint="make room on the disk") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _pieces_without(pool: Pool, gone: Collection[str]) -> Iterator[tuple[str, list[tuple[str, Piece]]]]:
    for name in pool.modules:
        stacked = pool.whole(name)
        given = [(pool.sharer(name, n), Piece(*(part[n] for part in stacked))) for n in range(len(stacked[0]))]
        yield name, [(sharer, piece) for sharer, piece in given if sharer not in gone]


def _write_module(
    folder: Path,
    name: str,
    own: Sequence[tuple[str, Piece]],
    places: Mapping[str, int],
    r: int,
    shape: tuple[int, int] | None,
) -> ModuleEntry:
    """Stacks a module's pieces in the order of the sharers' places, and writes them."""
    path = folder / module_file(name)
    if shape is None:
        if not own:
            raise PoolError(f"No sharer gives a piece of {name!r}, and its shape is not given")
        shape = own[0][1].B_OR.shape[0], own[0][1].A_RD.shape[-1]
    if strange := {sharer for sharer, _ in own} - places.keys():
        raise PoolError(f"A piece of {name!r} is of a sharer who is not listed", got=min(strange))
    own = sorted(own, key=lambda given: places[given[0]])
    rows, columns = shape
    tensors = {
        LORA_A: torch.zeros(len(own), r, columns),
        LORA_B: torch.zeros(len(own), rows, r),
        GATE: torch.zeros(len(own), columns),
    }
    for n, (sharer, piece) in enumerate(own):
        for stacked, part in zip(tensors.values(), (piece.A_RD, piece.B_OR, piece.gate_D), strict=True):
            if stacked.shape[1:] != part.shape:
                raise PoolError(
                    f"The piece of {name!r} that {sharer} gives has another shape",
                    got=tuple(part.shape),
                    expected=tuple(stacked.shape[1:]),
                )
            stacked[n] = part.detach()
    data = save_tensors(tensors)
    path.write_bytes(data)
    seats = tuple(places[sharer] for sharer, _ in own)
    return ModuleEntry(name=name, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), sharers=seats)


def _manifest(content: dict[str, Any], key: "Ed25519PrivateKey | None") -> bytes:
    """The bytes of a manifest, which can be read again."""
    try:
        manifest = Manifest.model_validate(content)
        data = (manifest if key is None else manifest.signed_by(key)).to_bytes()
    except ValidationError as error:
        raise manifest_error(error) from None
    except (ValueError, TypeError) as error:
        raise PoolError("The pool's manifest cannot be written as JSON", got=error) from None
    Manifest.from_bytes(data)
    return data
