"""Writes adapters as PEFT folders for vLLM, atomically, and only while the home has them."""

import os
import shutil
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import safe_open
from sqlalchemy import select

from ownlm.config import LoraConfig
from ownlm.durable import sync
from ownlm.errors import BaseModelError, SupersededError
from ownlm.inference.load import read_adapter
from ownlm.model.adapter import Adapter, LoraPair, write_peft_folder
from ownlm.model.peft_names import check_served
from ownlm.server.vllm.terms import ZERO, Terms
from ownlm.store import tables
from ownlm.store.exports import current, id_of, version_of
from ownlm.store.rows import AdapterInfo
from ownlm.store.store import Store
from ownlm.store.tables import without_number


def find(store: Store, version: str) -> AdapterInfo:
    """Returns the adapter of a version.

    Raises:
        SupersededError: The adapter was deleted, or its recipe has changed.
    """
    with store.database.reading() as db:
        row = db.execute(select(tables.adapters).where(tables.adapters.c.id == id_of(version))).first()
    if row is None or version_of(found := AdapterInfo(**without_number(row))) != version:
        raise SupersededError("The adapter was deleted", hint="ask again: the newest one answers")
    return found


def put_copy(store: Store, terms: Terms, version: str) -> Path:
    """Writes an adapter, or the exact product of a recipe, to a folder.

    Returns:
        The folder, which other users of the machine cannot read.

    Raises:
        SupersededError: The adapter was deleted.
        AdapterError: vLLM cannot serve the adapter.
        PoolError: The recipe's pool is damaged.
        StoreError: The weights are damaged.
    """
    folder = Path(terms.copies) / version
    if version != ZERO:
        info = find(store, version)
        terms.check(store, info)
    if folder.exists():  # complete, as writes are atomic; the content of a version never changes
        return folder
    adapter = zero_adapter(terms) if version == ZERO else read_adapter(store, info)
    check_served(terms.folder, tuple(adapter.pairs))
    temporary = folder.with_name(f".{version}+{uuid4().hex}")
    try:
        temporary.mkdir(mode=0o700)
        write_peft_folder(temporary, adapter.to_bytes(), adapter.lora, terms.folder)
        for file in temporary.iterdir():
            file.chmod(0o600)
            sync(file)
        sync(temporary)
        try:
            os.rename(temporary, folder)
            sync(folder.parent)
        except OSError:
            if not folder.exists():  # else another request has written it
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if version != ZERO and version not in current(store, {version}):  # deleted while it was written
        remove_copy(folder.parent, version)
        raise SupersededError("The adapter was deleted", hint="ask again")
    return folder


def remove_copy(copies: Path, version: str) -> None:
    """Removes an adapter's folder and those of interrupted writes. Each is renamed first."""
    for path in [copies / version, *copies.glob(f".{version}+*")]:
        if path.exists():
            dying = path.with_name(f".{version}+{uuid4().hex}")
            path.rename(dying)
            shutil.rmtree(dying)
    sync(copies)


def zero_adapter(terms: Terms) -> Adapter:
    """Returns an adapter that adds zero, for requests to the base alone.

    In a batch with others, vLLM's CPU build would give a sequence without an adapter the adapter of the last slot
    (0.32: an index of -1 into the stacked weights).
    """
    kind = terms.modules[0]
    for file in sorted(Path(terms.folder).glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                if name.endswith(f".{kind}.weight"):
                    height, width = tensors.get_slice(name).get_shape()
                    pair = LoraPair(torch.zeros(1, width), torch.zeros(height, 1))
                    shape = LoraConfig(r=1, lora_alpha=1.0, target_modules=(kind,))
                    return Adapter(shape, {name.removesuffix(".weight"): pair})
    raise BaseModelError(f"The base {terms.base!r} has no modules called {kind!r}", hint="serve another base")
