"""A person's adapter, for other programs."""

import json
from pathlib import Path

from ownlm.durable import unfinished
from ownlm.errors import AdapterError, quoted
from ownlm.inference.load import RECIPE, licence_of, read_adapter
from ownlm.model.adapter import write_peft_folder
from ownlm.model.bases.source import hub_id
from ownlm.model.peft_adapter import PeftAdapter
from ownlm.model.peft_names import check_folder, peft_targets, skeleton
from ownlm.perpcs.materialise import of_rank
from ownlm.store.rows import AdapterInfo
from ownlm.store.store import Store
from ownlm.workflows.export_prompt import write_prompt


def export_adapter(store: Store, adapter: AdapterInfo, folder: Path, rank: int | None) -> float:
    """Writes the adapter as a PEFT folder, whole or not at all, with its prompt and a note of what it was made from.

    It names a base from the hub by its id and revision, any other by its folder. `peft` has read it, on the base's
    modules without their weights, before it is in its place.

    Args:
        rank: the nearest of this rank instead, of LoRA adapters and recipes.

    Returns:
        How far that is from the adapter, relative to it.

    Raises:
        AdapterError: the folder is not empty, the assembly stale, or `peft` reads the adapter as something else.
        BaseModelError: the base's configuration cannot be read.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AdapterError(f"The folder {folder} is not empty", expected="a new or empty folder", hint="choose another")
    if adapter.stale is not None:
        hint = f"`ownlm assemble --task {adapter.task} --user {quoted(adapter.user)}`"
        raise AdapterError(f"The assembly of user {adapter.user!r} is stale: {adapter.stale}", hint=hint)
    base, error = store.base(adapter.base), 0.0
    name, revision = hub_id(Path(base.folder)) or (str(Path(base.folder).absolute()), None)
    bare = skeleton(base.folder)
    with unfinished(folder, folder=True) as temporary:
        if adapter.method in ("lora", RECIPE):
            own = read_adapter(store, adapter)
            if rank is not None:
                own, error = of_rank(own, rank)
            targets = peft_targets(bare, list(own.pairs))
            write_peft_folder(temporary, own.to_bytes(), own.lora, name, revision, targets)
        elif rank is not None:
            raise AdapterError(f"An adapter of the method {adapter.method!r} has no rank", hint="export it as it is")
        else:
            PeftAdapter(adapter.shape, store.weights(adapter)).write_folder(temporary, name, revision)
        check_folder(temporary, bare)
        note = {
            "adapter": adapter.id,
            "user": adapter.user,
            "task": adapter.task,
            "base": adapter.base,
            "base_fingerprint": adapter.base_fingerprint,
            "records": adapter.records,
            "forgotten": adapter.forgotten,
            **({} if adapter.pool is None else {"pool": adapter.pool, "licence": licence_of(store, adapter)}),
            **({} if rank is None else {"rank": rank, "relative_error": error}),
            **adapter.provenance,
        }
        write_prompt(store, adapter, temporary)
        (temporary / "ownlm.json").write_text(json.dumps(note, indent=1) + "\n", "utf8")
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
        return error
