"""The home of a serving benchmark: a base, and users with random adapters or recipes of random pieces."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from assemble import random_pieces
from bases import open_base

from ownlm.config import LoraConfig
from ownlm.history.record import History
from ownlm.home import Home
from ownlm.inference.request import Request
from ownlm.model.adapter import Adapter
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.model.bases.random_base import make_random_base
from ownlm.model.targets import target_modules
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import made_of
from ownlm.perpcs.version import PoolHead, write_pool
from ownlm.presets import SHARED
from ownlm.store.blobs import blob_name
from ownlm.store.pools import add_pool
from ownlm.store.rows import AdapterInfo, BaseInfo, PoolInfo, history_digest

T = TypeVar("T")
TASK = "free-text"
LORA, SMALL_B = LoraConfig(), 0.01  # of trained adapters, B's numbers are of about this size
SHARERS, TOP_K = 50, 3
WORDS = "the my message meeting budget train garden letter deadline please send move file forget".split()  # noqa: SIM905


@dataclass
class Stand:
    """A home with a base, and methods that add users."""

    home: Home
    info: BaseInfo
    base: BaseLM
    pool: Pool | None = None

    def person(self, number: int) -> AdapterInfo:
        """Adds a user with an adapter, kept in the home's blobs."""
        data = random_adapter(self.base, number).to_bytes()
        info = adapter_info(self.info, number, blob=blob_name(data), shape=LORA.model_dump(mode="json"))
        return self._kept(info, data)

    def assembled(self, number: int) -> AdapterInfo:
        """Adds a user with a recipe."""
        if self.pool is None:
            self.pool = self._random_pool()
        draw, modules = np.random.default_rng(number), len(self.pool.modules)
        places = np.stack([draw.choice(SHARERS, TOP_K, replace=False) for _ in range(modules)])
        weights = draw.dirichlet(np.ones(TOP_K), modules)
        recipe = made_of("product", torch.from_numpy(places), torch.from_numpy(weights)).to_bytes()
        how = {"assembly": {"combine": "product", "top_k": TOP_K}}
        info = adapter_info(
            self.info, number, method="recipe", recipe=recipe, pool=self.pool.digest, shape={}, provenance=how
        )
        return self._kept(info, b"")

    def _kept(self, info: AdapterInfo, weights: bytes) -> AdapterInfo:
        if not self.home.store.still_there([info.id]):
            assert self.home.store.add_adapters([(info, weights)]) == [None]
        return info

    def _random_pool(self) -> Pool:
        shapes = {name: (one.out_features, one.in_features) for name, one in target_modules(self.base.model, SHARED)}
        ids, folder = [f"{number:016x}" for number in range(SHARERS)], self.home.store.folder / "pools" / "random"
        folder.parent.mkdir(exist_ok=True)
        head = PoolHead(self.info.fingerprint, SHARED, "CC0-1.0", {"pieces": "random"}, ids)
        pool = write_pool(folder, head, random_pieces(shapes, ids, SHARED.r))
        known = self.info.name, self.info.fingerprint
        add_pool(self.home.store, PoolInfo(pool.digest, TASK, *known, 1, str(folder), SHARERS, False, {}), {})
        return pool

    def request(self, adapter: AdapterInfo | None, number: int, tokens: int) -> Request:
        """A request; the same number gives the same prompt."""
        return Request(self.info, adapter, prompt(number), tokens)


def open_stand(name: str, folder: Path) -> Stand:
    """Makes a home with the base and no users."""
    source = make_random_base(folder / "tiny") if name == "tiny" else open_base(name, "cpu")[0].folder
    home = Home(folder / "home", device="cpu")
    info = home.add_base(str(source), name)
    home.keep_task(TASK)
    return Stand(home, info, home.load(info))


def alone(work: Callable[..., T], *args: Any) -> T:
    """Runs `work` in a new thread, which then ends.

    Each thread that has called torch keeps its OpenMP threads. With more of them than cores, small products take three
    times as long, as the threads no longer wait actively. In a server one thread multiplies.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work, *args).result()


def random_adapter(base: BaseLM, number: int) -> Adapter:
    """Makes an adapter like a trained one: A as initialised, B small."""
    bank, generator = LoraBank(base.model, LORA, 1), torch.Generator().manual_seed(number)
    bank.initialise(0, generator)
    made = bank.read(0)
    for pair in made.pairs.values():
        pair.B_OR.normal_(std=SMALL_B, generator=generator)
    return made


def adapter_info(base: BaseInfo, number: int, **known: Any) -> AdapterInfo:
    """Makes a user's row in the home."""
    values = {
        "id": f"{number}{known.get('method', 'lora')}", "user": f"user{number}", "task": TASK, "base": base.name,
        "base_fingerprint": base.fingerprint, "key": "", "history": history_digest(History("", ())), "records": 0,
        "upto": 0, "blob": None,
        "bytes": 0, "provenance": {}, "steps": 0, "tokens": 0, "loss_first": None, "loss_last": None, "seconds": 0.0,
    }  # fmt: skip
    return AdapterInfo(**(values | known))


def prompt(number: int) -> str:
    """About 20 to 100 made-up words."""
    rng = random.Random(number)
    return "Write the next message. " + " ".join(rng.choice(WORDS) for _ in range(rng.randint(20, 100)))
