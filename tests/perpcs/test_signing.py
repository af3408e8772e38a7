"""Signed pools: whatever is changed, by whoever has not the key, is seen."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ownlm.errors import PoolError
from ownlm.perpcs.manifest import FILE, Manifest
from ownlm.perpcs.pool import Pool, open_pool
from ownlm.perpcs.signing import fingerprint, is_signed, key_from_pem, key_to_pem, new_key, public_key, sign
from ownlm.perpcs.version import copy_pool, without
from tests.perpcs.pools import SHARERS, make_pool, random_pieces
from tests.perpcs.test_pool import canonical, forge, forge_module

KEY, OTHER = Ed25519PrivateKey.from_private_bytes(b"k" * 32), Ed25519PrivateKey.from_private_bytes(b"o" * 32)


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return make_pool(tmp_path / "pool", random_pieces(), key=KEY)


def content_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / FILE).read_bytes())
    return content


def test_a_signed_pool_is_read_and_names_its_publisher(pool: Pool) -> None:
    manifest = open_pool(pool.folder, pool.digest).manifest
    assert manifest.publisher == public_key(KEY) and manifest.format == 2 and manifest.ancestors == ()
    assert "signature" not in manifest.content() and content_of(pool.folder)["signature"] == manifest.signature


def test_no_changed_byte_is_read(pool: Pool) -> None:
    data = (pool.folder / FILE).read_bytes()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(PoolError):
            Manifest.from_bytes(bytes(changed))


def changes() -> dict[str, Callable[[dict[str, Any]], object]]:
    return {
        "version": lambda c: c.update(version=2, parent="a" * 64, ancestors=["a" * 64]),
        "parent": lambda c: c.update(parent="a" * 64),
        "ancestors": lambda c: c.update(parent="a" * 64, ancestors=["a" * 64]),
        "base_fingerprint": lambda c: c.update(base_fingerprint="e" * 64),
        "lora": lambda c: c["lora"].update(lora_alpha=8.0),
        "licence": lambda c: c.update(licence="mine"),
        "created": lambda c: c.update(created="2020-01-01T00:00:00+00:00"),
        "provenance": lambda c: c.update(provenance={"seed": 1}),
        "sharers": lambda c: c.update(sharers=["00000000000000ab", *c["sharers"][1:]]),
        "modules": lambda c: c["modules"][0].update(sha256="a" * 64),
        "order of modules": lambda c: c.update(modules=c["modules"][::-1]),
        "line": lambda c: c.update(line="a" * 32),
        "publisher": lambda c: c.update(publisher=public_key(OTHER)),
        "signature": lambda c: c.update(signature=sign(OTHER, canonical(c))),
        "no signature": lambda c: c.update(signature=None),
    }


def forge_signed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a manifest as somebody would who knows how its digest is made, and has not the key."""
    content = content_of(folder)
    signature = content.pop("signature")

    def change_content(c: dict[str, Any]) -> None:
        c.pop("signature", None)
        change(c)
        kept[0] = c.pop("signature", signature)

    kept = [signature]
    forge(folder, change_content)
    (folder / FILE).write_bytes(canonical(content_of(folder) | {"signature": kept[0]}))


def test_forging_alone_breaks_nothing(pool: Pool) -> None:
    before = (pool.folder / FILE).read_bytes()
    forge_signed(pool.folder, lambda content: None)
    assert (pool.folder / FILE).read_bytes() == before


@pytest.mark.parametrize("field", changes())
def test_no_changed_field_is_read(pool: Pool, field: str) -> None:
    forge_signed(pool.folder, changes()[field])
    with pytest.raises(PoolError):
        open_pool(pool.folder)


def test_no_other_module_is_read(pool: Pool) -> None:
    data = (pool.folder / "layers.0.q_proj.safetensors").read_bytes()
    signature = content_of(pool.folder)["signature"]
    forge(pool.folder, lambda content: content.pop("signature"))
    forge_module(pool.folder, 0, data[:-1] + bytes([data[-1] ^ 1]))
    (pool.folder / FILE).write_bytes(canonical(content_of(pool.folder) | {"signature": signature}))
    with pytest.raises(PoolError, match="signature is not that of the publisher"):
        open_pool(pool.folder)


def test_no_manifest_of_another_pool_is_read(pool: Pool, tmp_path: Path) -> None:
    other = make_pool(tmp_path / "other", random_pieces(scale=2.0), key=KEY)
    (other.folder / FILE).replace(pool.folder / FILE)
    with pytest.raises(PoolError, match="damaged"):
        open_pool(pool.folder)


def test_a_pool_without_a_signature_is_read_as_before(tmp_path: Path) -> None:
    old = make_pool(tmp_path / "old", random_pieces())
    assert old.manifest.publisher is None and old.manifest.format == 1
    names = {"line", "ancestors", "publisher", "signature"}
    assert not names & content_of(old.folder).keys()
    for name, value in {"publisher": public_key(KEY), "signature": "0" * 128, "line": "a" * 32}.items():
        content = content_of(old.folder)
        del content["digest"]
        with pytest.raises(PoolError):
            Manifest.from_bytes(canonical(content | {name: value}))


def test_versions_name_all_before_them(pool: Pool, tmp_path: Path) -> None:
    second = without(pool, SHARERS[:1], tmp_path / "second", KEY, pool.manifest.line)
    third = without(second, SHARERS[1:2], tmp_path / "third", KEY, second.manifest.line)
    assert third.manifest.ancestors == (pool.digest, second.digest) and third.manifest.parent == second.digest
    assert third.manifest.line == pool.manifest.line and copy_pool(third, tmp_path / "copy").digest == third.digest
    old = make_pool(tmp_path / "old", random_pieces(), version=2, parent="a" * 64)
    assert without(old, SHARERS[:1], tmp_path / "next", KEY).manifest.ancestors == ("a" * 64, old.digest)


def test_keys(tmp_path: Path) -> None:
    key = new_key()
    assert public_key(key_from_pem(key_to_pem(key))) == public_key(key) != public_key(new_key())
    assert is_signed(public_key(key), sign(key, b"text"), b"text") and not is_signed(public_key(key), "00", b"text")
    assert not is_signed("ff" * 32, sign(key, b"text"), b"text")
    assert fingerprint(public_key(key)) != fingerprint(public_key(new_key())) and fingerprint(None) is None
    for data in (b"", b"no key", key_to_pem(key)[:-40]):
        with pytest.raises(ValueError):
            key_from_pem(data)
