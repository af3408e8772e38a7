"""Cost of training: the tokens of jobs as the fleet counts them, and the speed of this machine."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ownlm.config import TrainConfig
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.oppu.fleet import Job, job_seed, train_fleet
from ownlm.oppu.memory import Room
from ownlm.oppu.minibatches import minibatches, tokens_of


@dataclass(frozen=True, slots=True)
class Work:
    """Examples, steps and tokens of one job, over all epochs."""

    examples: int
    steps: int
    tokens: int


def work_of(job: Job, bank: LoraBank, config: TrainConfig) -> Work:
    """The work of a job. It draws the job's own minibatches, as the shared prefix depends on the examples in each.

    Args:
        job: the job.
        bank: a bank of one slot; its weights are overwritten, to advance the generator as training does.
        config: settings of the training.
    """
    generator = torch.Generator().manual_seed(job_seed(job.seed, job.user))
    bank.initialise(0, generator)
    batches = minibatches(len(job.examples), config, generator)
    share_prefix = config.lora_dropout == 0
    tokens = sum(tokens_of([job.examples[index] for index in batch], share_prefix) for batch in batches)
    return Work(len(job.examples), len(batches), tokens)


def tokens_per_second(base: BaseLM, jobs: Sequence[Job], config: TrainConfig, room: Room) -> float:
    """Tokens per second of a fleet on the first steps of these jobs; the trained weights are discarded."""
    # Where only the top layers are trained, later epochs are faster than the first.
    once = config if config.lora.top_layers else config.model_copy(update={"epochs": 1})
    tokens, seconds = 0, 0.0
    for tried in (jobs[:1], list(_enough(jobs, config, room))):  # the first run also pays for one-time setup
        short = [replace(job, examples=job.examples[: config.batch_size]) for job in tried]
        started = time.perf_counter()
        runs = train_fleet(
            base, short, once, slots=room.slots, tokens_per_step=room.tokens_per_step, workers=room.workers,
            states_bytes=room.states_bytes,
        )  # fmt: skip
        tokens = sum(run.tokens for run in runs)
        seconds = time.perf_counter() - started
    return tokens / seconds


def _enough(jobs: Sequence[Job], config: TrainConfig, room: Room) -> Iterator[Job]:
    """The first jobs: as many as give every core a pass or two."""
    size = 0
    for job in jobs:
        yield job
        size += tokens_of(job.examples[: config.batch_size], config.lora_dropout == 0)
        if size > room.workers * room.tokens_per_step:
            return
