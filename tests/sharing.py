"""Homes in which people share: real pools and recipes on a tiny base; and rows, for tests that need no pieces."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ownlm.config import TrainConfig
from ownlm.history.record import Query
from ownlm.home import Home
from ownlm.perpcs.piece import Piece
from ownlm.perpcs.pool import Pool
from ownlm.store.pools import add_pool, users_of
from ownlm.store.rows import AdapterInfo, PoolInfo
from ownlm.workflows.pools.report import Shared
from ownlm.workflows.report import Answer
from tests.community import rows, small_home
from tests.perpcs.pools import make_pool, random_pieces
from tests.store.rows import give_consent, keep, pool_info, recipe

TASK = "sorting"
GIVERS = ("gina", "hugo", "ines", "jens")  # in the order of their records, the most first
OTHERS = ("kara", "luca", "mona")
SHARE = {"steps": 4, "gate_steps": 4, "batch_size": 4, "learning_rate": 1e-2, "gate_learning_rate": 1e-2}

Pieces = dict[str, dict[str, Piece]]  # by user, by module


def make_home(folder: Path, tiny_base: Path) -> Home:
    """Seven people with records, of whom four agree to share."""
    folder.mkdir(exist_ok=True)
    groups = [rows(user, 15 - n) for n, user in enumerate(GIVERS)] + [rows(user, 6) for user in OTHERS]
    home = small_home(folder, tiny_base, *groups)
    for user in GIVERS:
        home.consent(user, True)
    return home


def share(home: Home, **changes: Any) -> Shared:
    """A pool of all four's pieces."""
    return home.pools.share(TASK, **SHARE | {"sharers": 4} | changes)


def pieces_of(home: Home, pool: Pool) -> Pieces:
    """Everybody's pieces, by their names."""
    people, given = users_of(home.store, pool=pool.digest), dict[str, dict[str, Piece]]()
    for name in pool.modules:
        for place, gate_D in enumerate(pool.gates(name)):
            own = given.setdefault(people[pool.sharer(name, place)], {})
            own[name] = Piece(*pool.piece(name, place), gate_D)
    return given


def ask(home: Home, *users: str, text: str = "thing") -> list[Answer]:
    """What each person's own model chooses."""
    return list(home.ask_many([Query(user, "", {"text": text}) for user in users], TASK, choose=True))


def everything(folder: Path) -> dict[Path, bytes]:
    """Every file, the database and its log included."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def sharer_id(user: str) -> str:
    """Under which `put_pool` puts a person's pieces into a pool."""
    return hashlib.sha256(user.encode()).hexdigest()[:16]


def put_pool(home: Home, *sharers: str, name: str = "p1") -> PoolInfo:
    """A pool of random pieces, which fit no base, given by these people, who agree."""
    for user in sharers:
        give_consent(home.store, user, "CC-BY-4.0")
    base, ids = home.bases()[0], {sharer_id(user): user for user in sharers}
    folder = home.store.folder / "pools" / name
    pool = make_pool(folder, random_pieces(sharers=tuple(ids)), tuple(ids), base_fingerprint=base.fingerprint)
    where = {"base": base.name, "base_fingerprint": base.fingerprint, "folder": str(folder)}
    info = pool_info(pool.digest, task=TASK, sharers=len(sharers), **where)
    add_pool(home.store, info, ids)
    return info


def put_recipe(home: Home, user: str, pool: PoolInfo, number: int = 1) -> AdapterInfo:
    """Stores empty bytes in the place of a user's recipe."""
    made_with = {
        "task": home.task(TASK).model_dump(mode="json"),
        "config": TrainConfig().model_dump(mode="json"),
        "assembly": {"combine": "product", "top_k": 3},
    }
    where = {"base": pool.base, "base_fingerprint": pool.base_fingerprint}
    made = recipe(home.store, number, user, pool.digest, TASK, provenance=made_with, **where)
    keep(home.store, made, b"")
    return made


def ids_of(home: Home, users: Sequence[str]) -> list[str]:
    """The random ids of people, in whichever pool."""
    return sorted(sharer for sharer, user in users_of(home.store).items() if user in users)
