"""Signatures of pools: Ed25519, by the package `cryptography`. A hash shows damage, a signature who made it."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # loaded where it is used: most pools are opened without a key at hand
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_CONTEXT = b"ownlm pool manifest\n"  # a signature of something else is none of a manifest
SHORT = 16  # letters of a fingerprint that are shown


def new_key() -> "Ed25519PrivateKey":
    """A random signing key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate()


def key_to_pem(key: "Ed25519PrivateKey") -> bytes:
    """The key in PEM (PKCS #8), unencrypted."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def key_from_pem(data: bytes) -> "Ed25519PrivateKey":
    """The key in a PEM file's content.

    Raises:
        ValueError: the content is not an Ed25519 key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, password=None)
    except (TypeError, UnsupportedAlgorithm) as error:  # encrypted, or of a kind that it does not know
        raise ValueError(str(error)) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("no Ed25519 key")
    return key


def public_key(key: "Ed25519PrivateKey") -> str:
    """The public half, as 64 hexadecimal digits."""
    return key.public_key().public_bytes_raw().hex()


def sign(key: "Ed25519PrivateKey", content: bytes) -> str:
    """The signature of a manifest's content, as 128 hexadecimal digits; always the same for the same content."""
    return key.sign(_CONTEXT + content).hex()


def is_signed(public: str, signature: str, content: bytes) -> bool:
    """Whether a signature of a content was made with a key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), _CONTEXT + content)
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(public: str | None) -> str | None:
    """A short name of a public key, from its hash; None for no key.

    >>> fingerprint("00" * 32)
    '66687aadf862bd77'
    """
    return None if public is None else hashlib.sha256(bytes.fromhex(public)).hexdigest()[:SHORT]
