"""Training of many users' adapters at once, each exactly as if it were trained alone.

A *step* is an optimizer step of one user or several: one forward and backward pass over as many users' minibatches as
fit into it; or several passes, where one user's minibatch is larger. On a CPU each core runs a separate pass: a core
multiplies matrices fastest alone, and does not wait for the others.

Begin with `examples/minimal_loop.py`, which trains the same weights one user at a time, in 150 lines. Here, read
`train_fleet` first, then `_Fleet` in the order of a pass: `seat`, `next_pass`, `run_pass`, `finish`, `ended`.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from math import isfinite

import torch
from torch import Tensor

from ownlm.config import LoraConfig, TrainConfig
from ownlm.errors import TrainingError, argument
from ownlm.model.adapter import Adapter
from ownlm.model.bank import LoraBank, Scaled
from ownlm.model.base import BaseLM
from ownlm.model.dropout import sequence_seed
from ownlm.model.forward_context import split_at
from ownlm.model.peft_adapter import PeftAdapter
from ownlm.model.segments import to_device
from ownlm.model.targets import decoder_layers
from ownlm.oppu.lower import LowerStates
from ownlm.oppu.malloc import keeping_freed_memory
from ownlm.oppu.minibatches import Chunk, TokenizedExample, in_chunks, minibatches, tokens_of
from ownlm.oppu.optim import adamw_, clip_, fresh_moments, linear_schedule
from ownlm.oppu.passes import Passed, Passes
from ownlm.oppu.state import RunState

TOKENS_PER_STEP = 1024  # keeps a core in large matmuls
STATES_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class Job:
    """One user to train: everything the adapter depends on besides the base and the config.

    Attributes:
        user: name of the user.
        examples: training data.
        seed: seed of weights, minibatches and dropout masks.
        start: the adapter that training continues from; None for fresh weights.
        frozen: an adapter that is not trained: the trained parameters scale it, or are added to it.
        weights: initial weights by module, w_K; only where weights are trained.
        state: state of an interrupted run of this job, to continue from.
    """

    user: str
    examples: Sequence[TokenizedExample]
    seed: int
    start: Adapter | None = None
    frozen: Adapter | None = None
    weights: Mapping[str, Tensor] | None = None
    state: RunState | None = None


@dataclass(slots=True)
class Run:
    """A running job, and finally its result.

    Attributes:
        job: the job.
        minibatches: indices of the examples of each optimizer step.
        step: number of optimizer steps taken.
        losses: mean loss of each minibatch, set at the end.
        tokens: tokens of all minibatches so far; a shared prompt prefix counts once.
        seconds: machine time, split by tokens; on a GPU, the time to launch the work.
        adapter: the trained adapter.
        scales: the trained gates g_D or weights w_K, by module, where those were trained instead.
        error: the reason why the run failed.
    """

    job: Job
    minibatches: list[list[int]]
    step: int = 0
    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    adapter: Adapter | PeftAdapter | None = None
    scales: dict[str, Tensor] | None = None
    error: TrainingError | None = None


# Called after each step, for each run that took it and has steps left, with a function that copies the run's state.
# That function is only valid during the call.
OnState = Callable[[Run, Callable[[], RunState]], None]


@dataclass(slots=True)
class _Step:
    """A running step."""

    tokens: dict[int, int]  # by slot, ascending
    passes: list[list[Chunk]]
    passed: dict[int, Passed] = field(default_factory=dict)  # by place among the passes


def train_fleet(
    base: BaseLM, jobs: Iterable[Job], config: TrainConfig, *, slots: int = 8, tokens_per_step: int = TOKENS_PER_STEP,
    workers: int | None = None, states_bytes: int = STATES_BYTES, scaled: Scaled | None = None,
    frozen: LoraConfig | None = None, on_step: Callable[[list[Run], int], None] | None = None,
    on_state: OnState | None = None,
) -> Iterator[Run]:  # fmt: skip
    """Trains jobs, up to `slots` at a time, and yields each as it ends.

    An adapter depends on (seed, user, examples, start, config, base) alone, up to floating-point rounding: not on the
    other users in the batch, the slot, or the order of jobs.

    Args:
        base: the frozen base.
        jobs: users to train; read one by one as slots become free, while others are trained.
        config: shape of LoRA and settings of the optimizer.
        slots: number of users in flight.
        tokens_per_step: approximate number of tokens in one pass.
        workers: number of passes that run at once; by default, and at most, `workers_for`. Memory grows with `slots`
            and with `workers` times `tokens_per_step`, not with the number of jobs.
        states_bytes: with `top_layers`, the most memory for kept hidden states; the others are computed again.
        scaled: train gates or weights that scale the jobs' frozen adapters, instead of an adapter.
        frozen: shape of the jobs' frozen adapters, if any. With weights, they are stacked pieces of the config's rank.
        on_step: called after each step with the runs that took it and its tokens.
        on_state: see `OnState`.

    Yields:
        Each run, with its adapter or its error. One user's failure does not affect the others.

    Source: OPPU (arXiv 2402.04401), section 3.2. Differs: many users in one pass; no dropout by default.
    """
    most = workers_for(base.device, config)
    bank = _bank(base, config, slots, scaled, frozen)
    first = _first_layer(base, bank)
    lower = None if first is None else LowerStates(base, states_bytes)
    fleet, waiting = _Fleet(base, bank, config, tokens_per_step, min(workers or most, most), lower), iter(jobs)
    split = nullcontext() if first is None else split_at(decoder_layers(base.model), first)
    under_way: dict[Future[Passed], tuple[_Step, int]] = {}
    with keeping_freed_memory(), fleet.bank.attached(), split, _threads(fleet.workers) as pool:
        while True:
            while len(under_way) < fleet.workers and (task := fleet.next_pass()):
                step, place = task
                under_way[pool.submit(fleet.run_pass, step.passes[place])] = task
            job = next(waiting, None) if fleet.free else None
            if job is not None:
                fleet.seat(job)
            elif not under_way:
                return
            # While another job may be waiting for a slot, this does not block.
            for future in wait(under_way, 0 if job else None, FIRST_COMPLETED).done:
                step, place = under_way.pop(future)
                step.passed[place] = future.result()
                if len(step.passed) < len(step.passes):
                    continue
                runs, tokens = fleet.finish(step)
                if on_step:
                    on_step(runs, tokens)
                yield from fleet.ended(step, on_state)


def job_seed(seed: int, user: str) -> int:
    """The seed of one user, independent of other users."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{user}".encode()).digest()[:6], "big")


def diverged(run: Run, got: str) -> TrainingError:
    """The error of a run with losses or weights that are not finite."""
    return TrainingError(
        f"The training of {run.job.user!r} diverged",
        got=f"{got} of {len(run.minibatches)}",
        hint="lower the learning rate, or look for odd records",
        command=f"ownlm history show {argument(run.job.user)}",
    )


def workers_for(device: torch.device, config: TrainConfig) -> int:
    """Number of passes that run at once: one per CPU core."""
    return torch.get_num_threads() if device.type == "cpu" else 1


@contextmanager
def _threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads, each with its share of the cores."""
    cores = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(max(1, cores // workers),))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)


def _bank(base: BaseLM, config: TrainConfig, slots: int, scaled: Scaled | None, frozen: LoraConfig | None) -> LoraBank:
    """The bank of slots, with room for the frozen adapters."""
    if scaled is not None:
        assert frozen is not None
        return LoraBank(base.model, config.lora, slots, scaled=scaled, pieces=frozen.r // config.lora.r)
    beside = () if frozen is None else (LoraBank(base.model, frozen, slots),)
    return LoraBank(base.model, config.lora, slots, beside=beside)


def _first_layer(base: BaseLM, bank: LoraBank) -> int | None:
    """The layer that passes may begin at: the lowest with adapters. None where passes must run all layers."""
    top = bank.lora.top_layers
    first = 0 if top is None else len(decoder_layers(base.model)) - top
    return first if first and not bank.beside and base.splits_at(first) else None


class _Fleet:
    """State of the slots, and the queue of passes. Passes may run in several threads, everything else in one."""

    def __init__(
        self, base: BaseLM, bank: LoraBank, config: TrainConfig, tokens_per_step: int, workers: int,
        lower: LowerStates | None,
    ) -> None:  # fmt: skip
        self.base, self.bank, self.config, self.lower = base, bank, config, lower
        self.tokens_per_step, self.workers = tokens_per_step, workers
        self.bank.dropout = config.lora_dropout
        self.moments = fresh_moments(self.bank.param_UP)
        self.share_prefix = config.lora_dropout == 0  # under dropout each sequence has its own masks
        self.passes = Passes(base, bank, self.share_prefix, lower)
        self.free = list(range(bank.slots))[::-1]
        self.runs: dict[int, Run] = {}  # by slot
        self.losses: dict[int, list[Tensor]] = {}  # by slot; read at the end, so that no step waits for a GPU
        self.ready: deque[int] = deque()  # slots waiting for their next step
        self.todo: deque[tuple[_Step, int]] = deque()  # passes of started steps

    def seat(self, job: Job) -> None:
        """Puts a job into a free slot."""
        slot = self.free.pop()
        generator = torch.Generator().manual_seed(job_seed(job.seed, job.user))
        self.bank.initialise(slot, generator)  # even if other weights follow: it also advances the generator
        if job.start is not None:
            self.bank.load(slot, job.start)
        if job.frozen is not None:
            (self.bank if self.bank.scaled else self.bank.beside[0]).load(slot, job.frozen)
        if job.weights is not None:
            self.bank.load_weights(slot, job.weights)
        for moment_UP in self.moments:
            moment_UP[slot].zero_()
        self.runs[slot] = Run(job, minibatches(len(job.examples), self.config, generator))
        self.losses[slot] = []
        if self.lower:
            self.lower.begin(slot, again=sum(map(len, self.runs[slot].minibatches)) > len(job.examples))
        if job.state is not None:
            self._restore(slot, job.state)
        self.ready.append(slot)

    def state(self, slot: int) -> RunState:
        """A copy of a slot's state between two steps."""
        run, losses = self.runs[slot], torch.stack(self.losses[slot]).cpu()
        everything = (self.bank.param_UP, *self.moments)
        param_P, first_P, second_P = [whole_UP[slot].to("cpu", copy=True) for whole_UP in everything]
        return RunState(param_P, first_P, second_P, losses, run.tokens, run.seconds)

    def _restore(self, slot: int, state: RunState) -> None:
        """Puts a state into a slot."""
        rows = state.param_P, state.first_P, state.second_P
        for whole_UP, own_P in zip((self.bank.param_UP, *self.moments), rows, strict=True):
            whole_UP[slot] = own_P.to(whole_UP)
        self.losses[slot] = list(state.loss_S.to(self.base.device))
        run = self.runs[slot]
        run.step, run.tokens, run.seconds = state.step, state.tokens, state.seconds

    def next_pass(self) -> tuple[_Step, int] | None:
        """The next pass to run: its step, and its index there."""
        if not self.todo and self.ready:
            step = self._next_step()
            self.todo.extend((step, place) for place in range(len(step.passes)))
        return self.todo.popleft() if self.todo else None

    def _next_step(self) -> _Step:
        """The next minibatches of the slots that have waited longest, as many as one pass holds."""
        examples, seeds, tokens = dict[int, list[TokenizedExample]](), dict[int, list[int]](), dict[int, int]()
        users = -(-len(self.runs) // self.workers)  # per worker, so that no worker is idle
        while self.ready and len(tokens) < users:
            slot, run = self.ready[0], self.runs[self.ready[0]]
            chosen = run.minibatches[run.step]
            examples[slot] = [run.job.examples[index] for index in chosen]
            if self.bank.dropout:
                own = job_seed(run.job.seed, run.job.user)
                seeds[slot] = [sequence_seed(own, run.step, index) for index in chosen]
            tokens[slot] = tokens_of(examples[slot], self.share_prefix)
            if len(tokens) > 1 and sum(tokens.values()) > self.tokens_per_step:
                del tokens[slot]
                break
            self.ready.popleft()
        spread = self.workers // len(self.runs)  # with fewer users than workers, several workers share a minibatch
        chunks = {
            slot: in_chunks(slot, examples[slot], self.tokens_per_step, self.share_prefix, spread, seeds.get(slot, ()))
            for slot in sorted(tokens)
        }
        every = [chunk for own in chunks.values() for chunk in own]
        return _Step({slot: tokens[slot] for slot in chunks}, [every] if len(chunks) > 1 else [[one] for one in every])

    def run_pass(self, chunks: list[Chunk]) -> Passed:
        """A pass; later steps are smaller if it had to be run in parts."""
        passed, parts = self.passes.run(chunks)
        if parts > 1:
            self.tokens_per_step = max(1, self.tokens_per_step // 2)
        return passed

    def finish(self, step: _Step) -> tuple[list[Run], int]:
        """Takes the optimizer step; returns the runs that took it and its tokens."""
        passed = [
            step.passed[place] for place in range(len(step.passes))
        ]  # summed in this order, whichever ended first
        grads_WP, loss_W = passed[0].grads_WP, passed[0].loss_W
        for other in passed[1:]:
            grads_WP += other.grads_WP
            loss_W += other.loss_W
        runs, lr = [self.runs[slot] for slot in step.tokens], list[float]()
        seconds, tokens = sum(one.seconds for one in passed) / self.workers, sum(step.tokens.values())
        for place, (slot, own) in enumerate(step.tokens.items()):
            run = self.runs[slot]
            share = linear_schedule(run.step, len(run.minibatches), self.config.warmup_ratio)
            lr.append(self.config.learning_rate * share)
            self.losses[slot].append(loss_W[place])
            run.step, run.tokens, run.seconds = run.step + 1, run.tokens + own, run.seconds + seconds * own / tokens
        self._update(list(step.tokens), grads_WP, [run.step for run in runs], lr)
        return runs, tokens

    @torch.no_grad()
    def _update(self, slots: list[int], grads_WP: Tensor, step: list[int], lr: list[float]) -> None:
        """Clips the gradients of these slots and takes their optimizer step."""
        host = torch.tensor(slots), torch.tensor(step, dtype=torch.float64), torch.tensor(lr, dtype=torch.float64)
        rows_W, step_W, lr_W = to_device(host, grads_WP.device)
        everything = self.bank.param_UP, *self.moments
        own = [whole_UP.index_select(0, rows_W) for whole_UP in everything]
        clip_(grads_WP, self.config.max_grad_norm)
        adamw_(own[0], grads_WP, own[1], own[2], step_W, lr_W, weight_decay=self.config.weight_decay)
        for whole_UP, own_WP in zip(everything, own, strict=True):
            whole_UP.index_copy_(0, rows_W, own_WP)

    def ended(self, step: _Step, on_state: OnState | None = None) -> Iterator[Run]:
        """Yields the runs that took their last step; the other slots wait for their next step."""
        for slot in step.tokens:
            run = self.runs[slot]
            if run.step < len(run.minibatches):
                self.ready.append(slot)
                if on_state:
                    on_state(run, partial(self.state, slot))
                continue
            del self.runs[slot]
            self.free.append(slot)
            if self.lower:
                self.lower.end(slot)
            run.losses = torch.stack(self.losses.pop(slot)).tolist()
            bad = next((place for place, loss in enumerate(run.losses) if not isfinite(loss)), None)
            if bad is not None:
                run.error = diverged(run, f"a loss of {run.losses[bad]} at step {bad + 1}")
            elif not torch.isfinite(self.bank.param_UP[slot]).all():
                run.error = diverged(run, f"weights that are not finite at step {run.step}")
            elif self.bank.scaled:
                run.scales = self.bank.read_scales(slot)
            else:
                run.adapter = self.bank.read(slot)
            yield run
