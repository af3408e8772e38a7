"""Which modules' pieces a sharer gives, and what they are called."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ownlm.errors import ConfigError
from ownlm.perpcs.piece import kept_modules, new_sharer_id

MODULES = [f"layers.{n}.{kind}" for n in range(6) for kind in ("q_proj", "v_proj")]


@given(st.integers(0, 9), st.integers(0, 2**64 - 1), st.floats(0.001, 1), st.integers(1, 12))
def test_kept_modules(seed: int, number: int, ratio: float, count: int) -> None:
    modules, sharer = MODULES[:count], f"{number:016x}"
    kept = kept_modules(seed, sharer, modules, ratio)
    assert len(kept) == max(1, round(ratio * count))
    assert kept == [name for name in modules if name in kept]  # in the model's order
    assert kept == kept_modules(seed, sharer, modules, ratio)


def test_each_sharer_draws_their_own() -> None:
    drawn = {tuple(kept_modules(seed, f"{n:016x}", MODULES, 0.5)) for n in range(20) for seed in range(3)}
    assert len(drawn) > 40
    times = {name: sum(name in kept for kept in drawn) for name in MODULES}
    assert min(times.values()) > 10  # none is left to nobody
    assert kept_modules(0, "00000000000000aa", MODULES, 1.0) == MODULES


def test_ratios_out_of_range() -> None:
    for ratio in (0.0, -0.5, 1.01, float("nan")):
        with pytest.raises(ConfigError, match="ratio"):
            kept_modules(0, "00000000000000aa", MODULES, ratio)


def test_ids_are_random() -> None:
    ids = {new_sharer_id() for _ in range(100)}
    assert len(ids) == 100 and all(re.fullmatch("[0-9a-f]{16}", name) for name in ids)
