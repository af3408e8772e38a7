"""Versions of a pool: written whole or not at all, never changed; the next one can leave sharers out."""

import hashlib
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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


def write_pool(
    folder: Path,
    *,
    version: int,
    parent: str | None,
    base_fingerprint: str,
    lora: LoraConfig,
    licence: str,
    provenance: Mapping[str, Any],
    sharers: Sequence[str],
    pieces: Pieces,
    shapes: Mapping[str, tuple[int, int]] | None = None,
    key: "Ed25519PrivateKey | None" = None,
    line: str | None = None,
    ancestors: Sequence[str] = (),
) -> Pool:
    """Writes a version of a pool. kill -9 leaves it whole, or a loose folder beside it and no pool.

    Args:
        folder: where to; must not be there.
        version: 1, or one more than the parent's.
        parent: the digest of the version it is made from.
        base_fingerprint: of the base that the pieces were trained on.
        lora: the pieces' shape.
        licence: under which the sharers gave them.
        provenance: how they were made, as JSON. Names nobody, sharers neither.
        sharers: random ids. Neither their order nor that of the pieces matters.
        pieces: module by module in the model's order, with who gives a piece of it; one module's are in memory at a
            time. They are kept in float32.
        shapes: O and D of modules of which perhaps nobody gives a piece; those of others are seen.
        key: signs it; without one it is of format 1, which has no signature.
        line: of the pool that it is a version of; a new one by default.
        ancestors: digests of the versions before it, the oldest first.

    Returns:
        The pool, read again.

    Raises:
        PoolError: the folder is there already, or pieces, sharers and shapes do not go together. Nothing is left then.
        StoreError: it cannot be written. Nothing is left then.
    """
    places = {sharer: place for place, sharer in enumerate(sorted(sharers))}
    with _whole_or_nothing(folder) as temporary:
        modules = [
            _write_module(temporary, name, own, places, lora.r, (shapes or {}).get(name)) for name, own in pieces
        ]
        content: dict[str, Any] = {
            "version": version, "parent": parent, "base_fingerprint": base_fingerprint, "lora": lora,
            "licence": licence, "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "provenance": dict(provenance), "sharers": sorted(sharers), "modules": modules,
        }  # fmt: skip
        if key is not None:
            content |= {"format": 2, "line": line or new_line(), "ancestors": ancestors, "publisher": public_key(key)}
        data = _manifest(content, key)
        (temporary / FILE).write_bytes(data)
    return open_pool(folder, hashlib.sha256(data).hexdigest())


def new_line() -> str:
    """A random name for a pool's versions."""
    return secrets.token_hex(16)


def without(
    pool: Pool,
    sharers: Collection[str],
    folder: Path,
    key: "Ed25519PrivateKey | None" = None,
    line: str | None = None,
) -> Pool:
    """Writes the next version of a pool, in which neither these sharers' pieces nor their ids are.

    Args:
        pool: as it is; it stays.
        sharers: random ids.
        folder: where to; must not be there.
        key: as for `write_pool`.
        line: the pool's own where its publisher makes the version; by default a new one.

    Returns:
        The new version. The pieces of all others are bit for bit what they were; a module may be left with none.

    Raises:
        PoolError: one of them is not in the pool, nobody would be left, the pool is damaged, or the folder is there.
        StoreError: it cannot be written.
    """
    gone, manifest = set(sharers), pool.manifest
    if strange := gone - set(manifest.sharers):
        raise PoolError("The pool has no such sharer", got=min(strange))
    if gone == set(manifest.sharers):
        raise PoolError("Nobody would be left in the pool", got=f"{len(gone)} sharers", hint="remove the pool")
    return write_pool(
        folder,
        version=manifest.version + 1,
        parent=pool.digest,
        base_fingerprint=manifest.base_fingerprint,
        lora=pool.lora,
        licence=manifest.licence,
        provenance=manifest.provenance,
        sharers=[sharer for sharer in manifest.sharers if sharer not in gone],
        pieces=_pieces_without(pool, gone),
        shapes={name: pool.shape(name) for name in pool.modules},
        key=key,
        line=line,
        ancestors=[*(manifest.ancestors or ([manifest.parent] if manifest.parent else [])), pool.digest],
    )


def copy_pool(pool: Pool, folder: Path) -> Pool:
    """Copies a pool as it is, whole or not at all; a README or a LICENSE beside it is not copied.

    Args:
        folder: where to; must not be there.

    Raises:
        PoolError: it changed meanwhile, or the folder is there.
        StoreError: it cannot be written.
    """
    with _whole_or_nothing(folder) as temporary:
        for name in pool.files:
            shutil.copyfile(pool.folder / name, temporary / name)
    return open_pool(folder, pool.digest)


@contextmanager
def _whole_or_nothing(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which is called so once all in it is on the disk, and is gone if that fails."""
    folder = folder.absolute()
    if folder.exists() or folder.is_symlink():
        raise PoolError(f"The folder {folder} is there already", expected="a new one: versions are never overwritten")
    temporary = folder.with_name(f"{_LOOSE}{uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.iterdir():  # all are written by now: the first to be synced takes others along
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
            raise PoolError(f"Nobody gives a piece of {name!r}, and its shape is not told")
        shape = own[0][1].B_OR.shape[0], own[0][1].A_RD.shape[-1]
    if strange := {sharer for sharer, _ in own} - places.keys():
        raise PoolError(f"A piece of {name!r} is of nobody among the sharers", got=min(strange))
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
