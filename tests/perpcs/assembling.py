"""Pools for the tiny base, and people whose histories choose from them."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ownlm.config import LoraConfig
from ownlm.model.adapter import Adapter
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.model.packed import BatchBuilder
from ownlm.model.targets import target_modules
from ownlm.oppu.minibatches import TokenizedExample
from ownlm.perpcs.assemble import Assembled, Target, assemble
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import Recipe
from tests.perpcs.pools import Given, make_pool, random_pieces

QKVO = LoraConfig(r=2, lora_alpha=4, target_modules=("q_proj", "k_proj", "v_proj", "o_proj"))
MLP = LoraConfig(r=2, lora_alpha=4, target_modules=("q_proj", "gate_proj", "up_proj", "down_proj"))
IDS = [5, 17, 29, 41, 53, 7]


def sharers_of(count: int) -> list[str]:
    """As many random ids."""
    return [f"{n:016x}" for n in range(1, count + 1)]


def pieces_for(base: BaseLM, sharers: int = 5, lora: LoraConfig = QKVO, scale: float = 0.15) -> Given:
    """A piece of every module of a base from every sharer, which changes what the base says."""
    shapes = {name: (one.out_features, one.in_features) for name, one in target_modules(base.model, lora)}
    return random_pieces(shapes, sharers_of(sharers), lora.r, scale)


def pool_for(base: BaseLM, folder: Path, given: Given, lora: LoraConfig = QKVO) -> Pool:
    """A pool of these pieces; its sharers are those that give one."""
    sharers = sorted({sharer for own in given.values() for sharer in own})
    shapes = {name: (one.out_features, one.in_features) for name, one in target_modules(base.model, lora)}
    return make_pool(folder, given, sharers, lora=lora, base_fingerprint=base.fingerprint, shapes=shapes)


def histories(base: BaseLM, count: int, records: int = 4, longest: int = 14, seed: int = 0) -> list[Target]:
    """People with the same instruction and their own, random, records of different lengths."""
    rng, vocabulary = random.Random(seed), base.model.config.vocab_size

    def tokens(low: int, high: int) -> list[int]:
        return [rng.randrange(3, vocabulary) for _ in range(rng.randint(low, high))]

    instruction = tokens(6, 6)
    return [
        Target(
            f"person {n}",
            [TokenizedExample(instruction + tokens(1, longest), [*tokens(1, 4), 2]) for _ in range(records + n % 3)],
        )
        for n in range(count)
    ]


def recipes(base: BaseLM, pool: Pool, targets: Sequence[Target], **how: object) -> dict[str, Recipe]:
    """Everybody's recipe."""
    return {one.user: one.recipe for one in made(base, pool, targets, **how)}


def made(base: BaseLM, pool: Pool, targets: Sequence[Target], **how: object) -> list[Assembled]:
    """Everybody's assembly, in the order of the targets."""
    return list(assemble(base, pool, targets, **how))  # type: ignore[arg-type]


def same_recipe(one: Recipe, other: Recipe, close: float = 1e-6) -> bool:
    """Whether the choices are equal, and the weights about so."""
    return bool((one.place_MK == other.place_MK).all() and (abs(one.weight_MK - other.weight_MK) <= close).all())


def row_of(slots: Sequence[int], ids: Sequence[int] = IDS) -> BatchBuilder:
    """The same tokens for several slots, every next one asked for."""
    row = BatchBuilder()
    for slot in slots:
        row.predict(slot, row.add(slot, ids))
    return row


def random_adapter(base: BaseLM, lora: LoraConfig, seed: int = 0, std: float = 0.3) -> Adapter:
    """One that changes what the base says."""
    bank = LoraBank(base.model, lora, 1)
    bank.param_UP.normal_(std=std, generator=torch.Generator().manual_seed(seed))
    return bank.read(0)


@torch.no_grad()
def logits_of(base: BaseLM, adapter: Adapter) -> torch.Tensor:
    """What the base says to `IDS` with an adapter, in a bank of its own."""
    bank = LoraBank(base.model, adapter.lora, 1)
    bank.load(0, adapter)
    with bank.attached():
        return base.logits(row_of([0]).pack(), bank)


def by_sharer(pool: Pool, recipe: Recipe) -> list[Mapping[str, float]]:
    """By module, who was chosen, and with which weight."""
    return [
        {pool.sharer(name, place): w for place, w in zip(places, weights, strict=True) if w}
        for name, places, weights in zip(pool.modules, recipe.place_MK.tolist(), recipe.weight_MK.tolist(), strict=True)
    ]
