"""Device and precision of a base: chosen by the machine, or named by the user."""

import re
import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, get_args

from ownlm.errors import ConfigError

if TYPE_CHECKING:  # the command line makes placements, and loads no torch for them
    import torch

Dtype = Literal["auto", "float32", "bfloat16"]
WIDTH = 576  # hidden size of SmolLM2-135M
NARROW, WIDE = 256, 2048  # hidden sizes: narrower bases gain nothing, wider ones would take the trial too long
GAIN = 1.2  # bfloat16 is chosen on a CPU where it is so many times as fast as float32
TRIAL_S = 2.0  # limit of the trial
TRIAL_TOKENS = (8, 64, 256, 256, 256)  # few at first: without instructions for it, bfloat16 can be 100 times slower


@dataclass(frozen=True, slots=True)
class Placement:
    """Where models run, and in which type their weights are.

    Args:
        device: cpu, cuda, cuda:N or mps; None for a GPU if there is one, else the CPU.
        dtype: type of the weights; `auto` for the one that suits the device, see `choose_dtype`.

    Raises:
        ConfigError: there is no device or type of that name.

    >>> Placement("cuda:1").dtype
    'auto'
    """

    device: str | None = None
    dtype: Dtype = "auto"

    def __post_init__(self) -> None:
        if self.device is not None and not re.fullmatch(r"cpu|mps|cuda(:\d+)?", self.device):
            raise ConfigError("Unknown device", got=repr(self.device), expected="cpu, cuda, cuda:N or mps")
        if self.dtype not in get_args(Dtype):
            raise ConfigError("Unknown type of weights", got=repr(self.dtype), expected=", ".join(get_args(Dtype)))

    def find_device(self) -> "torch.device":
        """The device; a ConfigError where this machine does not have it."""
        import torch

        device = torch.device(self.device or default_device())
        gpus = torch.cuda.device_count()
        there = {"cuda": (device.index or 0) < gpus, "mps": torch.backends.mps.is_available()}
        if not there.get(device.type, True):
            raise ConfigError(
                f"The device {self.device} is not available",
                got="no GPU that this build of torch can use" if not gpus else f"cuda:0 to cuda:{gpus - 1}",
                expected=f"one of this machine, such as {default_device()}",
                hint="choose another device",
            )
        return device

    def choose(self, width: int = WIDTH) -> "Precision":
        """The precision of a base of this hidden size."""
        return choose_dtype(self.find_device(), self.dtype, width)


DEFAULT = Placement()


@dataclass(frozen=True, slots=True)
class Precision:
    """The type of a base's weights.

    Attributes:
        dtype: float32 or bfloat16.
        why: the reason, in words.
        slow: whether the processor computes in this type without instructions for it.
    """

    dtype: "torch.dtype"
    why: str
    slow: bool = False

    @property
    def name(self) -> str:
        """The type's name, as options have it."""
        return str(self.dtype).removeprefix("torch.")


def default_device() -> str:
    """`cuda` if there is a GPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_dtype(device: "torch.device | str", asked: Dtype = "auto", width: int = WIDTH) -> Precision:
    """The type of a base's weights on a device.

    A GPU gets bfloat16 if it has it, else float32. A CPU gets bfloat16 where the processor has instructions for it and
    a trial of at most two seconds, made once in a process, shows that it is 1.2 times as fast as float32.

    Args:
        device: device of the weights.
        asked: a named type is taken as it is.
        width: hidden size of the base.

    Source: ours.
    """
    import torch

    device = torch.device(device)
    flags = bfloat16_support(device)
    if asked != "auto":
        slow = asked == "bfloat16" and not flags
        why = "as asked" + (f", without instructions for it: it may be {_TIMES} slower" if slow else "")
        return Precision(getattr(torch, asked), why, slow)
    if not flags:
        return Precision(torch.float32, f"this {_KINDS[device.type]} has no instructions for bfloat16")
    if device.type != "cpu":
        return Precision(torch.bfloat16, f"this {_KINDS[device.type]} has it")
    if width < NARROW:
        return Precision(torch.float32, f"the base is narrow: its hidden size is {width}")
    gain = bfloat16_gain(min(width, WIDE))
    why = f"this processor has {flags}, and bfloat16 is {gain:.2f} times as fast as float32 in a trial"
    return Precision(torch.bfloat16 if gain >= GAIN else torch.float32, why)


_TIMES = "a hundred times"
_KINDS = {"cpu": "processor", "cuda": "GPU", "mps": "GPU"}


def bfloat16_support(device: "torch.device") -> str:
    """What a device has to compute in bfloat16, in words; empty where it has nothing."""
    import torch

    if device.type == "cuda":
        with torch.cuda.device(device):
            return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else ""
    if device.type == "mps":
        return "bfloat16" if torch.backends.mps.is_macos_or_newer(14, 0) else ""
    flags = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}  # torch 2.11 and 2.13
    return " and ".join(flag for flag, query in flags.items() if getattr(torch.cpu, query, bool)())


@cache
def bfloat16_gain(width: int) -> float:
    """How many times as fast as float32 this processor multiplies in bfloat16: a layer forward and backward.

        y_TI = x_TD W_ID^T,  g_TD = y_TI W_ID            I = 4 D

    Args:
        width: D, hidden size of the base.
    """
    import torch

    started = time.perf_counter()
    weights = [torch.ones(4 * width, width, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    best, tokens, took = list[float](), 0, 0.0
    for now in TRIAL_TOKENS:
        spent = time.perf_counter() - started
        if tokens and spent + took * now / tokens > TRIAL_S:
            break
        times = [_seconds(weight_ID, now) for weight_ID in weights]
        best = times if now != tokens else [min(pair) for pair in zip(best, times, strict=True)]
        tokens, took = now, sum(times)
    return best[0] / best[1]


def _seconds(weight_ID: "torch.Tensor", tokens: int) -> float:
    x_TD = weight_ID.new_ones(tokens, weight_ID.shape[1])
    started = time.perf_counter()
    x_TD @ weight_ID.T @ weight_ID
    return time.perf_counter() - started
