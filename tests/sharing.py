"""A pool and recipes in a home, as rows: for tests that need no pieces."""

from ownlm.home import Home
from ownlm.store.pools import add_pool, give_consent
from ownlm.store.rows import AdapterInfo, PoolInfo
from tests.store.rows import keep, pool_info, recipe

TASK = "sorting"


def put_pool(home: Home, *sharers: str) -> PoolInfo:
    """A pool with pieces of these people, who agree."""
    for user in sharers:
        give_consent(home.store, user, "CC-BY-4.0")
    folder, base = home.store.folder / "pools" / "p1", home.bases()[0]
    folder.mkdir(parents=True)
    info = pool_info(
        "p1" * 32,
        task=TASK,
        base=base.name,
        base_fingerprint=base.fingerprint,
        folder=str(folder),
        sharers=len(sharers),
    )
    add_pool(home.store, info, {f"id-{user}": user for user in sharers})
    return info


def put_recipe(home: Home, user: str, pool: PoolInfo, number: int = 1) -> AdapterInfo:
    """A recipe of a person."""
    made_with = {"task": home.task(TASK).model_dump(mode="json")}
    where = {"base": pool.base, "base_fingerprint": pool.base_fingerprint}
    made = recipe(home.store, number, user, pool.digest, TASK, provenance=made_with, **where)
    keep(home.store, made, b"")
    return made
