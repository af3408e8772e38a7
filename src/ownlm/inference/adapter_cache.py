"""Adapters in memory: slots of banks, of which the least recently used is given to the next adapter."""

from collections import OrderedDict
from itertools import count
from pathlib import Path

from ownlm.config import LoraConfig
from ownlm.errors import AdapterError
from ownlm.inference.load import RECIPE, is_mix, load_adapter, load_recipe
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.model.piece_bank import Banks, PieceBank
from ownlm.model.segments import BASE
from ownlm.perpcs.materialise import pool_bank, put_recipe
from ownlm.perpcs.pool import Pool, open_pool
from ownlm.store import pools
from ownlm.store.rows import AdapterInfo
from ownlm.store.store import Store

MAX_BANKS = 6  # adapter shapes, and pools, in memory together
POOL_SLOTS = 1024  # assembled users of one pool: each is a few numbers
_NUMBERS_PER_BANK = 2**20


class AdapterSlot:
    """A slot of a bank.

    Attributes:
        number: Number of the slot among those of all banks; `BASE` where the adapter is not in a bank.
        adapter: Id of the adapter in the slot; it is set when the weights are, and cleared with them.
        users: Number of running requests. While there is one, the slot gets no other adapter.
    """

    def __init__(self, bank: LoraBank | PieceBank | None, index: int, adapter: str | None = None) -> None:
        self.bank, self.index, self.adapter, self.users = bank, index, adapter, 0
        self.number = BASE if bank is None else bank.first + index

    @property
    def invocation(self) -> tuple[int, ...]:
        """Tokens of the prompt from which on the adapter acts; empty where it acts on all."""
        return (isinstance(self.bank, LoraBank) and self.bank.lora.alora_invocation_tokens) or ()

    def clear(self) -> None:
        """Overwrites the adapter's weights."""
        self.adapter = None
        assert self.bank is not None
        self.bank.clear(self.index)


class _BankSlots:
    """The slots of one bank: of adapters of one shape, or of the recipes of one pool."""

    def __init__(self, bank: LoraBank | PieceBank, pool: str | None) -> None:
        self.bank, self.pool = bank, pool
        self.slots = [AdapterSlot(bank, index) for index in range(bank.slots)]
        self.by_id: OrderedDict[str, AdapterSlot] = OrderedDict()  # least recently used first

    @property
    def in_use(self) -> bool:
        """Whether a request runs on one of the slots."""
        return any(slot.users for slot in self.by_id.values())

    def vacant(self) -> AdapterSlot | None:
        """Returns an empty slot, else the least recently used one; None while all are in use."""
        if len(self.by_id) < len(self.slots):
            return next(slot for slot in self.slots if slot.adapter is None)
        return next((slot for slot in self.by_id.values() if not slot.users), None)


class AdapterCache:
    """The adapters of one base that are in memory.

    Trained adapters lie in one bank for each shape. An assembled adapter is a few positions and weights among the
    pieces of its pool, all of which are in memory; one that these cannot express is made into matrices.

    Args:
        slots: Number of slots of each shape.
        pool_banks: Whether pools are kept in memory; otherwise all assembled adapters are made into matrices, which is
            faster for a few users.
    """

    virtual_tokens: tuple[int, ...] = ()  # put before every prompt

    def __init__(self, base: BaseLM, store: Store, slots: int, pool_banks: bool = True) -> None:
        self.base, self.store, self.slots, self.pool_banks = base, store, slots, pool_banks
        self.banks = Banks()
        self.hits = self.misses = self.evictions = 0
        self._groups: OrderedDict[str, _BankSlots] = OrderedDict()  # least recently used first
        self._pools: dict[str, Pool] = {}
        self._numbers = count()

    @property
    def used(self) -> int:
        """Number of adapters in memory."""
        return sum(len(group.by_id) for group in list(self._groups.values()))

    @property
    def size(self) -> int:
        """Number of slots."""
        return sum(len(group.slots) for group in list(self._groups.values()))

    def acquire(self, info: AdapterInfo) -> AdapterSlot | None:
        """Returns the adapter's slot, loaded if needed, and keeps it in use until `release`; None while all are in use.

        Raises:
            AdapterError, PoolError, StoreError: The adapter cannot be used.
        """
        pool = self._pool(info) if info.is_recipe else None
        as_row = pool is not None and is_mix(info) and self.pool_banks
        key = _group_key(info, as_row)
        slot = self._groups[key].by_id.get(info.id) if key in self._groups else None
        if slot is not None:
            self.hits += 1
        elif (slot := self._load(info, pool, key, as_row)) is not None:
            self.misses += 1
        else:
            return None
        self._groups.move_to_end(key)
        self._groups[key].by_id.move_to_end(info.id)
        slot.users += 1
        return slot

    def release(self, slot: AdapterSlot) -> None:
        """Ends one request's use of a slot."""
        slot.users -= 1

    def sweep(self) -> None:
        """Clears adapters and pools that the home has deleted; those in use at a later sweep.

        Raises:
            StoreError: The home cannot be read.
        """
        existing = self.store.still_there([name for group in self._groups.values() for name in group.by_id])
        digests = {one.digest for one in pools.pools(self.store)}
        for key, group in list(self._groups.items()):
            for name, slot in list(group.by_id.items()):
                if name not in existing and not slot.users:
                    del group.by_id[name]
                    slot.clear()
                    self.evictions += 1
            if group.pool is not None and group.pool not in digests and not group.in_use:
                self._drop(key)
        self._pools = {digest: pool for digest, pool in self._pools.items() if digest in digests}

    def close(self) -> None:
        """Takes all banks off the model."""
        for key in list(self._groups):
            self._drop(key)

    def _load(self, info: AdapterInfo, pool: Pool | None, key: str, as_row: bool) -> AdapterSlot | None:
        """Reads an adapter into a slot; None while there is none for it."""
        group = self._groups.get(key)
        if group is not None and group.vacant() is None:
            return None
        recipe = load_recipe(info, pool) if as_row and pool is not None else None
        adapter = load_adapter(self.store, info, self.base, pool) if recipe is None else None
        if group is None:
            if not self._make_room():
                return None
            first = next(self._numbers) * _NUMBERS_PER_BANK
            bank: LoraBank | PieceBank
            if adapter is not None:
                bank = LoraBank(self.base.model, adapter.lora, self.slots, first=first)
            else:
                assert pool is not None
                bank = pool_bank(self.base, pool, POOL_SLOTS, first)
            group = self._groups[key] = _BankSlots(bank, info.pool)
            self.banks.attach(bank)
        slot = group.vacant()
        assert slot is not None and not slot.users
        if slot.adapter is not None:
            del group.by_id[slot.adapter]
            self.evictions += 1
        slot.clear()
        if isinstance(slot.bank, PieceBank):
            assert recipe is not None and pool is not None
            put_recipe(slot.bank, slot.index, recipe, pool)
        else:
            assert adapter is not None and slot.bank is not None
            slot.bank.load(slot.index, adapter)
        slot.adapter = info.id
        group.by_id[info.id] = slot
        return slot

    def _make_room(self) -> bool:
        """Drops an idle bank if there are too many, and returns whether there is room for another."""
        if len(self._groups) < MAX_BANKS:
            return True
        idle = next((key for key, group in self._groups.items() if not group.in_use), None)
        if idle is None:
            return False
        self._drop(idle)
        return True

    def _drop(self, key: str) -> None:
        group = self._groups.pop(key)
        self.evictions += len(group.by_id)
        self.banks.detach(group.bank)

    def _pool(self, info: AdapterInfo) -> Pool:
        """Returns the pool of a recipe, if it may be used now."""
        named = pools.usable(self.store, info.pool or "")
        pool = self._pools.get(named.digest)
        if pool is None:
            pool = self._pools[named.digest] = open_pool(Path(named.folder), named.digest)
        return pool


class AttachedAdapter:
    """In place of `AdapterCache`: one adapter of another method than LoRA, which `peft` has attached to the model.

    Args:
        adapter: Id of the adapter.
        virtual_tokens: Token ids that are put before every prompt.
    """

    banks = None

    def __init__(self, adapter: str, virtual_tokens: list[int]) -> None:
        self.virtual_tokens, self._slot = tuple(virtual_tokens), AdapterSlot(None, 0, adapter)

    def acquire(self, info: AdapterInfo) -> AdapterSlot:
        """Returns the one slot, without a number."""
        return self._slot

    def release(self, slot: AdapterSlot) -> None:
        """Does nothing."""


def _group_key(info: AdapterInfo, as_row: bool) -> str:
    """Returns what adapters in one bank have in common: their pool, or their shape."""
    if info.method not in ("lora", RECIPE):
        raise AdapterError(
            "Adapters of this method cannot be served in mixed batches",
            got=info.method,
            expected="lora",
            hint="train the user with the method 'lora', or ask outside the server",
        )
    if as_row:
        return f"rows of {info.pool}"
    if not info.is_recipe:
        return LoraConfig.model_validate(info.shape).model_dump_json()
    made = info.provenance["assembly"]
    return str([sorted(info.shape.items()), made["combine"], made.get("top_k"), info.pool])
