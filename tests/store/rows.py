"""Rows for the store."""

from ownlm.history.record import History
from ownlm.history.task import load_task
from ownlm.store.blobs import blob_name
from ownlm.store.consents import change_consents
from ownlm.store.rows import AdapterInfo, DraftInfo, PoolInfo, history_digest
from ownlm.store.store import Store

TASK = load_task("LaMP_4")
NOTHING = history_digest(History("", ()))


def keep(store: Store, adapter: AdapterInfo, weights: bytes) -> None:
    """One adapter is added, or the error raised that it is not kept for."""
    if error := store.add_adapters([(adapter, weights)])[0]:
        raise error


def give_consent(store: Store, user: str, licence: str) -> None:
    change_consents(store, {user: licence}, ())


def take_back_consent(store: Store, user: str) -> None:
    change_consents(store, {}, [user])


def adapter(number: int, user: str = "ada", **changes: object) -> AdapterInfo:
    values = {
        "id": f"a{number}", "user": user, "task": TASK.name, "base": "base", "base_fingerprint": "f" * 64,
        "key": "k", "history": NOTHING, "records": 0, "upto": 0, "blob": blob_name(b"w"), "bytes": 1,
        "shape": {"r": 8}, "provenance": {},
        "steps": 4, "tokens": 5, "loss_first": 2.0, "loss_last": 1.0, "seconds": 0.5,
    }  # fmt: skip
    return AdapterInfo(**(values | changes))  # type: ignore[arg-type]


def recipe(store: Store, number: int, user: str, pool: str, task: str = TASK.name, **changes: object) -> AdapterInfo:
    """A recipe of a person, made of what they have now and of a pool."""
    learnt, numbers = store.numbered_history(task, user)
    content = f"recipe {number} of {user}".encode()
    values = {
        "task": task, "history": history_digest(learnt), "records": len(learnt),
        "upto": max(numbers.values(), default=0),
        "blob": None, "method": "recipe", "recipe": content, "pool": pool, "bytes": len(content),
        "steps": 0, "tokens": 0, "loss_first": None, "loss_last": None,
    }  # fmt: skip
    return adapter(number, user, **(values | changes))


def pool_info(digest: str, **changes: object) -> PoolInfo:
    values = {
        "digest": digest, "task": TASK.name, "base": "base", "base_fingerprint": "f" * 64, "version": 1,
        "folder": "/pools", "sharers": 2, "own": True, "provenance": {"seed": 0},
    }  # fmt: skip
    return PoolInfo(**(values | changes))  # type: ignore[arg-type]


def draft(user: str, kind: str = "adapter", weights: bytes = b"", **changes: str) -> tuple[DraftInfo, bytes]:
    """A draft of a person, and its weights."""
    weights = weights or f"the {kind} of {user}".encode()
    values = {"task": TASK.name, "base_fingerprint": "f" * 64, "key": f"key of {kind}"} | changes
    size = len(weights)
    return DraftInfo(
        user=user, kind=kind, blob=blob_name(weights), bytes=size, tokens=7, seconds=0.5, **values
    ), weights
