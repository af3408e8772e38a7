"""Settings of one run of a vLLM server, shared with the plugin inside it; and the adapters that it can serve."""

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

VARIABLE: Final = "OWNLM_VLLM"  # environment variable, which other users of the machine cannot read
ZERO: Final = "zero"  # name of the adapter that adds nothing
RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)  # the ranks that vLLM can be started with
DEFAULT_MODULES: Final = LoraConfig().target_modules  # where the home has no adapter yet
_RESTART: Final = "restart the server"


@dataclass(frozen=True, slots=True)
class Terms:
    """Settings of one run of a vLLM server.

    Attributes:
        home: Folder of the home.
        copies: Folder that adapters are written to for vLLM.
        base: Name of the base that is served.
        fingerprint: Fingerprint of that base.
        folder: Folder of that base.
        rank: Highest rank of an adapter.
        modules: Kinds of modules that adapters may change.
        key: API key that every request must have.
    """

    home: str
    copies: str
    base: str
    fingerprint: str
    folder: str
    rank: int
    modules: tuple[str, ...]
    key: str = field(repr=False)

    def environment(self) -> dict[str, str]:
        """Returns the settings as an environment variable: command lines can be read by other users of the machine."""
        return {VARIABLE: json.dumps(asdict(self))}

    @staticmethod
    def given(environment: Mapping[str, str] = os.environ) -> "Terms | None":
        """Returns the settings in this process's environment; None where it is no server of ours."""
        text = environment.get(VARIABLE)
        if text is None:
            return None
        known = json.loads(text)
        return Terms(**known | {"modules": tuple(known["modules"])})

    def check(self, store: Store, adapter: AdapterInfo) -> None:
        """Raises an AdapterError where vLLM cannot serve an adapter; a PoolError where its pool is damaged."""
        subject = f"The adapter of user {adapter.user!r}"
        if adapter.method not in ("lora", RECIPE):
            raise AdapterError(
                f"{subject} was trained with {adapter.method!r}, which vLLM cannot serve",
                expected="LoRA, or a recipe", hint="train the user with LoRA, or serve with ownlm's own engine",
            )  # fmt: skip
        if adapter.stale is not None:
            command = f"ownlm assemble --task {adapter.task}"
            raise AdapterError(f"{subject} is stale: {adapter.stale}", hint="assemble it again", command=command)
        if adapter.base_fingerprint != self.fingerprint:
            raise AdapterError(
                f"{subject} was made for another base than vLLM serves", got=f"{adapter.base!r}",
                expected=f"{self.base!r}", hint="a vLLM server serves one base; start another one for the other base",
            )  # fmt: skip
        lora = shape_of(store, adapter)
        if lora.alora_invocation_tokens:
            hint = "train the user without 'activated', or serve with ownlm's own engine"
            raise AdapterError(f"{subject} is an activated one, which vLLM cannot serve", hint=hint)
        if lora.r > self.rank:
            raise AdapterError(f"{subject} is of rank {lora.r}; vLLM was started for {self.rank}", hint=_RESTART)
        if other := set(lora.target_modules) - set(self.modules):
            what = f"{subject} changes modules that vLLM was not started for"
            raise AdapterError(what, got=", ".join(sorted(other)), expected=", ".join(self.modules), hint=_RESTART)


def name_of(adapter: AdapterInfo | None) -> str:
    """Returns the name of an adapter in vLLM: its version; ZERO for the base alone."""
    return ZERO if adapter is None else version_of(adapter)


def shape_of(store: Store, adapter: AdapterInfo) -> LoraConfig:
    """Returns the shape of the LoRA weights that vLLM loads for an adapter or a recipe.

    Raises:
        NotFoundError: The recipe's pool is gone.
        PoolError: The recipe's pool is damaged.
    """
    own = LoraConfig.model_validate(adapter.shape)
    if adapter.recipe is None:
        return own
    recipe = Recipe.from_bytes(adapter.recipe)
    made = assembled_shape(
        own if adapter.blob is None else _shape_of_pieces(store, adapter), recipe.combine, recipe.top_k
    )
    rank = made.r + (0 if adapter.blob is None else own.r)
    return made.model_copy(update={"r": rank, "lora_alpha": rank * made.scaling})


def _shape_of_pieces(store: Store, adapter: AdapterInfo) -> LoraConfig:
    folder = Path(pools.pool(store, adapter.pool).folder)
    try:
        return Manifest.from_bytes(read_regular(folder / FILE)).lora
    except OSError as error:
        raise PoolError(f"There is no pool in {folder}", got=error.strerror) from None


def rank_for(ranks: Sequence[int]) -> int:
    """Returns the lowest rank of vLLM that is enough for all of these; its highest where none is."""
    needed = max(ranks, default=1)
    return next((rank for rank in RANKS if rank >= needed), RANKS[-1])


def room_for(store: Store, base: BaseInfo) -> tuple[int, tuple[str, ...]]:
    """Returns the rank and the kinds of modules that the newest adapters on a base need, as far as vLLM has them."""
    shapes = []
    for adapter in store.latest_adapters().values():
        fits = adapter.base_fingerprint == base.fingerprint and adapter.stale is None
        if fits and adapter.method in ("lora", RECIPE):
            with suppress(NotFoundError, PoolError):  # reported when that user asks
                shapes.append(shape_of(store, adapter))
    modules = {name for shape in shapes for name in shape.target_modules}
    modules = modules or set(named_by(Path(base.folder), DEFAULT_MODULES))
    return rank_for([shape.r for shape in shapes if shape.r <= RANKS[-1]]), tuple(sorted(modules))


def socket_in(folder: Path) -> Path:
    """Returns the path of the server's socket in a folder."""
    return folder / "vllm.sock"
