"""A person's adapter, for other programs."""

import json
import shutil
from pathlib import Path
from uuid import uuid4

from ownlm.config import LoraConfig
from ownlm.errors import AdapterError
from ownlm.model.adapter import write_peft_folder
from ownlm.model.peft_adapter import PeftAdapter
from ownlm.store.rows import AdapterInfo
from ownlm.store.store import Store


def export_adapter(store: Store, adapter: AdapterInfo, folder: Path) -> None:
    """Writes the adapter as a PEFT folder, whole or not at all, with a note of what it was made from."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AdapterError(f"The folder {folder} is not empty", expected="a new or empty folder", hint="choose another")
    base = store.base(adapter.base)
    temporary = folder.absolute().with_name(f".{folder.name}-{uuid4().hex}")
    try:
        weights = store.blobs.get(adapter.blob)
        if adapter.method == "lora":
            write_peft_folder(temporary, weights, LoraConfig.model_validate(adapter.shape), base.folder)
        else:
            PeftAdapter(adapter.shape, weights).write_folder(temporary, base.folder)
        note = {
            "adapter": adapter.id,
            "user": adapter.user,
            "task": adapter.task,
            "base": adapter.base,
            "base_fingerprint": adapter.base_fingerprint,
            "records": adapter.records,
            **adapter.provenance,
        }
        (temporary / "ownlm.json").write_text(json.dumps(note, indent=1) + "\n", "utf8")
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
