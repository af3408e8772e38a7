"""A pool's manifest: the base, the sharers by random id, the hash of every file, a signature.

A hash shows damage; a signature shows who made the pool. Format 1 has no signature, and is read as before.
"""

import hashlib
import json
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ownlm.config import LoraConfig
from ownlm.errors import PoolError
from ownlm.perpcs.signing import fingerprint, is_signed, sign

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FILE = "pool.json"
_MODULE = r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$"  # nothing that leads out of the folder
_LONGEST = 200  # a file's name has at most 255 bytes

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
LineId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
SharerId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class ModuleEntry(BaseModel):
    """One module's file.

    Attributes:
        sha256: SHA-256 of the whole file.
        sharers: sharers with a piece of this module, as indices into the pool's sharers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=_MODULE, max_length=_LONGEST)
    sha256: Sha256
    bytes: int = Field(ge=0)
    sharers: tuple[Annotated[int, Field(ge=0)], ...]


class Manifest(BaseModel):
    """The content of `pool.json`.

    Attributes:
        parent: digest of the version it was made from.
        provenance: how it was made. It names no user and no sharer.
        sharers: random ids, sorted, so that their order tells nothing.
        modules: one entry per adapted module, in the model's order.
        line: random id shared by all versions of a pool that one home publishes.
        ancestors: digests of the versions before it, as far as they are known, the oldest first.
        publisher: public key of the home that signed it. It names no user.
        signature: Ed25519 signature over all other fields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1, 2] = 1
    version: int = Field(ge=1)
    parent: Sha256 | None
    base_fingerprint: str = Field(min_length=1)
    lora: LoraConfig
    licence: str = Field(min_length=1)
    created: str
    provenance: dict[str, Any]
    sharers: tuple[SharerId, ...] = Field(min_length=1)
    modules: tuple[ModuleEntry, ...] = Field(min_length=1)
    line: LineId | None = None
    ancestors: tuple[Sha256, ...] = ()
    publisher: Sha256 | None = None
    signature: Signature | None = None

    @model_validator(mode="after")
    def _whole(self) -> "Manifest":
        if not _ascending(self.sharers):
            raise ValueError("sharers are sorted, each once")
        if len({entry.name for entry in self.modules}) < len(self.modules):
            raise ValueError("each module comes once")
        for entry in self.modules:
            if not _ascending(entry.sharers) or any(place >= len(self.sharers) for place in entry.sharers):
                raise ValueError("a module's sharers are ascending places among the pool's")
        if {place for entry in self.modules for place in entry.sharers} != set(range(len(self.sharers))):
            raise ValueError("each sharer gives at least one piece")
        if self.format == 1 and (self.line or self.ancestors or self.publisher or self.signature):
            raise ValueError("format 1 has no signature")
        if self.format == 2 and not (self.line and self.publisher):
            raise ValueError("format 2 names its line and its publisher")
        if self.ancestors and (self.ancestors[-1] != self.parent or len(set(self.ancestors)) < len(self.ancestors)):
            raise ValueError("ancestors come once each, and the last one is the parent")
        return self

    def content(self) -> dict[str, Any]:
        """The fields that the signature and the digest in the file cover."""
        signed = {"line", "ancestors", "publisher"}
        return self.model_dump(exclude={"signature"} if self.format == 2 else {"signature", *signed})

    def signed_by(self, key: "Ed25519PrivateKey") -> "Manifest":
        """A copy signed with its publisher's key."""
        return self.model_copy(update={"signature": sign(key, _canonical(self.content()))})

    def to_bytes(self) -> bytes:
        """The content of `pool.json`: one form for each manifest, with a digest of all the rest in it."""
        content = self.content()
        more = {"digest": hashlib.sha256(_canonical(content)).hexdigest()}
        return _canonical(content | more | ({"signature": self.signature} if self.format == 2 else {}))

    @staticmethod
    def from_bytes(data: bytes) -> "Manifest":
        """Reads what `to_bytes` wrote, and nothing else.

        Raises:
            PoolError: a byte is not what it was, what it says cannot be, or its signature is not its publisher's.
        """
        try:
            content = json.loads(data)
            if not isinstance(content, dict):
                raise TypeError("no JSON object")
            content.pop("digest", None)
            manifest = Manifest.model_validate(content)
            written = manifest.to_bytes()
        except ValidationError as error:
            raise manifest_error(error) from None
        except (ValueError, TypeError, RecursionError) as error:
            raise PoolError(f"The pool's {FILE} is damaged", got=error, hint="get the pool again") from None
        if written != data:
            raise PoolError(
                f"The pool's {FILE} is not what was written", expected="not a byte changed", hint="get the pool again"
            )
        if manifest.publisher and not is_signed(
            manifest.publisher, manifest.signature or "", _canonical(manifest.content())
        ):
            raise PoolError(
                "The pool's signature is not that of the publisher it names",
                expected=f"a signature by the key {fingerprint(manifest.publisher)}",
                hint="do not use it: get the pool from its publisher",
            )
        return manifest


def module_file(module: str) -> str:
    """The name of a module's file.

    Raises:
        PoolError: no module can have that name.
    """
    if len(module) > _LONGEST or not re.fullmatch(_MODULE[1:-1], module):
        raise PoolError("Invalid module name", got=repr(module), expected="a name such as layers.0.q_proj")
    return f"{module}.safetensors"


def manifest_error(error: ValidationError) -> PoolError:
    """The error for an invalid manifest."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return PoolError(
        "The pool's manifest is wrong" + (f" at {place!r}" if place else ""),
        expected=first["msg"].removeprefix("Value error, "),
    )


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _ascending(values: tuple[Any, ...]) -> bool:
    return all(one < next_one for one, next_one in pairwise(values))
