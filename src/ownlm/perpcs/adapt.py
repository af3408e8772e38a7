"""Assemble, then adapt: a few steps of training from an assembled start, kept only where they help the user."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from ownlm.config import TrainConfig
from ownlm.errors import TrainingError
from ownlm.model.adapter import Adapter
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.model.packed import BatchBuilder
from ownlm.model.segments import BASE
from ownlm.oppu.fleet import Job, Run, train_fleet
from ownlm.oppu.malloc import in_halves
from ownlm.oppu.memory import tokens_per_pass
from ownlm.oppu.minibatches import Chunk, TokenizedExample, apart, in_chunks, joined, tokens_of
from ownlm.oppu.minibatches import fill as fill_row
from ownlm.oppu.passes import wide
from ownlm.perpcs.assemble import Target
from ownlm.perpcs.materialise import joined as joined_adapters
from ownlm.perpcs.materialise import materialise, stacked
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import Recipe, made_of

Kept = Literal["base", "assembled", "adapted"]
HELD_BACK = 5  # every so many-th record is held back, the latest ones; of fewer records none can be
TOKENS_PER_PASS = 1024


@dataclass(frozen=True, slots=True)
class Start:
    """An assembled user to adapt, with held-back records that neither assembly nor training has seen."""

    target: Target
    recipe: Recipe
    held_back: Sequence[TokenizedExample]


@dataclass(frozen=True, slots=True)
class Adapted:
    """The result of adapting one assembled user.

    Attributes:
        kept: variant with the lowest loss on the held-back records; of equal ones the simplest.
        losses: loss of each variant on the held-back records, mean over answer tokens.
        recipe: the recipe with the weights of the kept variant; all zero for the base.
        residual: the small adapter on top, where one was trained and kept.
        run: the training run of the user.
    """

    user: str
    kept: Kept
    losses: dict[Kept, float]
    recipe: Recipe
    residual: Adapter | None
    run: Run


def split(examples: Sequence[TokenizedExample]) -> tuple[Sequence[TokenizedExample], Sequence[TokenizedExample]]:
    """Splits examples into training data and the held-back latest fifth, which is empty below five examples."""
    back = len(examples) // HELD_BACK
    return examples[: len(examples) - back], examples[len(examples) - back :]


def adapt_config(pool: Pool, steps: int, learning_rate: float, residual_rank: int | None) -> TrainConfig:
    """The training settings for a recipe's weights, or for a residual adapter with the pieces' scaling."""
    lora = pool.lora
    if residual_rank is not None:
        lora = lora.model_copy(update={"r": residual_rank, "lora_alpha": residual_rank * lora.scaling})
    return TrainConfig(lora=lora, learning_rate=learning_rate, steps=steps, weight_decay=0)


def adapt(
    base: BaseLM,
    pool: Pool,
    starts: Sequence[Start],
    config: TrainConfig,
    *,
    seed: int,
    residual: bool,
    slots: int = 8,
    on_step: Callable[[list[Run], int], None] | None = None,
) -> Iterator[Adapted | tuple[str, TrainingError]]:
    """Trains the recipes' weights, or a residual adapter each, and keeps the best of base, assembled and adapted.

        weights      y = W x + (alpha / r) sum_k w_k B_k A_k x        the K numbers w of each module train
        residual     y = W x + (alpha / r) (sum_k w_k B_k A_k + B A) x        B and A, of a low rank, train

    Args:
        starts: recipes of `product`, at most a few hundred: their pieces are in memory together.
        config: from `adapt_config`.

    Yields:
        Each user's result as their training ends; or their name and the error that ended it.

    Source: ours.
    """
    own = {start.target.user: start for start in starts}
    frozen = {
        user: materialise(start.recipe, pool) if residual else stacked(start.recipe, pool)
        for user, start in own.items()
    }
    jobs = (
        Job(
            user,
            start.target.examples,
            seed,
            frozen=frozen[user],
            weights=None if residual else start.recipe.weights(pool.modules),
        )
        for user, start in own.items()
    )
    shape = next(iter(frozen.values())).lora
    scaled: Literal["weights"] | None = None if residual else "weights"
    for run in train_fleet(base, jobs, config, slots=slots, scaled=scaled, frozen=shape, on_step=on_step):
        start = own[run.job.user]
        if run.error:
            yield run.job.user, run.error
        else:
            yield _best(base, pool, start, run)


def _best(base: BaseLM, pool: Pool, start: Start, run: Run) -> Adapted:
    assembled = materialise(start.recipe, pool)
    recipe, residual = start.recipe, None
    if run.scales is not None:
        weight_MK = torch.stack([run.scales[name] for name in pool.modules])
        recipe = made_of("product", torch.from_numpy(start.recipe.place_MK.astype(np.int64)), weight_MK)
        adapted = materialise(recipe, pool)
    else:
        assert isinstance(run.adapter, Adapter)
        residual = run.adapter
        adapted = joined_adapters(assembled, residual)
    losses: dict[Kept, float] = {
        "base": answer_loss(base, None, start.held_back),
        "assembled": answer_loss(base, assembled, start.held_back),
        "adapted": answer_loss(base, adapted, start.held_back),
    }
    kept = min(losses, key=losses.__getitem__)
    if kept == "assembled":
        recipe, residual = start.recipe, None
    elif kept == "base":
        recipe, residual = replace(start.recipe, weight_MK=np.zeros_like(start.recipe.weight_MK)), None
    return Adapted(start.target.user, kept, losses, recipe, residual, run)


@torch.inference_mode()
def answer_loss(base: BaseLM, adapter: Adapter | None, examples: Sequence[TokenizedExample]) -> float:
    """The mean over answer tokens of -log p, with an adapter or with the base alone."""
    total, slot = 0.0, 0 if adapter else BASE
    bank = None
    if adapter is not None:
        bank = LoraBank(base.model, adapter.lora, 1)
        bank.load(0, adapter)

    def run(singles: Sequence[Chunk]) -> float:
        row = BatchBuilder()
        fill_row(row, joined(singles), share_prefix=True)
        batch = row.pack(base.device)
        if bank is None:
            logits_PV = base.logits(batch)
        else:
            with bank.attached():
                logits_PV = base.logits(batch, bank)
        losses_P = F.cross_entropy(wide(logits_PV), batch.target_P, reduction="none")
        return float(losses_P.double() @ batch.weight_P)

    for chunk in in_chunks(slot, examples, tokens_per_pass(base, TOKENS_PER_PASS), share_prefix=True):
        total += sum(in_halves(run, apart(chunk), "One example", lambda one: tokens_of(one.examples, False)))
    return total
