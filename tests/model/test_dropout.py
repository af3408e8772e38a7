"""LoRA dropout by a counter: the formula, its statistics, and one token's mask in any row."""

from zlib import crc32

import numpy as np
import pytest
import torch

from ownlm.model.dropout import keep_mask, sequence_seed, token_keys
from ownlm.model.packed import BatchBuilder

LOW = 2**32 - 1


def mix(x: int, rounds: int = 2) -> int:
    for _ in range(rounds):
        x ^= x >> 16
        x = x * 0x45D9F3B & LOW
    return x ^ x >> 16


def test_the_mask_is_the_formula_on_python_s_integers() -> None:
    seed, places, p = sequence_seed(5, 2, 8), np.array([0, 1, 77, 4095]), 0.3
    keys = token_keys(seed, places)
    assert keys.tolist() == [mix(seed ^ place) for place in places.tolist()]
    found = keep_mask(torch.from_numpy(keys), "model.layers.3.mlp.up_proj", 50, p)
    module = crc32(b"model.layers.3.mlp.up_proj")
    right = [[mix(mix(key ^ module) ^ mix(d)) ^ 2**31 for d in range(50)] for key in keys.tolist()]
    assert found.tolist() == [[value < round(0.7 * 2**32) for value in row] for row in right]


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_masks_are_even_and_independent(p: float) -> None:
    keys = torch.from_numpy(np.concatenate([token_keys(sequence_seed(1, 0, n), np.arange(64)) for n in range(16)]))
    one, other = (keep_mask(keys, name, 576, p).double() for name in ("q_proj", "v_proj"))
    error = (p * (1 - p)) ** 0.5
    assert abs(one.mean() - (1 - p)) < 5 * error / one.numel() ** 0.5
    assert ((one.mean(0) - (1 - p)).abs() < 6 * error / len(keys) ** 0.5).all()  # of each channel
    assert ((one.mean(1) - (1 - p)).abs() < 6 * error / 576**0.5).all()  # of each token
    a, b = one - one.mean(), other - other.mean()
    neighbours = [(a, b), (a[1:], a[:-1]), (a[:, 1:], a[:, :-1]), (a[64:], a[:-64])]
    for left, right in neighbours:  # modules, tokens, channels, examples
        assert abs((left * right).mean()) < 5 * error**2 / left.numel() ** 0.5


def test_other_runs_steps_and_examples_have_other_masks() -> None:
    seeds = {sequence_seed(run, step, example) for run in range(10) for step in range(10) for example in range(10)}
    assert len(seeds) == 1000


def test_nothing_is_dropped_at_zero_and_all_but_nothing_at_one() -> None:
    keys = torch.from_numpy(token_keys(3, np.arange(100)))
    assert keep_mask(keys, "q_proj", 100, 0.0).float().mean() > 0.9999
    assert keep_mask(keys, "q_proj", 100, 1.0).float().mean() < 0.0001


def test_a_token_has_the_same_key_in_any_row() -> None:
    alone, mixed = BatchBuilder(), BatchBuilder()
    alone.add(0, [5, 6, 7], seed=9)
    mixed.add(0, [1, 2], seed=4)
    start = mixed.add(3, [5], seed=9)
    mixed.add(3, [6, 7], after=start, seed=9)
    for row, slot, at in ((alone, 0, [0]), (mixed, 3, [2])):
        row.predict(slot, np.array(at), [1])
    assert alone.pack().dropout_key_T.tolist() == mixed.pack().dropout_key_T.tolist()[2:]
    without = BatchBuilder()
    without.predict(0, without.add(0, [5, 6]), [1, 2])
    assert without.pack().dropout_key_T is None
