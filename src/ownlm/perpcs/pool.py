"""A pool: a folder of pieces that can be published. It names no user, and a file with a changed byte is refused."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from torch import Tensor

from ownlm.config import LoraConfig
from ownlm.errors import PoolError
from ownlm.filesystem import open_regular, read_regular
from ownlm.perpcs.manifest import FILE, Manifest, ModuleEntry, module_file

LORA_A, LORA_B, GATE = "lora_A", "lora_B", "gate"

# Whoever publishes a pool may put these beside its files; they are not read, and not copied.
_BESIDE = re.compile(r"readme(\..*)?|licen[cs]e.*|\.git|\.gitattributes|\.gitignore", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Module:
    """One module's pieces: their sharers, their gates, and the size of the module."""

    entry: ModuleEntry
    gate_ND: Tensor
    out_features: int


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Checked pieces of one base and rank. Gates are in memory; matrices are read when they are asked for.

    Attributes:
        digest: SHA-256 of `pool.json`, which holds the hashes of everything else: the pool's id.
    """

    folder: Path
    manifest: Manifest
    digest: str
    _by_name: Mapping[str, _Module] = field(repr=False)

    @property
    def lora(self) -> LoraConfig:
        """The pieces' rank, scaling, and kinds of modules."""
        return self.manifest.lora

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the pool's own files in its folder."""
        return FILE, *map(module_file, self._by_name)

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the adapted modules, in the model's order."""
        return tuple(self._by_name)

    def shape(self, module: str) -> tuple[int, int]:
        """O and D of a module, known even if no sharer gives a piece of it."""
        found = self._module(module)
        return found.out_features, found.gate_ND.shape[1]

    def sharer(self, module: str, place: int) -> str:
        """The random id of the sharer of a module's piece, by its place among the module's pieces."""
        return self.manifest.sharers[self._seat(module, place)]

    def gates(self, module: str) -> Tensor:
        """The gates of a module's N pieces, gate_ND, float32. Leave them as they are; N can be 0."""
        return self._module(module).gate_ND

    def piece(self, module: str, place: int) -> tuple[Tensor, Tensor]:
        """One piece's matrices A_RD and B_OR, float32, read from its file now, and nothing else of it.

        The file was checked when the pool was opened, not again.

        Args:
            module: name of the module.
            place: index of the piece among the module's pieces.

        Raises:
            PoolError: there is no such piece, or its file cannot be read any more.
        """
        self._seat(module, place)
        try:
            with safe_open(self.folder / module_file(module), framework="numpy") as file:  # torch would keep the map
                matrices = file.get_slice(LORA_A)[place], file.get_slice(LORA_B)[place]
        except (OSError, SafetensorError) as error:
            raise _lost(module, error) from None
        return torch.from_numpy(matrices[0]), torch.from_numpy(matrices[1])

    def whole(self, module: str) -> tuple[Tensor, Tensor, Tensor]:
        """All of a module's pieces stacked, A_NRD, B_NOR and gate_ND, float32: its file is read and checked again.

        Raises:
            PoolError: there is no such module, or its file is not what it was.
        """
        entry = self._module(module).entry
        try:
            data = read_regular(self.folder / module_file(module), entry.bytes)
        except OSError as error:
            raise _lost(module, error) from None
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise _lost(module, "other bytes")
        tensors = load_tensors(data)
        return tensors[LORA_A], tensors[LORA_B], tensors[GATE]

    def _module(self, module: str) -> _Module:
        found = self._by_name.get(module)
        if found is None:
            raise PoolError("The pool has no such module", got=repr(module))
        return found

    def _seat(self, module: str, place: int) -> int:
        """The place among the pool's sharers of who gave a piece."""
        seats = self._module(module).entry.sharers
        if not 0 <= place < len(seats):
            raise PoolError(f"The pool has no such piece of {module!r}", got=place, expected=f"less than {len(seats)}")
        return seats[place]


def open_pool(folder: Path, digest: str | None = None) -> Pool:
    """Reads a pool's manifest and gates, and checks every byte of its files.

    Args:
        folder: a folder that `write_pool` made, here or elsewhere. A README, a LICENSE and git's files may lie in it.
        digest: which pool it must be; any, by default.

    Returns:
        The pool. Whether the pieces are fit for a base, `admit` tells.

    Raises:
        PoolError: there is none, it is another, a file is missing, odd or in excess, or a byte is not what it was.
    """
    try:
        data = read_regular(folder / FILE)
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise PoolError(f"There is no pool in {folder}", got=error.strerror, expected=f"a folder with {FILE}") from None
    found = hashlib.sha256(data).hexdigest()
    if digest is not None and found != digest:
        raise PoolError(f"The pool in {folder} has another digest", got=found, expected=digest, hint="check the digest")
    manifest = Manifest.from_bytes(data)
    expected = {FILE, *(module_file(entry.name) for entry in manifest.modules)}
    if wrong := {name for name in names ^ expected if name in expected or not _BESIDE.fullmatch(name)}:
        odd = min(wrong)
        raise PoolError(
            f"The pool in {folder} is not whole" if odd in expected else f"The pool in {folder} has a file too many",
            got=f"{odd!r} is missing" if odd in expected else repr(odd),
            hint="get the pool again",
        )
    modules = {entry.name: _read(folder, entry, manifest.lora.r) for entry in manifest.modules}
    return Pool(folder, manifest, found, modules)


def _read(folder: Path, entry: ModuleEntry, r: int) -> _Module:
    """Checks a module's file, and reads its gates."""
    path = folder / module_file(entry.name)
    try:
        if path.is_symlink() or not path.is_file():
            raise _lost(entry.name, "no plain file")
        if (size := path.stat().st_size) != entry.bytes:
            raise _lost(entry.name, f"{size} bytes", f"{entry.bytes} bytes")
        with open_regular(path) as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != entry.sha256:
            raise _lost(entry.name, f"SHA-256 {found}", entry.sha256)
        with safe_open(path, framework="numpy") as file:
            shapes = {name: _shape(file.get_slice(name)) for name in file.keys()}  # noqa: SIM118  it is no mapping
            match shapes.get(LORA_B), shapes.get(GATE):
                case (_, _, rows, _), (_, _, columns):
                    pass
                case _:
                    rows = columns = 0
            n = len(entry.sharers)
            expected = {LORA_A: ("F32", n, r, columns), LORA_B: ("F32", n, rows, r), GATE: ("F32", n, columns)}
            if shapes != expected:
                raise _lost(entry.name, shapes, f"lora_A [N,R,D], lora_B [N,O,R], gate [N,D] with N={n}, R={r}, in F32")
            return _Module(entry, torch.from_numpy(file.get_tensor(GATE)), rows)
    except (OSError, SafetensorError) as error:
        raise _lost(entry.name, error) from None


def _shape(tensor: Any) -> tuple[Any, ...]:
    """A stored tensor's type and shape."""
    return tensor.get_dtype(), *tensor.get_shape()


def _lost(module: str, got: object, expected: object = None) -> PoolError:
    return PoolError(
        f"The pool's pieces of {module!r} are damaged", got=got, expected=expected, hint="get the pool again"
    )
