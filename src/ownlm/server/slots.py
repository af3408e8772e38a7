"""Whose adapters are in memory: slots of banks, the least recently used one given to who comes next."""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from ownlm.config import LoraConfig
from ownlm.errors import AdapterError
from ownlm.inference.load import RECIPE, is_mix, load_adapter, load_recipe
from ownlm.model.adapter import Adapter
from ownlm.model.bank import LoraBank
from ownlm.model.banks import Banks
from ownlm.model.base import BaseLM
from ownlm.model.piece_bank import PieceBank
from ownlm.perpcs.materialise import pool_bank, put_recipe
from ownlm.perpcs.pool import Pool, open_pool
from ownlm.perpcs.recipe import Recipe
from ownlm.store import pools
from ownlm.store.rows import AdapterInfo
from ownlm.store.store import Store

MOST_SHELVES = 6  # shapes of adapters, and pools, that are in memory together
MIXES = 1024  # assembled people of one pool: each is small
_APART = 2**20  # between the numbers of two banks' first slots


@dataclass(slots=True, eq=False)
class Slot:
    """A place in a bank, and which adapter lies there: the id is written when its weights are, and goes with them."""

    bank: LoraBank | PieceBank
    place: int
    holds: str | None = None
    users: int = 0  # answers under way with it: as long as there is one, nothing else comes here

    @property
    def number(self) -> int:
        """Its number among all banks' slots."""
        return self.bank.first + self.place

    def put(self, name: str, content: "Adapter | Mix") -> None:
        """Puts an adapter here instead of what is here."""
        self.wipe()
        if isinstance(self.bank, PieceBank):
            assert isinstance(content, Mix)
            put_recipe(self.bank, self.place, content.recipe, content.pool)
        else:
            assert isinstance(content, Adapter)
            self.bank.load(self.place, content)
        self.holds = name

    def wipe(self) -> None:
        """Leaves nothing of the adapter here."""
        self.holds = None
        self.bank.clear(self.place)


@dataclass(frozen=True, slots=True)
class Mix:
    """A recipe that is places and weights among the pieces of its pool."""

    recipe: Recipe
    pool: Pool


class Shelf:
    """The slots of one bank; all of one pool's recipes, or of adapters without a pool."""

    def __init__(self, bank: LoraBank | PieceBank, pool: str | None) -> None:
        self.bank, self.pool = bank, pool
        self.slots = [Slot(bank, place) for place in range(bank.slots)]
        self.by_id: OrderedDict[str, Slot] = OrderedDict()  # least recently used first

    @property
    def in_use(self) -> bool:
        """Whether an answer is under way with one of them."""
        return any(slot.users for slot in self.by_id.values())

    def vacant(self) -> Slot | None:
        """A slot that nothing lies in, else the one least recently used; None while all are in use."""
        if len(self.by_id) < len(self.slots):
            return next(slot for slot in self.slots if slot.holds is None)
        return next((slot for slot in self.by_id.values() if not slot.users), None)


class Slots:
    """The adapters of one base that are in memory.

    Trained adapters lie in slots of a bank for each shape. Of assembled people, each is places and weights among all
    pieces of their pool; those that these cannot express are adapters like the trained ones.

    Args:
        slots: of each shape.
    """

    def __init__(self, base: BaseLM, store: Store, slots: int) -> None:
        self.base, self.store, self.slots = base, store, slots
        self.banks = Banks()
        self.hits = self.misses = self.evictions = 0
        self._shelves: OrderedDict[str, Shelf] = OrderedDict()  # least recently used first
        self._pools: dict[str, Pool] = {}
        self._numbers = count()

    @property
    def used(self) -> int:
        """How many adapters are in memory."""
        return sum(len(shelf.by_id) for shelf in list(self._shelves.values()))

    @property
    def size(self) -> int:
        """How many slots there are."""
        return sum(len(shelf.slots) for shelf in list(self._shelves.values()))

    def take(self, info: AdapterInfo) -> Slot | None:
        """The slot that holds an adapter, loaded if need be, and in use until it is given back; None while all are.

        Raises:
            AdapterError, PoolError, StoreError: the adapter cannot be used.
        """
        pool = self._pool(info) if info.is_recipe else None
        key = _shelf_key(info)
        slot = self._shelves[key].by_id.get(info.id) if key in self._shelves else None
        if slot is not None:
            self.hits += 1
        elif (slot := self._load(info, pool, key)) is not None:
            self.misses += 1
        else:
            return None
        self._shelves.move_to_end(key)
        self._shelves[key].by_id.move_to_end(info.id)
        slot.users += 1
        return slot

    def give_back(self, slot: Slot) -> None:
        """An answer with it has ended."""
        slot.users -= 1

    def sweep(self) -> None:
        """Wipes adapters that the home has no more, and pools; those that answers are under way with, next time.

        Raises:
            StoreError: the home cannot be read.
        """
        there = self.store.still_there([name for shelf in self._shelves.values() for name in shelf.by_id])
        digests = {one.digest for one in pools.pools(self.store)}
        for key, shelf in list(self._shelves.items()):
            for name, slot in list(shelf.by_id.items()):
                if name not in there and not slot.users:
                    del shelf.by_id[name]
                    slot.wipe()
                    self.evictions += 1
            if shelf.pool is not None and shelf.pool not in digests and not shelf.in_use:
                self._drop(key)
        self._pools = {digest: pool for digest, pool in self._pools.items() if digest in digests}

    def close(self) -> None:
        """Takes all banks off the model."""
        for key in list(self._shelves):
            self._drop(key)

    def _load(self, info: AdapterInfo, pool: Pool | None, key: str) -> Slot | None:
        """Reads an adapter into a slot; None while there is none for it."""
        shelf = self._shelves.get(key)
        if shelf is not None and shelf.vacant() is None:
            return None
        if pool is not None and is_mix(info):
            content: Adapter | Mix = Mix(load_recipe(info, pool), pool)
        else:
            content = load_adapter(self.store, info, self.base, pool)
        if shelf is None:
            if not self._make_room():
                return None
            shelf = self._shelves[key] = Shelf(self._new_bank(content), info.pool)
            self.banks.attach(shelf.bank)
        slot = shelf.vacant()
        assert slot is not None and not slot.users
        if slot.holds is not None:
            del shelf.by_id[slot.holds]
            self.evictions += 1
        slot.put(info.id, content)
        shelf.by_id[info.id] = slot
        return slot

    def _new_bank(self, content: "Adapter | Mix") -> LoraBank | PieceBank:
        first = next(self._numbers) * _APART
        if isinstance(content, Mix):
            return pool_bank(self.base, content.pool, MIXES, first)
        return LoraBank(self.base.model, content.lora, self.slots, first=first)

    def _make_room(self) -> bool:
        """Whether there may be another bank, after one that nobody uses was dropped."""
        if len(self._shelves) < MOST_SHELVES:
            return True
        idle = next((key for key, shelf in self._shelves.items() if not shelf.in_use), None)
        if idle is None:
            return False
        self._drop(idle)
        return True

    def _drop(self, key: str) -> None:
        shelf = self._shelves.pop(key)
        self.evictions += len(shelf.by_id)
        self.banks.detach(shelf.bank)

    def _pool(self, info: AdapterInfo) -> Pool:
        """A recipe's pool, if it may be used now."""
        named = pools.usable(self.store, info.pool or "")
        pool = self._pools.get(named.digest)
        if pool is None:
            pool = self._pools[named.digest] = open_pool(Path(named.folder), named.digest)
        return pool


def _shelf_key(info: AdapterInfo) -> str:
    """What adapters in one bank have in common: their shape, or their pool."""
    if info.method not in ("lora", RECIPE):
        raise AdapterError(
            "Adapters of this method cannot answer together with other people's",
            got=info.method,
            expected="lora",
            hint="train the person with --method lora, or use `ownlm ask`",
        )
    if not info.is_recipe:
        return LoraConfig.model_validate(info.shape).model_dump_json()
    if is_mix(info):
        return f"rows of {info.pool}"
    made = info.provenance["assembly"]
    return str([sorted(info.shape.items()), made["combine"], made.get("top_k"), info.pool])
