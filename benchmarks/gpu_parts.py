"""The parts of `gpu.sh` that need Python. Not yet run on a GPU; `--device cpu --base tiny` runs them without one.

    python benchmarks/gpu_parts.py equality|waiting|fleet|serving [--base 7b] [--dropout 0.05] [--device cuda]

Each prints one line of JSON, and fails where a number is not what it must be.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from bases import SHAPES, random_model
from roof import Shape, matmul_rate
from torch import Tensor, nn
from transformers import LlamaConfig

from ownlm.config import LoraConfig, TrainConfig
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.model.dropout import keep_mask, token_keys
from ownlm.model.kv_cache import KvCache
from ownlm.model.packed import BatchBuilder
from ownlm.oppu import memory
from ownlm.oppu.fleet import Job, train_fleet
from ownlm.oppu.minibatches import TokenizedExample

LORA = LoraConfig(r=8, lora_alpha=8, target_modules=("q_proj", "v_proj"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--base", choices=SHAPES, default="smollm2")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--device", default="cuda")
    asked = parser.parse_args()
    found, wrong = PARTS[asked.part](asked)
    print(json.dumps({**found, "wrong": wrong}))
    raise SystemExit(1 if wrong else 0)


def equality(asked: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The same training in float32 on a CPU and on the device; in bfloat16 on the device; dropout's masks."""
    jobs, config = make_jobs(4, 8, 500), TrainConfig(lora=LORA, batch_size=4, epochs=2, learning_rate=1e-3)
    losses = dict[str, dict[str, list[float]]]()
    torch.backends.cuda.matmul.allow_tf32 = False
    for name, device, dtype, dropout in (
        ("cpu", "cpu", torch.float32, 0.0),
        ("float32", asked.device, torch.float32, 0.0),
        ("bfloat16", asked.device, torch.bfloat16, 0.0),
        ("cpu_dropout", "cpu", torch.float32, 0.1),
        ("float32_dropout", asked.device, torch.float32, 0.1),
    ):
        base = open_random("tiny", "cpu")
        base.model.to(device, dtype)
        own = config.model_copy(update={"lora_dropout": dropout})
        losses[name] = {run.job.user: run.losses for run in train_fleet(base, jobs, own, slots=4)}
    key_T = torch.from_numpy(token_keys(7, torch.arange(1000).numpy()))
    same = torch.equal(keep_mask(key_T.to(asked.device), "q", 64, 0.1).cpu(), keep_mask(key_T, "q", 64, 0.1))
    gaps = {
        "float32": gap(losses["float32"], losses["cpu"]),
        "bfloat16": gap(losses["bfloat16"], losses["cpu"]),
        "float32_dropout": gap(losses["float32_dropout"], losses["cpu_dropout"]),
    }
    most = {"float32": 1e-3, "bfloat16": 2e-2, "float32_dropout": 1e-3}
    wrong = [f"losses of {name} differ by {gaps[name]:.2g}" for name in gaps if not gaps[name] <= most[name]]
    return {"loss_gap": gaps, "same_masks": same}, wrong + ([] if same else ["dropout masks differ"])


def waiting(asked: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """A forward and backward pass in which torch refuses whatever waits for the device."""
    base, row = open_random("smollm2" if asked.device != "cpu" else "tiny", asked.device), BatchBuilder()
    bank = LoraBank(base.model, LORA, 4)
    for slot, job in enumerate(make_jobs(4, 1, 500)):
        (example,) = job.examples
        chain = row.add(slot, (example.prompt + example.answer[:-1]))
        row.predict(slot, chain[len(example.prompt) - 1 :], example.answer, 0.1)
    wrong = list[str]()
    with bank.attached():
        for mode in ("default", "error"):  # the first pass may wait while libraries start
            if asked.device != "cpu":
                torch.cuda.set_sync_debug_mode(mode)
            try:
                batch = row.pack(asked.device)
                logits_PV = base.logits(batch, bank, grads_WP=bank.new_grads(batch)).float()
                (F.cross_entropy(logits_PV, batch.target_P, reduction="none") * batch.weight_P).sum().backward()
            except RuntimeError as error:
                wrong.append(str(error).splitlines()[0])
    if asked.device != "cpu":
        torch.cuda.set_sync_debug_mode("default")
    return {}, wrong


def fleet(asked: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """A fleet beside the plain loop, one user at a time; its peak memory beside the formula."""
    base, cuda = open_random(asked.base, asked.device), asked.device != "cpu"
    config = TrainConfig(lora=LORA, batch_size=16, epochs=1, learning_rate=1e-3, lora_dropout=asked.dropout)
    shape = Shape.of(LlamaConfig(**SHAPES[asked.base]), LORA)
    users = {"7b": 16, "tiny": 4}.get(asked.base, 64)
    jobs, rate = make_jobs(users, 16, min(30_000, SHAPES[asked.base]["vocab_size"])), matmul_rate(asked.device, shape)
    room = memory.room_for(base, config)
    list(train_fleet(base, jobs[:2], config, slots=2, tokens_per_step=room.tokens_per_step))  # libraries start
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    runs = list(train_fleet(base, jobs, config, slots=room.slots, tokens_per_step=room.tokens_per_step))
    seconds = finished(asked.device, began)
    peak = torch.cuda.max_memory_allocated() if cuda else 0
    few = jobs[: max(2, users // 16)]
    began = time.perf_counter()
    plain_loop(base, few, config)
    alone = finished(asked.device, began) / len(few)
    wrong = [str(run.error) for run in runs if run.error]
    wrong += [f"peak of {peak} bytes, above the {room.bytes} of the formula"] if peak > room.bytes else []
    found = {
        "users": users,
        "slots": room.slots,
        "tokens_per_step": room.tokens_per_step,
        "users_per_hour": 3600 * users / seconds,
        "plain_loop_users_per_hour": 3600 / alone,
        "faster_by": alone * users / seconds,
        "tokens_per_second": sum(run.tokens for run in runs) / seconds,
        "matmul": repr(rate),
        "peak_bytes": peak,
        "formula_bytes": room.bytes,
    }
    return found, wrong


def serving(asked: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Generated tokens a second of 64 sequences, each with an adapter of its own, and of the base alone."""
    base, found = open_random(asked.base, asked.device), dict[str, Any]()
    bank, users = LoraBank(base.model, LORA, 64), 64
    for name, slots, attach in (("base", [-1] * users, None), ("adapters", list(range(users)), bank)):
        with bank.attached(), torch.inference_mode():
            cache = KvCache()
            chains = [cache.take(128) for _ in slots]
            seconds = list[float]()
            for step in range(40):
                row, places = BatchBuilder(), cache.take(users)
                for number, slot in enumerate(slots):
                    first = 128 if step == 0 else 1
                    new = chains[number] if step == 0 else places[number : number + 1]
                    before = chains[number][:0] if step == 0 else chains[number]
                    row.add(slot, [5] * first, after=before, at=new)
                    row.predict(slot, torch.tensor([len(row.tokens) - 1]).numpy())
                    if step:
                        chains[number] = torch.cat([torch.from_numpy(c) for c in (chains[number], new)]).numpy()
                at = places if step else torch.cat([torch.from_numpy(c) for c in chains]).numpy()
                began = time.perf_counter()
                base.logits(row.pack(asked.device), attach, cache.writing(at, base.device)).argmax(1).tolist()
                seconds.append(time.perf_counter() - began)
        found[name] = users / (sum(seconds[8:]) / len(seconds[8:]))
    return {"tokens_per_second": found, "adapters_against_base": found["adapters"] / found["base"]}, []


class PlainLora(nn.Module):
    """LoRA on one linear module as everybody writes it, for the plain loop."""

    def __init__(self, inner: nn.Linear, dropout: float) -> None:
        super().__init__()
        like = {"device": inner.weight.device, "dtype": torch.float32}
        self.inner, self.dropout = inner, nn.Dropout(dropout)
        self.A_RD = nn.Parameter(torch.randn(LORA.r, inner.in_features, **like) * inner.in_features**-0.5)
        self.B_OR = nn.Parameter(torch.zeros(inner.out_features, LORA.r, **like))

    def forward(self, x: Tensor) -> Tensor:
        update = F.linear(F.linear(self.dropout(x.float()), self.A_RD), self.B_OR) * LORA.scaling
        return self.inner(x) + update.to(x.dtype)


def plain_loop(base: BaseLM, jobs: Sequence[Job], config: TrainConfig) -> None:
    """Each user alone: padded batches, the model's own attention, torch's AdamW. The model gets its modules back."""
    model, device = base.model, base.device
    own = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    for job in jobs:
        wrapped = list[PlainLora]()
        for layer in model.model.layers:
            for name in LORA.target_modules:
                wrapped.append(PlainLora(getattr(layer.self_attn, name), config.lora_dropout))
                setattr(layer.self_attn, name, wrapped[-1])
        optimizer = torch.optim.AdamW([p for one in wrapped for p in (one.A_RD, one.B_OR)], config.learning_rate)
        for at in range(0, len(job.examples), config.batch_size):
            examples = job.examples[at : at + config.batch_size]
            longest = max(len(one.prompt) + len(one.answer) for one in examples)
            ids, labels = (
                torch.zeros(len(examples), longest, dtype=torch.long),
                torch.full((len(examples), longest), -100),
            )
            mask = torch.zeros_like(ids)
            for place, one in enumerate(examples):
                whole = [*one.prompt, *one.answer]
                ids[place, : len(whole)], mask[place, : len(whole)] = torch.tensor(whole), 1
                labels[place, len(one.prompt) : len(whole)] = torch.tensor(one.answer)
            sent = {"input_ids": ids, "attention_mask": mask, "labels": labels}
            model(**{name: tensor.to(device) for name, tensor in sent.items()}).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        for layer in model.model.layers:
            for name in LORA.target_modules:
                setattr(layer.self_attn, name, getattr(layer.self_attn, name).inner)
    model.set_attn_implementation(own)


def open_random(name: str, device: str) -> BaseLM:
    return BaseLM(name, name, Path(name), random_model(name, device), None)


def make_jobs(users: int, examples: int, vocabulary: int) -> list[Job]:
    """Users with records of 60 to 200 random tokens and answers of 3."""
    rng = random.Random(0)

    def example() -> TokenizedExample:
        prompt = [rng.randrange(3, vocabulary) for _ in range(rng.randint(60, 200))]
        return TokenizedExample(prompt, [rng.randrange(3, vocabulary) for _ in range(3)])

    return [Job(f"user {user}", [example() for _ in range(examples)], seed=7) for user in range(users)]


def gap(one: dict[str, list[float]], other: dict[str, list[float]]) -> float:
    """The largest relative difference of two trainings' losses."""
    return max(abs(a - b) / abs(b) for user in one for a, b in zip(one[user], other[user], strict=True))


def finished(device: str, began: float) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began


PARTS = {"equality": equality, "waiting": waiting, "fleet": fleet, "serving": serving}

if __name__ == "__main__":
    main()
