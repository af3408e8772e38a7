"""PEFT methods other than LoRA, for comparison: adapters of the peft library, trained one user at a time."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ownlm.config import TrainConfig
from ownlm.errors import TrainingError
from ownlm.model.base import BaseLM
from ownlm.model.packed import BatchBuilder
from ownlm.model.peft_adapter import Attached, fresh_adapter
from ownlm.model.segments import BASE
from ownlm.oppu.fleet import TOKENS_PER_STEP, Job, OnState, Run, diverged, job_seed
from ownlm.oppu.minibatches import fill, in_chunks, minibatches, tokens_of
from ownlm.oppu.optim import linear_schedule
from ownlm.oppu.passes import wide
from ownlm.oppu.state import RunState


def train_with_peft(
    base: BaseLM,
    jobs: Iterable[Job],
    config: TrainConfig,
    *,
    tokens_per_step: int = TOKENS_PER_STEP,
    on_step: Callable[[list[Run], int], None] | None = None,
    on_state: OnState | None = None,
) -> Iterator[Run]:
    """Trains jobs one after the other, and yields each as it ends.

    Minibatches, loss, optimizer, clipping and schedule are the fleet's. An adapter depends on (seed, user, examples,
    config, base) alone; after each user the base is as before.

    Args:
        base: the frozen base.
        jobs: users to train; read one by one. `Job.start` is not used.
        config: method and optimizer settings.
        tokens_per_step: approximate number of tokens in one pass. Memory grows with it.
        on_step: called after each step with the run and its tokens.
        on_state: see `OnState`.

    Yields:
        Each run, with its adapter or its error. One user's failure does not affect the others.

    Raises:
        AdapterError, BaseModelError: the method cannot be used with this base.

    Source: OPPU (arXiv 2402.04401), which compares these methods; its released code has LoRA alone.
    """
    for job in jobs:
        seed = job_seed(job.seed, job.user)
        batches = minibatches(len(job.examples), config, torch.Generator().manual_seed(seed))
        with fresh_adapter(base.model, config, seed) as attached:
            examples = [replace(e, prompt=attached.virtual_tokens + e.prompt) for e in job.examples]
            run = Run(replace(job, examples=examples), batches)
            _train(base, attached, run, config, tokens_per_step, on_step, on_state)
        run.job = job
        yield run


def _train(
    base: BaseLM,
    attached: Attached,
    run: Run,
    config: TrainConfig,
    tokens_per_step: int,
    on_step: Callable[[list[Run], int], None] | None,
    on_state: OnState | None,
) -> None:
    """Takes all steps of a run."""
    if (longest := max(len(example.prompt) + len(example.answer) for example in run.job.examples)) > base.max_tokens:
        run.error = TrainingError(
            f"With virtual tokens, an example of {run.job.user!r} is longer than the context of the base {base.name!r}",
            got=f"{longest} tokens",
            expected=f"at most {base.max_tokens}",
            hint="use fewer virtual tokens, fewer words per field, or fewer retrieved records",
        )
        return
    parameters = attached.parameters()
    optimizer = torch.optim.AdamW(parameters, weight_decay=config.weight_decay)
    if run.job.state is not None:
        _restore(run, parameters, optimizer, run.job.state)
    while run.step < len(run.minibatches):
        started = time.perf_counter()
        tokens, loss = _backward(base, run, tokens_per_step)
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            run.error = diverged(run, f"a loss of {float(loss)} at step {run.step + 1}")
            return
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * linear_schedule(run.step, len(run.minibatches), config.warmup_ratio)
        optimizer.step()
        optimizer.zero_grad()
        run.step += 1
        run.losses.append(float(loss))
        run.tokens += tokens
        run.seconds += time.perf_counter() - started
        if on_step:
            on_step([run], tokens)
        if on_state and run.step < len(run.minibatches):
            on_state(run, partial(_state, run, parameters, optimizer))
    if not all(torch.isfinite(parameter).all() for parameter in parameters):
        run.error = diverged(run, f"weights that are not finite at step {run.step}")
        return
    run.adapter = attached.read()


def _state(run: Run, parameters: list[nn.Parameter], optimizer: torch.optim.AdamW) -> RunState:
    """A copy of a run's state."""
    moments = [[optimizer.state[one][name] for one in parameters] for name in ("exp_avg", "exp_avg_sq")]
    everything = (parameters, *moments)
    param_P, first_P, second_P = [parameters_to_vector(one).detach().to("cpu", copy=True) for one in everything]
    losses = torch.tensor(run.losses, dtype=torch.float64)
    return RunState(param_P, first_P, second_P, losses, run.tokens, run.seconds)


def _restore(run: Run, parameters: list[nn.Parameter], optimizer: torch.optim.AdamW, state: RunState) -> None:
    vector_to_parameters(state.param_P.to(parameters[0]), parameters)
    sizes = [one.numel() for one in parameters]
    for one, first, second in zip(parameters, state.first_P.split(sizes), state.second_P.split(sizes), strict=True):
        moments = {"exp_avg": first.view_as(one).to(one), "exp_avg_sq": second.view_as(one).to(one)}
        optimizer.state[one] = {"step": torch.tensor(float(state.step)), **moments}
    run.step, run.losses, run.tokens, run.seconds = state.step, state.loss_S.tolist(), state.tokens, state.seconds


def _backward(base: BaseLM, run: Run, tokens_per_step: int) -> tuple[int, torch.Tensor]:
    """Accumulates the gradient of the next minibatch's mean loss; returns its tokens and its loss."""
    examples = [run.job.examples[index] for index in run.minibatches[run.step]]
    loss = torch.zeros((), dtype=torch.float64)
    for chunk in in_chunks(BASE, examples, tokens_per_step, share_prefix=True):
        row = BatchBuilder()
        fill(row, [chunk], share_prefix=True)
        batch = row.pack(base.device)
        losses_P = F.cross_entropy(wide(base.logits(batch)), batch.target_P, reduction="none")
        mean = (losses_P * batch.weight_P.to(losses_P.dtype)).sum()
        mean.backward()
        loss += mean.detach().double().cpu()
    return tokens_of(examples, share_prefix=True), loss
