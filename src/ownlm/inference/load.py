"""Loads bases and users' adapters from the store, and checks that they fit together."""

from pathlib import Path

from ownlm.config import LoraConfig
from ownlm.errors import AdapterError, BaseModelError
from ownlm.model.adapter import Adapter
from ownlm.model.base import BaseLM, default_device, load_base
from ownlm.model.bases.files import fingerprint
from ownlm.model.peft_adapter import PeftAdapter
from ownlm.model.targets import check_fits, target_modules
from ownlm.perpcs.materialise import joined, materialise
from ownlm.perpcs.pool import Pool, open_pool
from ownlm.perpcs.recipe import Recipe, check_recipe
from ownlm.store import pools
from ownlm.store.rows import AdapterInfo, BaseInfo
from ownlm.store.store import Store

RECIPE = "recipe"  # the method of an adapter that was assembled


def load_registered(base: BaseInfo, device: str | None) -> BaseLM:
    """A base of the home, if it still is what it was.

    Args:
        device: where it is to run; None for a GPU if there is one, else the CPU.

    Raises:
        BaseModelError: it has changed, or cannot be loaded.
    """
    folder = Path(base.folder)
    if fingerprint(folder) != base.fingerprint:
        raise BaseModelError(
            f"The files of the base {base.name!r} have changed since it was added",
            got=f"other weights, tokenizer or configuration in {folder}",
            hint="put it back, or add what is there under another name",
        )
    return load_base(folder, name=base.name, fingerprint=base.fingerprint, device=device or default_device())


def load_adapter(store: Store, info: AdapterInfo, base: BaseLM, pool: Pool | None = None) -> Adapter:
    """A person's LoRA adapter, or what their recipe makes, checked against the base it is to run on.

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
    """A LoRA adapter; or what a recipe makes, with the small adapter on top where one was trained. Errors as above."""
    if not info.is_recipe:
        return Adapter.from_bytes(store.weights(info), LoraConfig.model_validate(info.shape))
    pool = pool or load_pool(store, info)
    adapter = materialise(load_recipe(info, pool), pool)
    if info.blob is None:
        return adapter
    return joined(adapter, Adapter.from_bytes(store.blobs.get(info.blob), LoraConfig.model_validate(info.shape)))


def load_pool(store: Store, info: AdapterInfo) -> Pool:
    """The pool that a recipe's pieces are in; errors as for `open_usable`."""
    return open_usable(store, info.pool or "")


def open_usable(store: Store, digest: str) -> Pool:
    """A pool of the home, whole and free to use.

    Raises:
        SupersededError: the home has it no more. PoolError: it is damaged, or waits for a withdrawal.
    """
    return open_pool(Path(pools.usable(store, digest).folder), digest)


def licence_of(store: Store, info: AdapterInfo) -> str:
    """Under which the sharers gave the pieces that a recipe names."""
    return load_pool(store, info).manifest.licence


def load_recipe(info: AdapterInfo, pool: Pool) -> Recipe:
    """A person's recipe; a PoolError where it is damaged, or for another pool."""
    recipe = Recipe.from_bytes(info.recipe or b"")
    check_recipe(recipe, pool)
    return recipe


def is_mix(info: AdapterInfo) -> bool:
    """Whether it needs no matrices of its own beside its pool's: a recipe of `product`, with nothing trained on top."""
    return info.is_recipe and info.blob is None and info.provenance["assembly"]["combine"] == "product"


def load_peft_adapter(store: Store, info: AdapterInfo, base: BaseLM) -> PeftAdapter:
    """A person's adapter of another method than LoRA, checked against the base it is to run on.

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
            hint="train the person again",
        )
