"""The peers: the same users trained with `peft`, in three ways.

Every peer gets the base without adapters, the jobs, the config, a folder to write each user's adapter to, and a clock,
and yields each user once the adapter is written. Examples, number of optimizer steps, loss (the mean over the answer
tokens of a minibatch) and settings are ownlm's. peft is imported where it is used: elsewhere, this file loads without.
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timing import Clock, Trained
from torch import Tensor, nn

from ownlm.config import TrainConfig
from ownlm.oppu.fleet import Job, job_seed
from ownlm.oppu.minibatches import TokenizedExample, minibatches
from ownlm.oppu.optim import linear_schedule

TOGETHER = 4  # users at once in `peft_mixed`
PASS = {"cpu": 2048, "cuda": 65536}  # padded tokens that `peft_loop` and `peft_mixed` send through the model together


def peft_trainer(model: Any, jobs: Iterable[Job], config: TrainConfig, out: Path, clock: Clock) -> Iterator[Trained]:
    """P1, what a user of OPPU's released code does: `peft` and transformers' Trainer, one user after the other.

    As there: a new `get_peft_model` and a new Trainer for each user, gradient checkpointing, batches grouped by length
    and padded to their longest, AdamW, a linear schedule with warm-up, `save_pretrained`. Differs: no dropout, as for
    all methods here; padding is on the right; the adapter is taken off again, and no data is carried over.
    """
    from peft import get_peft_model
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=config.batch_size,
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        warmup_steps=config.warmup_ratio,
        lr_scheduler_type="linear",
        optim="adamw_torch",
        train_sampling_strategy="group_by_length",
        gradient_checkpointing=True,
        bf16=clock.device != "cpu",
        use_cpu=clock.device == "cpu",
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        log_level="error",
    )
    model.config.use_cache = False
    for job in jobs:
        with clock("wrap"):
            torch.manual_seed(job_seed(job.seed, job.user) % 2**32)
            peft = get_peft_model(model, lora_config(config))
            rows = [labelled(example) for example in job.examples]
            trainer = Trainer(peft, arguments, data_collator=right_padded, train_dataset=rows, callbacks=None)
            silence(trainer)
        with clock("train"):
            trainer.train()
        with clock("export"):
            peft.save_pretrained(str(out / job.user))
        yield Trained(job.user, [row["loss"] for row in trainer.state.log_history if "loss" in row])
        with clock("wrap"):
            model = peft.unload()


def peft_loop(model: Any, jobs: Iterable[Job], config: TrainConfig, out: Path, clock: Clock) -> Iterator[Trained]:
    """P2, the best plain loop we can write with `peft`, one user after the other.

    No gradient checkpointing. Minibatches grouped by length within the epoch. Padding on the right and no mask: padding
    lies behind all that matters, so SDPA runs its causal kernel. The head runs on answer positions alone. Fused AdamW.
    The wrapping stays: between users the adapter's weights are drawn again in place. Large minibatches go through the
    model in parts. Losses leave the device once a user.

    Tried and not better (SmolLM2-135M, one thread, processor time): padding on the left with a mask and
    `logits_to_keep`; parts of 256, 512 or 1024 tokens instead of 2048; foreach AdamW.
    """
    from peft import get_peft_model

    with clock("wrap"):
        peft = get_peft_model(model, lora_config(config)).train()
        seat = Seat("default", peft)
        optimizer = adamw([seat], config)
    with answers_only(model) as head:
        for job in jobs:
            with clock("wrap"):
                seat.take(job, config, optimizer)
                seat.minibatches = grouped(job, config)
            with clock("train"):
                while seat.job:
                    step(peft, head, [seat], optimizer, config, clock.device)
                    seat.job = job if len(seat.losses) < len(seat.minibatches) else None
                losses = [float(loss) for loss in seat.losses]
            with clock("export"):
                peft.save_pretrained(str(out / job.user))
            yield Trained(job.user, losses)
    peft.unload()


def peft_mixed(model: Any, jobs: Iterable[Job], config: TrainConfig, out: Path, clock: Clock) -> Iterator[Trained]:
    """P3, `TOGETHER` users at once in mixed batches: `peft`'s `adapter_names` names the adapter of each sequence.

    Made for inference: peft 0.21 refuses it in training mode. In evaluation mode gradients flow as well, and without
    dropout the two modes compute the same. All else is as in `peft_loop`, but that minibatches are ownlm's own and that
    all users' examples of a step are sorted by length together. Every user has their own loss, clipping, schedule and
    AdamW state; a place that falls free is taken by the next user.
    """
    from peft import get_peft_model

    with clock("wrap"):
        peft = get_peft_model(model, lora_config(config), adapter_name="seat0")
        for number in range(1, TOGETHER):
            peft.add_adapter(f"seat{number}", lora_config(config))
        peft.eval()
        seats = [Seat(f"seat{number}", peft) for number in range(TOGETHER)]
        optimizer = adamw(seats, config)
    waiting = iter(jobs)
    with answers_only(model) as head:
        while True:
            with clock("wrap"):
                for seat in seats:
                    if seat.job is None and (job := next(waiting, None)):
                        seat.take(job, config, optimizer)
            taken = [seat for seat in seats if seat.job]
            if not taken:
                break
            with clock("train"):
                step(peft, head, taken, optimizer, config, clock.device, mixed=True)
            for seat in taken:
                if len(seat.losses) == len(seat.minibatches):
                    with clock("export"):
                        peft.save_pretrained(str(out / seat.job.user), selected_adapters=[seat.name])
                    yield Trained(seat.job.user, [float(loss) for loss in seat.losses])
                    seat.job = None
    peft.unload()


@dataclass
class Seat:
    """An adapter in the wrapped model, and the user it is trained for."""

    name: str
    peft: Any
    job: Job | None = None
    minibatches: list[list[int]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parameters = [p for name, p in self.peft.named_parameters() if f".{self.name}." in name]
        for parameter in self.parameters:
            parameter.requires_grad_()

    def take(self, job: Job, config: TrainConfig, optimizer: torch.optim.Optimizer) -> None:
        """Fresh weights and no moments, for a user; weights and minibatches are those that ownlm draws."""
        generator = torch.Generator().manual_seed(job_seed(job.seed, job.user))
        for parameter in self.parameters:
            optimizer.state.pop(parameter, None)
        with torch.no_grad():
            for lora_A, lora_B in zip(self.parameters[::2], self.parameters[1::2], strict=True):
                bound = 1 / math.sqrt(lora_A.shape[1])
                lora_A.copy_(torch.empty(lora_A.shape).uniform_(-bound, bound, generator=generator))
                lora_B.zero_()
        self.job, self.losses = job, []
        self.minibatches = minibatches(len(job.examples), config, generator)

    def minibatch(self) -> list[TokenizedExample]:
        """The examples of the next step."""
        assert self.job
        return [self.job.examples[index] for index in self.minibatches[len(self.losses)]]


def step(
    peft: Any,
    head: list[Tensor],
    seats: Sequence[Seat],
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    device: str,
    *,
    mixed: bool = False,
) -> None:
    """One optimizer step of every user in `seats`."""
    together = []  # (seat, example, weight of an answer token)
    for place, seat in enumerate(seats):
        examples = seat.minibatch()
        weight = 1 / sum(len(example.answer) for example in examples)
        together += [(place, example, weight) for example in examples]
    loss_S = torch.zeros(len(seats), device=device)
    for part in in_parts(together, PASS[torch.device(device).type]):
        batch = {name: tensor.to(device) for name, tensor in right_padded([labelled(e) for _, e, _ in part]).items()}
        labels_BT = batch["labels"][:, 1:]
        rows, columns = (labels_BT >= 0).nonzero(as_tuple=True)
        head[:] = [rows, columns]
        names = {"adapter_names": [seats[place].name for place, _, _ in part]} if mixed else {}
        logits_PV = peft(input_ids=batch["input_ids"][:, :-1], use_cache=False, **names).logits
        losses_P = F.cross_entropy(logits_PV.float(), labels_BT[rows, columns], reduction="none")
        losses_P = losses_P * torch.tensor([weight for _, _, weight in part], device=device)[rows]
        losses_P.sum().backward()
        loss_S.index_add_(0, torch.tensor([place for place, _, _ in part], device=device)[rows], losses_P.detach())
    for place, seat in enumerate(seats):
        group = next(group for group in optimizer.param_groups if group["params"][0] is seat.parameters[0])
        rate = linear_schedule(len(seat.losses), len(seat.minibatches), config.warmup_ratio)
        group["lr"] = config.learning_rate * rate
        nn.utils.clip_grad_norm_(seat.parameters, config.max_grad_norm)
        seat.losses.append(loss_S[place])
    optimizer.step()
    optimizer.zero_grad()  # to None, so that a free seat's weights stay as they are


def in_parts(
    together: list[tuple[int, TokenizedExample, float]], tokens: int
) -> Iterator[list[tuple[int, TokenizedExample, float]]]:
    """Examples sorted by length, in parts of about `tokens` tokens, padding counted, as even as can be."""
    ordered = sorted(together, key=lambda one: -length(one[1]))
    parts = -(-sum(length(example) for _, example, _ in ordered) // tokens)
    size = -(-len(ordered) // parts)
    yield from (ordered[at : at + size] for at in range(0, len(ordered), size))


def length(example: TokenizedExample) -> int:
    """Tokens of a prompt and its answer."""
    return len(example.prompt) + len(example.answer)


def grouped(job: Job, config: TrainConfig) -> list[list[int]]:
    """Minibatches of similar lengths: each epoch sorted by length, cut into batches, the batches in random order."""
    shuffled, batches = random.Random(job_seed(job.seed, job.user)), []
    for _ in range(config.epochs):
        order = list(range(len(job.examples)))
        shuffled.shuffle(order)
        order.sort(key=lambda index: -length(job.examples[index]))
        epoch = [order[at : at + config.batch_size] for at in range(0, len(order), config.batch_size)]
        shuffled.shuffle(epoch)
        batches += epoch
    return batches


def labelled(example: TokenizedExample) -> dict[str, list[int]]:
    """An example as Trainer wants it: labels on the answer alone."""
    ids = example.prompt + example.answer
    return {"input_ids": ids, "labels": [-100] * len(example.prompt) + example.answer}


def right_padded(rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
    """A batch padded to its longest sequence."""
    width = max(len(row["input_ids"]) for row in rows)
    return {
        "input_ids": torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in rows]),
        "labels": torch.tensor([row["labels"] + [-100] * (width - len(row["labels"])) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row["labels"]) + [0] * (width - len(row["labels"])) for row in rows]),
    }


def lora_config(config: TrainConfig) -> Any:
    """The adapter's shape, for peft."""
    from peft import LoraConfig

    lora = config.lora
    return LoraConfig(
        r=lora.r, lora_alpha=lora.lora_alpha, target_modules=list(lora.target_modules), task_type="CAUSAL_LM"
    )  # fmt: skip


def adamw(seats: Sequence[Seat], config: TrainConfig) -> torch.optim.AdamW:
    """One optimizer, a group of parameters for each seat."""
    groups = [{"params": seat.parameters} for seat in seats]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


@contextmanager
def answers_only(model: Any) -> Iterator[list[Tensor]]:
    """While it lasts, the head sees the positions named in the list that it gives, rows and columns, and no others."""
    where: list[Tensor] = []

    def pick(_: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
        return args[0][where[0], where[1]]

    handle = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield where
    finally:
        handle.remove()


def silence(trainer: Any) -> None:
    """Trainer prints each step's loss; it is kept in its state all the same."""
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)


PEERS = {"peft + Trainer": peft_trainer, "peft, plain loop": peft_loop, "peft, mixed batches": peft_mixed}
