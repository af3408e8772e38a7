"""A base, or a person's adapter, out of the store."""

from pathlib import Path

from ownlm.config import LoraConfig
from ownlm.errors import AdapterError, BaseModelError
from ownlm.model.adapter import Adapter
from ownlm.model.base import BaseLM, default_device, load_base
from ownlm.model.base_files import fingerprint
from ownlm.model.peft_adapter import PeftAdapter
from ownlm.model.targets import check_fits, target_modules
from ownlm.store.rows import AdapterInfo, BaseInfo
from ownlm.store.store import Store


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
            f"The base {base.name!r} is no longer what it was when it was added",
            got=f"other weights, tokenizer or configuration in {folder}",
            hint="put it back, or add what is there under another name",
        )
    return load_base(folder, name=base.name, fingerprint=base.fingerprint, device=device or default_device())


def load_adapter(store: Store, info: AdapterInfo, base: BaseLM) -> Adapter:
    """A person's LoRA adapter, checked against the base it is to run on.

    Raises:
        AdapterError: it was trained on another base, or its modules or shapes are not the base's.
        StoreError: its blob is missing or damaged.
    """
    _check_base(info, base)
    adapter = Adapter.from_bytes(store.blobs.get(info.blob), LoraConfig.model_validate(info.shape))
    check_fits(adapter, dict(target_modules(base.model, adapter.lora)))
    return adapter


def load_peft_adapter(store: Store, info: AdapterInfo, base: BaseLM) -> PeftAdapter:
    """A person's adapter of another method than LoRA, checked against the base it is to run on.

    Raises:
        AdapterError: it was trained on another base, or is damaged, or its modules or shapes are not the base's.
        StoreError: its blob is missing or damaged.
    """
    _check_base(info, base)
    adapter = PeftAdapter(info.shape, store.blobs.get(info.blob))
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
