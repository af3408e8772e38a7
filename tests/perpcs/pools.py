"""Small pools of random pieces."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ownlm.config import LoraConfig
from ownlm.perpcs.piece import Piece
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.version import PoolHead, write_pool

LORA = LoraConfig(r=2, lora_alpha=4, target_modules=("q_proj", "v_proj"))
SHARERS = ("00000000000000aa", "00000000000000bb", "00000000000000cc")
SHAPES = {"layers.0.q_proj": (3, 4), "layers.0.v_proj": (5, 4)}  # O and D

Given = dict[str, dict[str, Piece]]  # by module, by sharer


def random_pieces(
    shapes: Mapping[str, tuple[int, int]] = SHAPES,
    sharers: Sequence[str] = SHARERS,
    r: int = LORA.r,
    scale: float = 1.0,
) -> Given:
    """A piece of every module from every sharer."""
    draw = torch.Generator().manual_seed(7)
    return {
        name: {
            sharer: Piece(
                *(torch.randn(size, generator=draw) * scale for size in ((r, columns), (rows, r), (columns,)))
            )
            for sharer in sharers
        }
        for name, (rows, columns) in shapes.items()
    }


def make_pool(folder: Path, given: Given, sharers: Sequence[str] = SHARERS, **changes: Any) -> Pool:
    """Writes a pool's first version."""
    settings = {
        "version": 1,
        "parent": None,
        "base_fingerprint": "f" * 64,
        "lora": LORA,
        "licence": "CC-BY-4.0",
        "provenance": {"seed": 0, "ratio": 1.0},
        "sharers": sharers,
        "pieces": ((name, list(own.items())) for name, own in given.items()),
    }
    return write(folder, settings | changes)


def write(folder: Path, settings: dict[str, Any]) -> Pool:
    """`write_pool` with all settings in one mapping."""
    rest = {name: settings.pop(name) for name in ("pieces", "shapes", "key") if name in settings}
    return write_pool(folder, PoolHead(**settings), **rest)
