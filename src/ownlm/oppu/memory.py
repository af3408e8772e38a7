"""Slots and tokens per step of a fleet, chosen by the free memory of the machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from ownlm.config import LoraConfig, TrainConfig
from ownlm.model.base import BaseLM
from ownlm.model.targets import target_modules
from ownlm.oppu.fleet import workers_for

FEWEST_TOKENS, MOST_TOKENS_CPU, MOST_TOKENS_CUDA = 256, 1024, 32_768
FEWEST_SLOTS, MOST_SLOTS_CPU, MOST_SLOTS_CUDA = 8, 64, 256
SMALL_MINIBATCH = 64  # tokens; there are enough slots for minibatches of this size to fill a step
MOST_WAITING, WAITING_BYTES = 64, 64_000_000  # finished adapters that wait to be stored
FLOAT32 = 4  # bytes


@dataclass(frozen=True, slots=True)
class Room:
    """Sizes that a fleet may use.

    Attributes:
        slots: number of users in flight.
        tokens_per_step: number of tokens in one pass.
        workers: number of passes at once, each in a thread.
        waiting: number of finished adapters that may wait to be stored.
        bytes: approximate peak memory of all this, including the base.
        states_bytes: with `top_layers`, the most memory for hidden states of the layers below; not in `bytes`, as what
            they take depends on the histories.
    """

    slots: int
    tokens_per_step: int
    workers: int
    waiting: int
    bytes: int
    states_bytes: int = 0


def room_for(base: BaseLM, config: TrainConfig, slots: int | None = None, tokens_per_step: int | None = None) -> Room:
    """The sizes that fit the free memory of this machine.

    Adapters do not depend on them, up to rounding.

    Args:
        base: the frozen base.
        config: settings of the training.
        slots, tokens_per_step: given values; None to choose them.
    """
    device, per_token = base.device, bytes_per_token(base.model, config.lora.top_layers)
    adapter = FLOAT32 * parameters_per_slot(base.model, config.lora) if config.method == "lora" else 0
    free = free_bytes(device)
    chosen_slots, chosen_tokens, workers = choose(
        free, 4 * adapter, per_token, workers_for(device, config), device.type == "cuda"
    )
    slots, tokens = slots or chosen_slots, tokens_per_step or chosen_tokens
    waiting = max(1, min(MOST_WAITING, WAITING_BYTES // adapter)) if adapter else 1
    weights = sum(parameter.numel() * parameter.element_size() for parameter in base.model.parameters())
    in_queue = 2 * 2 * waiting * adapter  # as tensors and as bytes; waiting, and being stored
    activations = workers * tokens * per_token
    whole = weights + slots * 4 * adapter + activations + in_queue
    return Room(slots, tokens, workers, waiting, whole, free // 8 if config.lora.top_layers else 0)


def choose(free: int, per_slot: int, per_token: int, workers: int, cuda: bool) -> tuple[int, int, int]:
    """Slots, tokens per step, workers: tokens of all workers take at most half of the free memory, slots a quarter.

    More tokens than the maximum are not faster (benchmarks/LOG.md).

    Args:
        free, per_slot, per_token: bytes.
        workers: the most workers; fewer where each would have too few tokens.
        cuda: whether the model runs on a GPU.

    >>> choose(8_000_000_000, 7_400_000, 1_800_000, workers=2, cuda=False)
    (32, 1024, 2)
    >>> choose(2_000_000_000, 7_400_000, 1_800_000, workers=16, cuda=False)
    (8, 277, 2)
    """
    most_tokens, most_slots = (MOST_TOKENS_CUDA, MOST_SLOTS_CUDA) if cuda else (MOST_TOKENS_CPU, MOST_SLOTS_CPU)
    workers = max(1, min(workers, free // 2 // per_token // FEWEST_TOKENS))
    tokens = max(FEWEST_TOKENS, min(most_tokens, free // 2 // per_token // workers))
    slots = max(FEWEST_SLOTS, min(most_slots, workers * tokens // SMALL_MINIBATCH))
    return max(1, min(slots, free // 4 // max(per_slot, 1))), tokens, workers


def bytes_per_token(model: Any, top_layers: int | None = None) -> int:
    """Activation memory of one token of a training pass.

        layers (14 hidden + 4 intermediate) of the base's type  +  3/8 vocabulary in float32

    Of the layers below `top_layers`, if given, nothing is kept. It assumes that one token in eight belongs to an
    answer. The logits of those exist three times: as logits, probabilities and gradients.

    Source: ours, measured on SmolLM2-135M in float32 on a CPU as the growth of resident memory in one pass: 1.5 MB a
        token at 256 and 512 tokens, 1.6 MB at 1024, 1.0 MB at 2048; the formula says 1.7 MB and 0.07 MB. An answer's
        token added 0.4 to 0.6 MB; the formula says 0.6 MB.
    """
    config, size = model.config.get_text_config(), next(model.parameters()).element_size()
    layers = [14 * config.hidden_size + 4 * width for width in _intermediate_sizes(config)]
    return int(sum(layers[-(top_layers or len(layers)) :]) * size + config.vocab_size * FLOAT32 * 3 / 8)


def tokens_per_pass(base: BaseLM, cpu: int) -> int:
    """Number of tokens in a pass without gradients: on a CPU as given, on a GPU as many as half its free memory holds.

    A pass without gradients needs less memory than `bytes_per_token`.
    """
    if base.device.type != "cuda":
        return cpu
    return max(FEWEST_TOKENS, min(MOST_TOKENS_CUDA, free_bytes(base.device) // 2 // bytes_per_token(base.model)))


def _intermediate_sizes(config: Any) -> list[int]:
    """The width of each layer's MLP; some models have layers of several widths."""
    count = config.num_hidden_layers
    layers = list(config.per_layer_config) if getattr(config, "is_heterogeneous", False) else [config] * count
    sizes = [getattr(layer, "intermediate_size", None) or 4 * config.hidden_size for layer in layers]
    return [size[place] if isinstance(size, list) else size for place, size in enumerate(sizes)]


def parameters_per_slot(model: Any, lora: LoraConfig) -> int:
    """P, the number of LoRA parameters of one user. A slot holds four times as many, with gradients and two moments.

    Raises:
        BaseModelError: the model has no linear module of one of the target names.
    """
    return sum(lora.r * (module.in_features + module.out_features) for _, module in target_modules(model, lora))


def free_bytes(device: torch.device) -> int:
    """Free memory of the device: of the GPU, or of the machine and its control groups."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # blocks kept for later use
        return int(torch.cuda.mem_get_info(device)[0]) + int(cached)
    free = int(psutil.virtual_memory().available)
    membership = Path("/proc/self/cgroup")
    if membership.exists():  # Linux
        free = min([free, *cgroup_free(Path("/sys/fs/cgroup"), membership.read_text("utf8"))])
    return free


def cgroup_free(root: Path, membership: str) -> list[int]:
    """Free bytes of each control group (version 2) with a limit that a process belongs to.

    Args:
        root: mount point of control groups.
        membership: the content of /proc/self/cgroup.
    """
    names = [line.removeprefix("0::/") for line in membership.splitlines() if line.startswith("0::/")]
    free = []
    for name in names:
        for folder in (root / name, *(root / name).parents):
            try:
                limit = (folder / "memory.max").read_text("utf8").strip()
                used = int((folder / "memory.current").read_text("utf8"))
                stat = dict(line.split() for line in (folder / "memory.stat").read_text("utf8").splitlines())
            except (OSError, ValueError):  # the root group, or not a control group
                continue
            if limit != "max":
                files = int(stat.get("inactive_file", 0))  # file cache that can be reclaimed
                free.append(max(0, int(limit) - used + files))
    return free
