"""What a vLLM server is told at its start, and what it may serve: shared by our side and the plugin inside it."""

import hashlib
import hmac
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from ownlm.config import LoraConfig
from ownlm.errors import AdapterError, NotFoundError, PoolError
from ownlm.filesystem import read_regular
from ownlm.inference.load import RECIPE
from ownlm.model.bases.files import named_by
from ownlm.perpcs.manifest import FILE, Manifest
from ownlm.perpcs.recipe import Recipe, assembled_shape
from ownlm.store import pools
from ownlm.store.exports import version_of
from ownlm.store.rows import AdapterInfo, BaseInfo
from ownlm.store.store import Store

VARIABLE: Final = "OWNLM_VLLM"  # of the environment, which other users of the machine cannot read
NOBODY: Final = "nobody"  # the version of the adapter that does nothing
RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM can be started for
LEAST: Final = LoraConfig().target_modules  # where nobody has an adapter yet
AGAIN: Final = "restart `ownlm serve`"


@dataclass(frozen=True, slots=True)
class Terms:
    """What our side and the plugin agree on for one run of the server.

    Attributes:
        home: whose adapters.
        copies: where they are written out.
        base, fingerprint: of the base it serves.
        rank: the highest.
        modules: kinds of modules that have room for an adapter.
        secret: signs the names of adapters.
        key: what every request must bring.
    """

    home: str
    copies: str
    base: str
    fingerprint: str
    folder: str
    rank: int
    modules: tuple[str, ...]
    secret: str = field(repr=False)
    key: str = field(repr=False)

    def environment(self) -> dict[str, str]:
        """The same as a variable for the server's environment: a command line can be read by everybody."""
        return {VARIABLE: json.dumps(asdict(self))}

    @staticmethod
    def given(environment: Mapping[str, str] = os.environ) -> "Terms | None":
        """What this process was told, if it is such a server."""
        told = environment.get(VARIABLE)
        if told is None:
            return None
        known = json.loads(told)
        return Terms(**known | {"modules": tuple(known["modules"])})

    def name(self, adapter: AdapterInfo | None) -> str:
        """What the server knows an adapter as; None is the one that does nothing."""
        return self.name_of(NOBODY if adapter is None else version_of(adapter))

    def name_of(self, version: str) -> str:
        """The same by the version: nobody without the secret can make such a name."""
        return f"{version}.{self._signature(version)}"

    def version(self, name: str) -> str | None:
        """The version that a name was given out for; None if it was not."""
        version, _, signature = name.rpartition(".")
        right = hmac.compare_digest(signature.encode(), self._signature(version).encode())
        return version if right else None

    def _signature(self, version: str) -> str:
        return hmac.new(self.secret.encode(), version.encode(), hashlib.sha256).hexdigest()

    def check(self, store: Store, adapter: AdapterInfo) -> None:
        """Raises an AdapterError where the server cannot serve an adapter; a PoolError where its pool is damaged."""
        whose = f"The adapter of user {adapter.user!r}"
        if adapter.method not in ("lora", RECIPE):
            raise AdapterError(
                f"{whose} was trained with {adapter.method!r}, which vLLM cannot serve",
                expected="LoRA, or a recipe",
                hint="train the person with LoRA, or serve with ownlm's own engine",
            )
        if adapter.stale is not None:
            raise AdapterError(f"{whose} is stale: {adapter.stale}", hint=f"`ownlm assemble --task {adapter.task}`")
        if adapter.base_fingerprint != self.fingerprint:
            raise AdapterError(
                f"{whose} was made for another base than vLLM serves",
                got=f"{adapter.base!r}",
                expected=f"{self.base!r}",
                hint="a vLLM server serves one base; start another one for the other base",
            )
        lora = shape_of(store, adapter)
        if lora.r > self.rank:
            raise AdapterError(f"{whose} is of rank {lora.r}; vLLM was started for {self.rank}", hint=AGAIN)
        if other := set(lora.target_modules) - set(self.modules):
            what = f"{whose} changes modules that vLLM was not started for"
            raise AdapterError(what, got=", ".join(sorted(other)), expected=", ".join(self.modules), hint=AGAIN)


def shape_of(store: Store, adapter: AdapterInfo) -> LoraConfig:
    """The shape of a LoRA adapter as it is served: of a recipe, that of what it makes, with what was trained on top.

    Raises:
        NotFoundError, PoolError: the recipe's pool is gone, or damaged.
    """
    own = LoraConfig.model_validate(adapter.shape)
    if adapter.recipe is None:
        return own
    recipe = Recipe.from_bytes(adapter.recipe)
    made = assembled_shape(own if adapter.blob is None else _pieces(store, adapter), recipe.combine, recipe.top_k)
    rank = made.r + (0 if adapter.blob is None else own.r)
    return made.model_copy(update={"r": rank, "lora_alpha": rank * made.scaling})


def _pieces(store: Store, adapter: AdapterInfo) -> LoraConfig:
    """The shape of the pieces of a recipe's pool."""
    folder = Path(pools.pool(store, adapter.pool).folder)
    try:
        return Manifest.from_bytes(read_regular(folder / FILE)).lora
    except OSError as error:
        raise PoolError(f"There is no pool in {folder}", got=error.strerror) from None


def rank_for(ranks: Sequence[int]) -> int:
    """The lowest that vLLM can be started for and that is enough; its highest where none is."""
    needed = max(ranks, default=1)
    return next((rank for rank in RANKS if rank >= needed), RANKS[-1])


def room_for(store: Store, base: BaseInfo) -> tuple[int, tuple[str, ...]]:
    """The rank and the kinds of modules that everybody's newest adapter on a base needs, as far as vLLM can at all."""
    shapes = []
    for adapter in store.latest_adapters().values():
        mine = adapter.base_fingerprint == base.fingerprint and adapter.stale is None
        if mine and adapter.method in ("lora", RECIPE):
            with suppress(NotFoundError, PoolError):  # told when that person asks
                shapes.append(shape_of(store, adapter))
    modules = {name for shape in shapes for name in shape.target_modules} or named_by(Path(base.folder), LEAST)
    return rank_for([shape.r for shape in shapes if shape.r <= RANKS[-1]]), tuple(sorted(modules))


def socket_in(folder: Path) -> Path:
    """Where a server listens."""
    return folder / "vllm.sock"
