"""Rows for the store."""

from ownlm.history.record import History
from ownlm.history.task import load_task
from ownlm.store.blobs import blob_name
from ownlm.store.rows import AdapterInfo, history_digest
from ownlm.store.store import Store

TASK = load_task("LaMP_4")
NOTHING = history_digest(History("", ()))


def keep(store: Store, adapter: AdapterInfo, weights: bytes) -> None:
    """One adapter is added, or the error raised that it is not kept for."""
    if error := store.add_adapters([(adapter, weights)])[0]:
        raise error


def adapter(number: int, user: str = "ada", **changes: object) -> AdapterInfo:
    values = {
        "id": f"a{number}", "user": user, "task": TASK.name, "base": "base", "base_fingerprint": "f" * 64,
        "key": "k", "history": NOTHING, "records": 0, "upto": 0, "blob": blob_name(b"w"), "bytes": 1,
        "shape": {"r": 8}, "provenance": {},
        "steps": 4, "tokens": 5, "loss_first": 2.0, "loss_last": 1.0, "seconds": 0.5,
    }  # fmt: skip
    return AdapterInfo(**(values | changes))  # type: ignore[arg-type]
