"""A pool is read as it was written, lazily, and never when anything of it was changed."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from ownlm.errors import PoolError
from ownlm.perpcs.manifest import FILE
from ownlm.perpcs.pool import Pool, open_pool
from ownlm.perpcs.version import copy_pool
from tests.perpcs.pools import LORA, SHAPES, SHARERS, Given, make_pool, random_pieces

Q, V = SHAPES


@pytest.fixture
def given() -> Given:
    return random_pieces()


@pytest.fixture
def pool(tmp_path: Path, given: Given) -> Pool:
    return make_pool(tmp_path / "pool", given)


def canonical(content: dict) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def forge(folder: Path, change: Callable[[dict], object]) -> None:
    """Changes a manifest as somebody would who knows how its digest is made."""
    content = json.loads((folder / FILE).read_bytes())
    del content["digest"]
    change(content)
    content["digest"] = hashlib.sha256(canonical(content)).hexdigest()
    (folder / FILE).write_bytes(canonical(content))


def forge_module(folder: Path, module: int, data: bytes) -> None:
    """Puts another file into a pool, with the right hash."""
    told = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    forge(folder, lambda content: content["modules"][module].update(told))
    name = json.loads((folder / FILE).read_bytes())["modules"][module]["name"]
    (folder / f"{name}.safetensors").write_bytes(data)


def test_what_is_written_is_read(pool: Pool, given: Given) -> None:
    again = open_pool(pool.folder, pool.digest)
    assert (
        again.manifest == pool.manifest
        and again.digest == hashlib.sha256((pool.folder / FILE).read_bytes()).hexdigest()
    )
    assert again.modules == (Q, V) and again.lora == LORA and again.manifest.sharers == SHARERS
    for name in again.modules:
        assert again.shape(name) == SHAPES[name] and again.gates(name).shape == (3, 4)
        A_NRD, B_NOR, gate_ND = again.whole(name)
        for place, sharer in enumerate(SHARERS):
            assert again.sharer(name, place) == sharer
            piece, (A_RD, B_OR) = given[name][sharer], again.piece(name, place)
            for read in ((A_RD, B_OR, again.gates(name)[place]), (A_NRD[place], B_NOR[place], gate_ND[place])):
                for one, other in zip(read, (piece.A_RD, piece.B_OR, piece.gate_D), strict=True):
                    assert one.dtype == torch.float32 and torch.equal(one, other)


def test_a_piece_is_read_when_it_is_asked_for_and_alone(pool: Pool, given: Given) -> None:
    path = pool.folder / f"{Q}.safetensors"
    data = path.read_bytes()
    later = given[Q][SHARERS[1]].A_RD.numpy().tobytes()
    path.write_bytes(data.replace(later, bytes(len(later))))
    assert torch.equal(pool.piece(Q, 0)[0], given[Q][SHARERS[0]].A_RD)
    assert not pool.piece(Q, 1)[0].any()  # had it been read before, it would be what it was
    with pytest.raises(PoolError, match="damaged"):
        pool.whole(Q)
    path.unlink()
    assert torch.equal(pool.gates(Q)[0], given[Q][SHARERS[0]].gate_D)  # these are in memory
    for read in (lambda: pool.piece(Q, 0), lambda: pool.whole(Q)):
        with pytest.raises(PoolError, match=Q):
            read()
    path.write_bytes(data[:-1])
    with pytest.raises(PoolError, match="damaged"):
        pool.piece(Q, 0)


def test_what_was_read_is_nobody_elses(pool: Pool, given: Given) -> None:
    pool.piece(Q, 0)[0].zero_()
    assert torch.equal(pool.piece(Q, 0)[0], given[Q][SHARERS[0]].A_RD)


def test_pieces_that_are_not_there(pool: Pool) -> None:
    for place in (-1, 3):
        with pytest.raises(PoolError, match="no such piece"):
            pool.piece(Q, place)
        with pytest.raises(PoolError, match="no such piece"):
            pool.sharer(Q, place)
    with pytest.raises(PoolError, match="no such module"):
        pool.gates("layers.9.q_proj")


@pytest.mark.parametrize("file", [FILE, f"{Q}.safetensors", f"{V}.safetensors"])
def test_no_changed_byte_is_read(tmp_path: Path, file: str) -> None:
    pool = make_pool(tmp_path / "pool", random_pieces(sharers=SHARERS[:2]), SHARERS[:2])
    path = pool.folder / file
    data = path.read_bytes()
    for bits in (1, 0x20, 0x80) if file == FILE else (1,):
        for at in range(len(data)):
            with path.open("r+b") as stream:
                stream.seek(at)
                stream.write(bytes([data[at] ^ bits]))
            with pytest.raises(PoolError):
                open_pool(pool.folder)
            with path.open("r+b") as stream:
                stream.seek(at)
                stream.write(data[at : at + 1])
    assert open_pool(pool.folder).digest == pool.digest


def test_no_folder_with_other_files_is_read(pool: Pool) -> None:
    for file in sorted(pool.folder.iterdir()):
        data = file.read_bytes()
        for cut in (0, 1, len(data) // 2, len(data) - 1):
            file.write_bytes(data[:cut])
            with pytest.raises(PoolError):
                open_pool(pool.folder)
        file.write_bytes(data + b" ")
        with pytest.raises(PoolError):
            open_pool(pool.folder)
        file.unlink()
        with pytest.raises(PoolError):
            open_pool(pool.folder)
        file.mkdir()
        with pytest.raises(PoolError):
            open_pool(pool.folder)
        file.rmdir()
        elsewhere = pool.folder.parent / "elsewhere"
        elsewhere.write_bytes(data)
        if file.name != FILE:
            os.symlink(elsewhere, file)
            with pytest.raises(PoolError, match="no plain file"):
                open_pool(pool.folder)
            file.unlink()
        file.write_bytes(data)
    (pool.folder / "notes.txt").write_text("")
    with pytest.raises(PoolError, match=r"too many.*notes\.txt"):
        open_pool(pool.folder)
    (pool.folder / "notes.txt").unlink()
    assert open_pool(pool.folder).digest == pool.digest
    with pytest.raises(PoolError, match="no pool"):
        open_pool(pool.folder / "nowhere")


BESIDE = ("README.md", "readme", "LICENSE", "LICENSE-CC-BY.txt", "Licence.md", ".gitattributes", ".gitignore")


def test_what_a_publisher_puts_beside_a_pool_is_let_be_and_not_copied(pool: Pool, tmp_path: Path) -> None:
    for name in BESIDE:
        (pool.folder / name).write_text("for people")
    (pool.folder / ".git" / "objects").mkdir(parents=True)
    again = open_pool(pool.folder, pool.digest)
    assert sorted(again.files) == [f"{Q}.safetensors", f"{V}.safetensors", FILE]
    assert {path.name for path in copy_pool(again, tmp_path / "copy").folder.iterdir()} == set(again.files)
    for name in (
        "README_not",
        "more.LICENSE",
        ".gitmodules",
        ".cache",
        "LICENSE\n",
        "evil.safetensors",
        "pool.json.bak",
    ):
        (pool.folder / name).write_text("")
        with pytest.raises(PoolError, match="too many") as caught:
            open_pool(pool.folder)
        assert repr(name) in str(caught.value)
        (pool.folder / name).unlink()
    (pool.folder / f"{Q}.safetensors").unlink()
    with pytest.raises(PoolError, match="is missing"):
        open_pool(pool.folder)


def test_another_pool_is_not_read(pool: Pool, tmp_path: Path) -> None:
    other = make_pool(tmp_path / "other", random_pieces(scale=2))
    with pytest.raises(PoolError, match="has another digest"):
        open_pool(other.folder, pool.digest)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["modules"][0].update(name="../x"),
        lambda c: c["modules"][0].update(name="/x"),
        lambda c: c["modules"][0].update(name="a..b"),
        lambda c: c["modules"][0].update(name="q_proj\n"),
        lambda c: c["modules"][0].update(name="q" * 201),
        lambda c: c["modules"].append(c["modules"][0]),
        lambda c: c["modules"].clear(),
        lambda c: c["modules"][0].update(sharers=[0, 1, 3]),
        lambda c: c["modules"][0].update(sharers=[0, 2, 1]),
        lambda c: c["modules"][0].update(sharers=[0, 1]),
        lambda c: c["modules"][0].update(sharers=[0, 1, -1]),
        lambda c: c["modules"][0].update(sha256="0" * 64),
        lambda c: c["modules"][0].update(bytes=c["modules"][0]["bytes"] + 1),
        lambda c: [entry.update(sharers=[0, 1]) for entry in c["modules"]],
        lambda c: c["sharers"].reverse(),
        lambda c: c["sharers"].__setitem__(0, "ada@example.org"),
        lambda c: c["sharers"].__setitem__(1, c["sharers"][0]),
        lambda c: c["lora"].update(r=3),
        lambda c: c["lora"].update(r="2"),
        lambda c: c["lora"].update(lora_alpha=4),  # our form says 4.0
        lambda c: c["lora"].update(lora_alpha=float("inf")),
        lambda c: c["provenance"].update(seed=float("nan")),
        lambda c: c.update(version=0),
        lambda c: c.update(format=2),
        lambda c: c.update(parent="x"),
        lambda c: c.update(more=1),
        lambda c: c.pop("licence"),
    ],
)
def test_forged_manifests(pool: Pool, change: Callable[[dict], object]) -> None:
    forge(pool.folder, lambda content: None)
    assert open_pool(pool.folder).digest == pool.digest
    forge(pool.folder, change)
    with pytest.raises(PoolError):
        open_pool(pool.folder)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"1", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"version":' + b"9" * 5000 + b"}", b'"\\ud800"']
)
def test_what_is_no_manifest(pool: Pool, data: bytes) -> None:
    (pool.folder / FILE).write_bytes(data)
    with pytest.raises(PoolError):
        open_pool(pool.folder)


def test_a_manifest_in_another_form(pool: Pool) -> None:
    content = json.loads((pool.folder / FILE).read_bytes())
    twice = canonical(content).replace(b'"format":1', b'"format":1,"format":1')
    for data in (json.dumps(content, indent=1).encode(), canonical(content) + b"\n", twice):
        (pool.folder / FILE).write_bytes(data)
        with pytest.raises(PoolError, match="not what was written"):
            open_pool(pool.folder)


def test_forged_modules(pool: Pool) -> None:
    tensors = load_file(pool.folder / f"{Q}.safetensors")
    A_NRD, B_NOR, gate_ND = tensors["lora_A"], tensors["lora_B"], tensors["gate"]
    forge_module(pool.folder, 0, save(tensors))
    open_pool(pool.folder)
    wrong = [
        tensors | {"lora_A": A_NRD.half()},
        tensors | {"gate": gate_ND.double()},
        tensors | {"lora_B": B_NOR.bfloat16()},
        tensors | {"more": gate_ND.clone()},
        tensors | {"lora_A": A_NRD[:2].clone()},
        tensors | {"lora_A": A_NRD[:, :1].clone()},
        tensors | {"lora_A": A_NRD[..., :3].clone()},
        tensors | {"lora_B": B_NOR[..., :1].clone()},
        tensors | {"lora_B": B_NOR.flatten()},
        tensors | {"gate": gate_ND.flatten()},
        {"lora_A": A_NRD, "lora_B": B_NOR},
        {},
    ]
    for other in wrong:
        forge_module(pool.folder, 0, save(other))
        with pytest.raises(PoolError, match=Q):
            open_pool(pool.folder)
    for data in (b"", b"not tensors", (1 << 40).to_bytes(8, "little") + b"{}"):
        forge_module(pool.folder, 0, data)
        with pytest.raises(PoolError, match=Q):
            open_pool(pool.folder)
