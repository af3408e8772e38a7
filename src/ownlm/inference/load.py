"""Loads bases and users' adapters from the store, and checks that they fit together."""

from pathlib import Path

from ownlm.config import LoraConfig
from ownlm.errors import AdapterError, BaseModelError
from ownlm.model.adapter import Adapter
from ownlm.model.base import BaseLM, load_base
from ownlm.model.bases.files import fingerprint
from ownlm.model.bases.placement import Placement
from ownlm.model.peft_adapter import PeftAdapter
from ownlm.model.targets import check_fits, target_modules
from ownlm.perpcs.materialise import joined, materialise
from ownlm.perpcs.pool import Pool, open_pool
from ownlm.perpcs.recipe import Recipe, check_recipe
from ownlm.store import pools
from ownlm.store.rows import AdapterInfo, BaseInfo
from ownlm.store.store import Store

RECIPE = "recipe"  # the method of an adapter that was assembled


def load_registered(base: BaseInfo, placement: Placement) -> BaseLM:
    """Loads a base of the home, after checking that its files have not changed.

    Args:
        placement: device to run on, and type of the weights.

    Raises:
        BaseModelError: its files have changed, or it cannot be loaded.
        ConfigError: this machine does not have the device.
    """
    folder, device = Path(base.folder), placement.find_device()
    if fingerprint(folder) != base.fingerprint:
        raise BaseModelError(
            f"The files of the base {base.name!r} have changed since it was added",
            got=f"other weights, tokenizer or configuration in {folder}",
            hint="put it back, or add what is there under another name",
        )
    return load_base(folder, name=base.name, fingerprint=base.fingerprint, device=device, dtype=placement.dtype)


def load_adapter(store: Store, info: AdapterInfo, base: BaseLM, pool: Pool | None = None) -> Adapter:
    """A user's LoRA adapter, read or made from the user's recipe, and checked against the base it is to run on.

    Args:
        pool: the recipe's pool, if it is open already.

    Raises:
        AdapterError: it was made for another base, or its modules or shapes are not the base's.
        PoolError: its pool is damaged, or may not be used.
        StoreError: its blob is missing or damaged.
    """
    _check_base(info, base)
    adapter = read_adapter(store, info, pool)
    check_fits(adapter, dict(target_modules(base.model, adapter.lora)))
    return adapter


def read_adapter(store: Store, info: AdapterInfo, pool: Pool | None = None) -> Adapter:
    """A user's LoRA adapter, not checked against a base: read, or made from a recipe and its residual adapter."""
    if not info.is_recipe:
        return Adapter.from_bytes(store.weights(info), LoraConfig.model_validate(info.shape))
    pool = pool or load_pool(store, info)
    adapter = materialise(load_recipe(info, pool), pool)
    if info.blob is None:
        return adapter
    return joined(adapter, Adapter.from_bytes(store.blobs.get(info.blob), LoraConfig.model_validate(info.shape)))


def load_pool(store: Store, info: AdapterInfo) -> Pool:
    """The pool that holds a recipe's pieces; errors as for `open_usable`."""
    return open_usable(store, info.pool or "")


def open_usable(store: Store, digest: str) -> Pool:
    """Opens a pool of the home that is whole and may be used.

    Raises:
        SupersededError: the home no longer has it. PoolError: it is damaged, or waits for a withdrawal.
    """
    return open_pool(Path(pools.usable(store, digest).folder), digest)


def licence_of(store: Store, info: AdapterInfo) -> str:
    """The licence under which the sharers gave a recipe's pieces."""
    return load_pool(store, info).manifest.licence


def load_recipe(info: AdapterInfo, pool: Pool) -> Recipe:
    """A user's recipe; raises a PoolError where it is damaged, or for another pool."""
    recipe = Recipe.from_bytes(info.recipe or b"")
    check_recipe(recipe, pool)
    return recipe


def is_mix(info: AdapterInfo) -> bool:
    """Whether an adapter needs no matrices beside its pool's: a recipe of `product` without a residual adapter."""
    return info.is_recipe and info.blob is None and info.provenance["assembly"]["combine"] == "product"


def load_peft_adapter(store: Store, info: AdapterInfo, base: BaseLM) -> PeftAdapter:
    """A user's adapter of another method than LoRA, checked against the base it is to run on.

    Raises:
        AdapterError: it is a recipe, or was trained on another base, or is damaged, or its modules or shapes are not
            the base's.
        StoreError: its blob is missing or damaged.
    """
    _check_base(info, base)
    adapter = PeftAdapter(info.shape, store.weights(info))
    with adapter.attached(base.model):
        return adapter


def _check_base(info: AdapterInfo, base: BaseLM) -> None:
    if info.base_fingerprint != base.fingerprint:
        raise AdapterError(
            f"The adapter of user {info.user!r} was trained on another base",
            got=f"{base.name!r} ({base.fingerprint[:12]})",
            expected=f"{info.base!r} ({info.base_fingerprint[:12]})",
            hint="train the user's adapter again",
        )
