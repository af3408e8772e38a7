"""The arithmetic roof: the operations that a job needs at least, and the machine's matmul rate.

    python benchmarks/roof.py [--device cuda]       the machine's matmul rate

The need is counted on packed rows: no padding, and the beginning that a minibatch's prompts share is computed once.
Elementwise work, norms, softmax, lookups and the optimizer count as nothing.
"""

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ownlm.config import LoraConfig, TrainConfig
from ownlm.model.packed import common_prefix
from ownlm.oppu.fleet import Job, job_seed
from ownlm.oppu.minibatches import TokenizedExample, minibatches

INPUTS = ("q_proj", "k_proj", "v_proj")  # a layer's linears that read the layer's own input


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama's sizes, and its adapters'. D inputs and O outputs of each linear of a layer."""

    layers: int
    hidden: int
    attention: int  # heads x head width
    vocab: int
    linears: dict[str, tuple[int, int]]  # name: (D, O), in the order of the model
    r: int
    adapted: frozenset[str]

    @staticmethod
    def of(config: Any, lora: LoraConfig) -> "Shape":
        """Read off a transformers config."""
        hidden, inner = config.hidden_size, config.intermediate_size
        width = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
        q, kv = config.num_attention_heads * width, config.num_key_value_heads * width
        linears = {
            "q_proj": (hidden, q),
            "k_proj": (hidden, kv),
            "v_proj": (hidden, kv),
            "o_proj": (q, hidden),
            "gate_proj": (hidden, inner),
            "up_proj": (hidden, inner),
            "down_proj": (inner, hidden),
        }
        adapted = frozenset(lora.target_modules)
        assert adapted <= linears.keys() and adapted & set(INPUTS), "else less of the first layer is needed"
        return Shape(config.num_hidden_layers, hidden, q, config.vocab_size, linears, lora.r, adapted)


@dataclass(frozen=True, slots=True)
class Load:
    """What goes through the model: tokens, those asked for their next token, and (query, key) pairs of both."""

    tokens: int = 0
    asked: int = 0
    pairs: int = 0
    asked_pairs: int = 0

    def __add__(self, other: "Load") -> "Load":
        return Load(
            self.tokens + other.tokens,
            self.asked + other.asked,
            self.pairs + other.pairs,
            self.asked_pairs + other.asked_pairs,
        )


def load_of(examples: Sequence[TokenizedExample]) -> Load:
    """A minibatch with its shared beginning computed once; the token at place p attends to p + 1 tokens."""
    prompts = [example.prompt for example in examples]
    shared = min(common_prefix(prompts), min(map(len, prompts)) - 1)
    load = Load(tokens=shared, pairs=_triangle(shared))
    for example in examples:
        length, asked = len(example.prompt) + len(example.answer) - 1, len(example.answer)
        load += Load(
            length - shared,
            asked,
            _triangle(length) - _triangle(shared),
            _triangle(length) - _triangle(length - asked),
        )
    return load


def _triangle(count: int) -> int:
    return count * (count + 1) // 2


def needed(shape: Shape, load: Load) -> int:
    """Floating-point operations of a forward and a backward pass, a multiply-add counted as two.

        linear      forward x W, backward dy W        [n, D] x [D, O]: n D O each; W is frozen, so no dW
        LoRA        forward A, B, backward dB, dh, dA, dx        n r (D + O), n r O, n r O, n r D, n r D
        attention   forward scores, values, backward dV, dP, dQ, dK        pairs x heads x width each
        head        forward, backward dx        [asked, hidden] x [hidden, vocab]

    Nothing below the first layer needs a gradient. In the last layer only keys and values are needed everywhere;
    queries, o, the MLP and the head at asked positions alone.
    """
    macs = 2 * load.asked * shape.hidden * shape.vocab
    for layer in range(shape.layers):
        first, last = layer == 0, layer == shape.layers - 1
        for name, (D, out) in shape.linears.items():
            n = load.asked if last and name not in ("k_proj", "v_proj") else load.tokens
            bottom = first and name in INPUTS
            macs += n * D * out * (1 if bottom else 2)
            if name in shape.adapted:
                macs += n * shape.r * (2 * D + 3 * out + (0 if bottom else D))
        pairs = load.asked_pairs if last else load.pairs
        macs += pairs * shape.attention * (2 + _backward(shape.adapted if first else frozenset(INPUTS)))
    return 2 * macs


def _backward(inputs: frozenset[str]) -> int:
    """How many of attention's four backward matmuls are needed, given the inputs that need a gradient."""
    q, k, v = (name in inputs for name in INPUTS)
    return v + (q or k) + q + k


def job_load(job: Job, config: TrainConfig) -> Load:
    """All of a job's steps."""
    generator = torch.Generator().manual_seed(job_seed(job.seed, job.user))
    steps = minibatches(len(job.examples), config, generator)
    return sum((load_of([job.examples[index] for index in step]) for step in steps), Load())


@dataclass(frozen=True, slots=True)
class Rate:
    """Operations a second in plain matmuls: one large one, and the base's own shapes weighted by their share."""

    plain: float
    mix: float

    def mean(self, other: "Rate") -> "Rate":
        """The mean of each."""
        return Rate((self.plain + other.plain) / 2, (self.mix + other.mix) / 2)


def matmul_rate(device: str, shape: Shape | None = None, seconds: float = 3.0) -> Rate:
    """The machine's rate: float32 [2048, 576] x [576, 1536] on a CPU, bfloat16 8192^3 on CUDA.

    Args:
        shape: Shape of a base, to mix matmuls as its linears do; None for the plain rate.
        seconds: how long the large one is kept up; a tenth of it, each of the shapes.
    """
    cuda = torch.device(device).type == "cuda"
    plain = _rate(device, *((8192, 8192, 8192) if cuda else (2048, 576, 1536)), seconds)
    if shape is None:
        return Rate(plain, plain)
    tokens = 16384 if cuda else 2048
    work = [D * out for D, out in shape.linears.values()]
    spent = [D * out / _rate(device, tokens, D, out, seconds / 10) for D, out in shape.linears.values()]
    return Rate(plain, sum(work) / sum(spent))


def _rate(device: str, n: int, D: int, out: int, seconds: float) -> float:
    """Operations a second of [n, D] x [D, out]."""
    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    x, W = torch.randn(n, D, device=device, dtype=dtype), torch.randn(out, D, device=device, dtype=dtype)
    for _ in range(2):  # warm up
        torch.nn.functional.linear(x, W)
    wait(device)
    count, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        for _ in range(8):
            torch.nn.functional.linear(x, W)
        wait(device)
        count += 8
    return count * 2 * n * D * out / spent


def wait(device: str) -> None:
    """Waits until the GPU has finished; a CPU is synchronous."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def total(jobs: Iterable[Job], config: TrainConfig) -> Load:
    """All jobs' steps."""
    return sum((job_load(job, config) for job in jobs), Load())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    rate = matmul_rate(parser.parse_args().device)
    print(f"{rate.plain / 1e9:,.0f} GFLOP/s on {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
