"""Training many people's adapters at once, each exactly as if it were trained alone."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ownlm.config import TrainConfig
from ownlm.errors import TrainingError
from ownlm.model.adapter import Adapter
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.model.packed import Row, common_prefix
from ownlm.model.peft_adapter import PeftAdapter
from ownlm.oppu.optim import adamw_, clip_, fresh_moments, linear_schedule

TOKENS_PER_PASS = 2048  # enough to keep two cores in large matmuls; about 2.5 GB of activations on a 135M base


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """A prompt and its answer as token ids; the answer is ended by the end-of-text token."""

    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True, slots=True)
class Job:
    """One person to train: everything their adapter depends on but the base and the config.

    Attributes:
        start: the adapter to go on from; None for fresh weights.
    """

    user: str
    examples: Sequence[TokenizedExample]
    seed: int
    start: Adapter | None = None


@dataclass(slots=True)
class Run:
    """A job under way, and in the end its outcome."""

    job: Job
    minibatches: list[list[int]]
    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    adapter: Adapter | PeftAdapter | None = None
    error: TrainingError | None = None

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return len(self.losses)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Examples of one person that go through the model together. Who else is in the pass does not change it."""

    slot: int
    examples: list[TokenizedExample]
    weight: float  # of one answer token in the minibatch's mean loss
    tokens: int


def train_fleet(
    base: BaseLM,
    jobs: Iterable[Job],
    config: TrainConfig,
    *,
    slots: int = 8,
    tokens_per_pass: int = TOKENS_PER_PASS,
    on_round: Callable[[list[Run], int], None] | None = None,
) -> Iterator[Run]:
    """Trains jobs, up to `slots` at a time, and yields each as it ends.

    A person's adapter depends on (seed, user, examples, start, config, base) alone, up to floating-point
    rounding: not on who shares the batch or the slot, nor on the order of jobs.

    Args:
        base: the frozen base.
        jobs: the people; read one by one as slots fall free.
        config: LoRA shape and optimizer settings.
        slots: how many people are in flight.
        tokens_per_pass: about how many tokens go through the model together. Memory grows with it; under dropout it
            also decides which random numbers an example meets.
        on_round: called after each round with the runs in flight and the tokens of that round.

    Yields:
        Each run, with its adapter or its error. One person's failure does not touch the others.

    Source: OPPU (arXiv 2402.04401), section 3.2. Differs: many people in one pass; no dropout unless asked for.
    """
    bank = LoraBank(base.model, config.lora, slots, trainable=True)
    bank.dropout = config.lora_dropout
    bank.generators = [torch.Generator() for _ in range(slots)]
    moments = fresh_moments(bank.param_UP)
    waiting, active = iter(jobs), dict[int, Run]()
    with bank.attached():
        while True:
            for slot in set(range(slots)) - active.keys():
                if (job := next(waiting, None)) is None:
                    break
                active[slot] = _seat(bank, slot, job, config, moments)
            if not active:
                return
            started = time.perf_counter()
            tokens = _round(base, bank, active, config, moments, tokens_per_pass)
            _share_time(active, tokens, time.perf_counter() - started)
            if on_round:
                on_round(list(active.values()), sum(tokens.values()))
            for slot, run in list(active.items()):
                if run.error is None and run.step < len(run.minibatches):
                    continue
                run.adapter = None if run.error else bank.read(slot)
                yield active.pop(slot)


def minibatches(examples: int, config: TrainConfig, generator: torch.Generator) -> list[list[int]]:
    """Which examples make each optimizer step: every epoch a new order, cut into batches."""
    batches = []
    for _ in range(config.epochs):
        order: list[int] = torch.randperm(examples, generator=generator).tolist()
        batches += [order[at : at + config.batch_size] for at in range(0, examples, config.batch_size)]
    return batches


def job_seed(seed: int, user: str) -> int:
    """A seed of a person's own, the same whoever else is trained."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{user}".encode()).digest()[:6], "big")


def _seat(bank: LoraBank, slot: int, job: Job, config: TrainConfig, moments: tuple[Tensor, Tensor]) -> Run:
    generator = bank.generators[slot].manual_seed(job_seed(job.seed, job.user))
    bank.initialise(slot, generator)  # even if other weights follow: minibatches are drawn from the same generator
    if job.start is not None:
        bank.load(slot, job.start)
    for moment_UP in moments:
        moment_UP[slot].zero_()
    return Run(job, minibatches(len(job.examples), config, generator))


def _round(
    base: BaseLM,
    bank: LoraBank,
    active: dict[int, Run],
    config: TrainConfig,
    moments: tuple[Tensor, Tensor],
    tokens_per_pass: int,
) -> dict[int, int]:
    """One optimizer step of everybody in flight; returns each slot's tokens."""
    assert bank.grad_UP is not None
    bank.grad_UP.zero_()
    share_prefix = config.lora_dropout == 0  # under dropout every sequence draws its own mask, the prefix included
    chunks = [
        chunk for slot in sorted(active) for chunk in in_chunks(slot, active[slot], tokens_per_pass, share_prefix)
    ]
    loss_U, tokens = torch.zeros(bank.slots, dtype=torch.float64), dict.fromkeys(active, 0)
    for together in _passes(chunks, tokens_per_pass):
        row = Row()
        for chunk in together:
            before = len(row.tokens)
            fill(row, chunk, share_prefix)
            tokens[chunk.slot] += len(row.tokens) - before
        batch = row.pack(base.device)
        losses_P = F.cross_entropy(wide(base.logits(batch, bank)), batch.target_P, reduction="none")
        weighted_P = losses_P * batch.weight_P.to(losses_P.dtype)
        weighted_P.sum().backward()
        loss_U.index_add_(0, batch.slot_P.cpu(), weighted_P.detach().double().cpu())
    clip_(bank.grad_UP, config.max_grad_norm)
    step_U = torch.ones(bank.slots, dtype=torch.float64, device=bank.grad_UP.device)
    lr_U = torch.zeros_like(step_U)
    for slot, run in active.items():
        if not (torch.isfinite(loss_U[slot]) and torch.isfinite(bank.grad_UP[slot]).all()):
            bank.grad_UP[slot].zero_()
            run.error = diverged(run, f"a loss of {float(loss_U[slot])}")
            continue
        lr_U[slot] = config.learning_rate * linear_schedule(run.step, len(run.minibatches), config.warmup_ratio)
        run.losses.append(float(loss_U[slot]))
        step_U[slot] = run.step
    with torch.no_grad():
        adamw_(bank.param_UP, bank.grad_UP, *moments, step_U, lr_U, weight_decay=config.weight_decay)
    for slot, run in active.items():
        if not run.error and run.step == len(run.minibatches) and not torch.isfinite(bank.param_UP[slot]).all():
            run.error = diverged(run, "weights that are no numbers")
    return tokens


def diverged(run: Run, got: str) -> TrainingError:
    """The error of a run that came to numbers that are none."""
    return TrainingError(
        f"The training of {run.job.user!r} diverged",
        got=f"{got} at step {max(run.step, 1)} of {len(run.minibatches)}",
        hint="lower the learning rate, or look for odd records with `ownlm history show`",
    )


def wide(logits_PV: Tensor) -> Tensor:
    """Logits in float32 at least, so that a loss can be computed."""
    return logits_PV.to(torch.promote_types(logits_PV.dtype, torch.float32))


def in_chunks(slot: int, run: Run, tokens_per_pass: int, share_prefix: bool) -> Iterator[Chunk]:
    """The run's next minibatch, in parts that each fit into one pass where they can."""
    examples = [run.job.examples[index] for index in run.minibatches[run.step]]
    weight = 1 / sum(len(example.answer) for example in examples)
    shared = _shared(examples) if share_prefix else 0
    part: list[TokenizedExample] = []
    size = shared
    for example in examples:
        own = len(example.prompt) + len(example.answer) - 1 - shared
        if part and size + own > tokens_per_pass:
            yield Chunk(slot, part, weight, size)
            part, size = [], shared
        part.append(example)
        size += own
    yield Chunk(slot, part, weight, size)


def _passes(chunks: Iterable[Chunk], tokens_per_pass: int) -> Iterator[list[Chunk]]:
    together: list[Chunk] = []
    for chunk in chunks:
        if together and sum(one.tokens for one in together) + chunk.tokens > tokens_per_pass:
            yield together
            together = []
        together.append(chunk)
    yield together


def _shared(examples: Sequence[TokenizedExample]) -> int:
    """Length of the beginning all prompts share; each keeps a last token of its own, which predicts its answer."""
    return min(common_prefix([example.prompt for example in examples]), min(len(e.prompt) for e in examples) - 1)


def fill(row: Row, chunk: Chunk, share_prefix: bool) -> None:
    """Adds a chunk to a row; the beginning that its prompts share is there once."""
    shared = _shared(chunk.examples) if share_prefix else 0
    prefix = row.add(chunk.slot, chunk.examples[0].prompt[:shared])
    for example in chunk.examples:
        # The answer's last token is predicted, never read.
        chain = row.add(chunk.slot, (example.prompt + example.answer[:-1])[shared:], after=prefix)
        row.predict(chunk.slot, chain[len(example.prompt) - 1 :], example.answer, chunk.weight)


def _share_time(active: dict[int, Run], tokens: dict[int, int], seconds: float) -> None:
    """A round's time, shared by tokens: what each person cost."""
    total = sum(tokens.values())
    for slot, run in active.items():
        run.tokens += tokens[slot]
        run.seconds += seconds * tokens[slot] / total
