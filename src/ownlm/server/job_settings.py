"""With which settings a person is trained or assembled by a server: those of last time, else their task's latest."""

from typing import Any

from sqlalchemy import select

from ownlm.config import LoraConfig, PromptConfig, TrainConfig
from ownlm.errors import NotFoundError
from ownlm.inference.load import RECIPE
from ownlm.store import tables
from ownlm.store.rows import AdapterInfo, JobInfo
from ownlm.store.store import Store
from ownlm.store.tables import without_number
from ownlm.workflows.bases import pick_base


def job_settings(store: Store, job: JobInfo) -> dict[str, Any]:
    """Arguments of `Home.train` or `Home.assemble`: as this person was made last, else as anybody was in their task.

    An operator who trains somebody with settings of their own thereby says how the server trains the others.
    """
    method, settings = ("lora", _of_training) if job.kind == "train" else (RECIPE, _of_assembling)
    for user in (job.user, None):
        made = last_made(store, job.task, method, user)
        if made is not None:
            try:
                return settings(store, made)
            except (KeyError, ValueError):  # another version of ownlm wrote it: the presets' settings
                return {}
    return {}


def last_made(store: Store, task: str, method: str, user: str | None) -> AdapterInfo | None:
    """The newest adapter that was made by a method, of a person or of anybody."""
    a = tables.adapters.c
    query = select(tables.adapters).where(a.task == task, a.method == method)
    if user is not None:
        query = query.where(a.user == user)
    with store.database.reading() as db:
        row = db.execute(query.order_by(a.number.desc()).limit(1)).first()
    return None if row is None else AdapterInfo(**without_number(row))


def _of_training(store: Store, adapter: AdapterInfo) -> dict[str, Any]:
    config = TrainConfig.model_validate(adapter.provenance["config"])
    parts = {"lora": LoraConfig, "prompt": PromptConfig}
    told = config.model_dump(mode="json", exclude={*parts, "virtual_tokens", "method"})
    for part in parts:
        told |= getattr(config, part).model_dump(mode="json")
    try:
        on_newest = adapter.base == pick_base(store, adapter.task, None).name
    except NotFoundError:
        on_newest = True
    return told | {"seed": adapter.provenance["seed"]} if on_newest else {}


def _of_assembling(store: Store, recipe: AdapterInfo) -> dict[str, Any]:
    return {**recipe.provenance["assembly"], "seed": recipe.provenance["seed"]}
