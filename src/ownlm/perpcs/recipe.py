"""A recipe: which pieces of a pool make one user's adapter, and with which weights; about 1.5 kB a user."""

import struct
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ownlm.config import LoraConfig
from ownlm.errors import PoolError
from ownlm.perpcs.equations import factors, product
from ownlm.perpcs.pool import Pool

Combine = Literal["product", "factors"]
_COMBINES: tuple[Combine, ...] = ("product", "factors")
_HEAD = struct.Struct("<BBBHHf")  # format, how to combine, bytes of a place, M, K, what a weight of `_STEPS` is
_CHECK = struct.Struct("<I")  # CRC-32 of all before it, at the end
_FORMAT, _STEPS = 1, 2**23 - 1


@dataclass(frozen=True, slots=True)
class Recipe:
    """The pieces and weights of one user's adapter: M modules in the pool's order, K pieces each.

    Attributes:
        combine: `product` or `factors`.
        place_MK: each piece's place among its module's pieces.
        weight_MK: its weight, as it can be stored; 0 where a module has fewer than K pieces.
    """

    combine: Combine
    place_MK: NDArray[np.uint16]
    weight_MK: NDArray[np.float32]

    def to_bytes(self) -> bytes:
        """Places in 8 bits where they fit, else 16; weights in 24 bits, of 1 or of the largest."""
        whole = np.float32(max(1.0, np.abs(self.weight_MK).max(initial=0)))
        wide = 1 if self.place_MK.max(initial=0) < 256 else 2
        head = _HEAD.pack(_FORMAT, _COMBINES.index(self.combine), wide, *self.place_MK.shape, whole)
        steps_MK = np.rint(self.weight_MK.astype(np.float64) / whole * _STEPS).astype("<i4")
        low = steps_MK.reshape(-1, 1).view(np.uint8)[:, :3]
        data = head + self.place_MK.astype(f"<u{wide}").tobytes() + low.tobytes()
        return data + _CHECK.pack(zlib.crc32(data))

    @staticmethod
    def from_bytes(data: bytes) -> "Recipe":
        """Reads what `to_bytes` wrote.

        Raises:
            PoolError: it is no recipe, or a byte is not what it was.
        """
        try:
            data, check = data[: -_CHECK.size], data[-_CHECK.size :]
            version, combine, wide, modules, k, whole = _HEAD.unpack_from(data)
            places = _HEAD.size + wide * modules * k
            if (version, len(data)) != (_FORMAT, places + 3 * modules * k) or modules * k == 0:
                raise ValueError
            if check != _CHECK.pack(zlib.crc32(data)) or not 1 <= whole < 2.0**127:
                raise ValueError
            place = np.frombuffer(data, {1: "<u1", 2: "<u2"}[wide], modules * k, _HEAD.size)
            low = np.frombuffer(data, np.uint8, offset=places).reshape(-1, 3)
            how = _COMBINES[combine]
        except (struct.error, ValueError, IndexError, KeyError):
            raise PoolError("The stored recipe is damaged", hint="assemble the user's adapter again") from None
        steps = np.pad(low, ((0, 0), (1, 0))).view("<i4")[:, 0] >> 8  # with their sign
        weight = (steps / _STEPS * whole).astype(np.float32)
        return Recipe(how, place.astype(np.uint16).reshape(modules, k), weight.reshape(modules, k))

    @property
    def top_k(self) -> int:
        """K, the number of pieces at each module."""
        return int(self.place_MK.shape[1])

    def weights(self, names: tuple[str, ...]) -> dict[str, Tensor]:
        """weight_K of each module, by its name."""
        return {name: torch.from_numpy(row.copy()) for name, row in zip(names, self.weight_MK, strict=True)}


def made_of(combine: Combine, place_MK: Tensor, weight_MK: Tensor) -> Recipe:
    """A recipe with these weights, rounded as they can be stored."""
    exact = Recipe(combine, place_MK.numpy().astype(np.uint16), weight_MK.numpy().astype(np.float32))
    return Recipe.from_bytes(exact.to_bytes())


def rounded(weight_UK: Tensor) -> Tensor:
    """Weights between 0 and 1, float64, as a recipe can store them."""
    return torch.round(weight_UK * _STEPS) / _STEPS


def assembled_shape(lora: LoraConfig, combine: Combine, top_k: int) -> LoraConfig:
    """The shape of an adapter assembled from pieces of this shape: rank K R for `product`, with the same scaling."""
    stacked = top_k if combine == "product" else 1
    return lora.model_copy(update={"r": stacked * lora.r, "lora_alpha": stacked * lora.lora_alpha})


def combined(combine: Combine, weight_K: Tensor, A_KRD: Tensor, B_KOR: Tensor) -> tuple[Tensor, Tensor]:
    """The matrices A and B of an assembled module, from its pieces and weights."""
    return (product if combine == "product" else factors)(weight_K, A_KRD, B_KOR)


def check_recipe(recipe: Recipe, pool: Pool) -> None:
    """Raises a PoolError where a recipe names pieces that the pool has not."""
    if len(recipe.place_MK) != len(pool.modules) or any(
        (place_K[weight_K != 0] >= len(pool.gates(name))).any()
        for name, place_K, weight_K in zip(pool.modules, recipe.place_MK, recipe.weight_MK, strict=True)
    ):
        raise PoolError("The recipe is for another pool", hint="assemble the user's adapter again")
