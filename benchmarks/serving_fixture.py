"""A home of a benchmark of serving: a base, and people with random adapters or recipes of random pieces."""

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
from ownlm.model.adapter import Adapter
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.model.bases.random_base import make_random_base
from ownlm.model.targets import target_modules
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import made_of
from ownlm.perpcs.version import write_pool
from ownlm.presets import SHARED
from ownlm.server.engine import Work
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
    """A home with a base, and how people in it are made."""

    home: Home
    info: BaseInfo
    base: BaseLM
    pool: Pool | None = None

    def person(self, number: int) -> AdapterInfo:
        """A new person with a trained adapter, kept in the home's blobs."""
        data = random_adapter(self.base, number).to_bytes()
        info = adapter_info(self.info, number, blob=blob_name(data), shape=LORA.model_dump(mode="json"))
        return self._kept(info, data)

    def assembled(self, number: int) -> AdapterInfo:
        """A new person with a recipe."""
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
        pool = write_pool(
            folder, version=1, parent=None, base_fingerprint=self.info.fingerprint, lora=SHARED, licence="CC0-1.0",
            provenance={"pieces": "random"}, sharers=ids, pieces=random_pieces(shapes, ids, SHARED.r),
        )  # fmt: skip
        known = self.info.name, self.info.fingerprint
        add_pool(self.home.store, PoolInfo(pool.digest, TASK, *known, 1, str(folder), SHARERS, False, {}), {})
        return pool

    def work(self, adapter: AdapterInfo | None, number: int, tokens: int) -> Work:
        """A request; the same number gives the same prompt."""
        return Work(self.info, adapter, prompt(number), tokens)


def open_stand(name: str, folder: Path) -> Stand:
    """A home with the base, without people."""
    source = make_random_base(folder / "tiny") if name == "tiny" else open_base(name, "cpu")[0].folder
    home = Home(folder / "home", device="cpu")
    info = home.add_base(str(source), name)
    home.keep_task(TASK)
    return Stand(home, info, home.load(info))


def alone(work: Callable[..., T], *args: Any) -> T:
    """Does it in a thread of its own, which then ends.

    Each thread that has called torch keeps OpenMP threads of its own. While there are more of them than cores, they do
    not wait awake for the next product, and small ones take three times as long. In a server one thread multiplies.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work, *args).result()


def random_adapter(base: BaseLM, number: int) -> Adapter:
    """An adapter as training leaves it: A as it is drawn at first, B small."""
    bank, generator = LoraBank(base.model, LORA, 1), torch.Generator().manual_seed(number)
    bank.initialise(0, generator)
    made = bank.read(0)
    for pair in made.pairs.values():
        pair.B_OR.normal_(std=SMALL_B, generator=generator)
    return made


def adapter_info(base: BaseInfo, number: int, **known: Any) -> AdapterInfo:
    """What the home would say of a person's adapter."""
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
