"""LoRA dropout by a counter: a mask is a function of the token, the module and the channel.

A token's key is a hash of (run, step, example, position). So the mask depends neither on the device, nor on the pass
that the token is in, nor on other users; and no random state has to be kept or sent to a GPU.

    keep[t, d] = mix(mix(key_t ^ module) ^ mix(d)) < (1 - p) 2^32        on 32-bit integers

Source: the idea of counter-based generators, Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
Differs: a multiplicative hash of two rounds in place of a cipher.
"""

import hashlib
from functools import lru_cache
from typing import TypeVar
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = TypeVar("Numbers", Tensor, NDArray[np.int64])
_MULTIPLIER = 0x045D9F3B  # odd, and below 2^31: products of it and a 32-bit number fit 63 bits
_LOW = 0xFFFFFFFF
_HALF = 2**31


def sequence_seed(run: int, step: int, example: int) -> int:
    """The 32-bit seed of one sequence in one optimizer step of a run.

    Args:
        run: seed of the run.
        step: number of the optimizer step.
        example: index of the example in the user's history.
    """
    return int.from_bytes(hashlib.blake2b(f"{run}\0{step}\0{example}".encode(), digest_size=4).digest(), "big")


def token_keys(seed: int, place_T: NDArray[np.int64]) -> NDArray[np.int64]:
    """The 32-bit keys of T tokens at these places of a sequence."""
    return _mix(place_T ^ seed)


def keep_mask(key_T: Tensor, module: str, width: int, p: float) -> Tensor:
    """The mask of a module's input, keep_TD: False with probability p.

    Args:
        key_T: 32-bit keys of the tokens, int64, as `token_keys` gives them.
        module: name of the module.
        width: D, the number of channels.
        p: probability of dropping a channel of a token.

    >>> key_T = torch.from_numpy(token_keys(7, np.arange(1000)))
    >>> round(keep_mask(key_T, "q_proj", 100, 0.25).float().mean().item(), 2)
    0.75
    """
    row_T = _signed(_mix(key_T ^ crc32(module.encode())))
    channel_D = _channels(width, key_T.device)
    mixed_TD = row_T[:, None] ^ channel_D
    for _ in range(2):
        mixed_TD ^= (mixed_TD >> 16) & 0xFFFF  # a logical shift of signed numbers
        mixed_TD *= _MULTIPLIER
    mixed_TD ^= (mixed_TD >> 16) & 0xFFFF
    return mixed_TD < min(round((1 - p) * 2**32) - _HALF, _HALF - 1)


@lru_cache(maxsize=64)
def _channels(width: int, device: torch.device) -> Tensor:
    """Hashes of the channels, which all modules of a width share."""
    return _signed(_mix(torch.arange(width, device=device)))


def _mix(x: Numbers) -> Numbers:
    """A 32-bit hash of 32-bit numbers in int64."""
    for _ in range(2):
        x = x ^ (x >> 16)
        x = (x * _MULTIPLIER) & _LOW
    return x ^ (x >> 16)


def _signed(x: Tensor) -> Tensor:
    """32-bit numbers in int64 as int32 with the same bits."""
    return (x - ((x >> 31) << 32)).to(torch.int32)
