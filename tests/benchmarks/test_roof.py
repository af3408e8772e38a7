"""The counted operations against what torch counts while it runs."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from roof import Load, Shape, job_load, load_of, needed

from ownlm.config import LoraConfig, TrainConfig
from ownlm.model.packed import BatchBuilder
from ownlm.oppu.fleet import Job
from ownlm.oppu.minibatches import TokenizedExample

TOKENS = 40


@pytest.mark.parametrize("modules", [("q_proj", "v_proj"), ("v_proj",), ("q_proj", "k_proj", "o_proj", "down_proj")])
def test_a_dense_pass_is_what_torch_counts(tiny_base: Path, modules: tuple[str, ...]) -> None:
    """Eager attention computes every pair, and each layer and the head every token: with that load, the same count."""
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    plain = AutoModelForCausalLM.from_pretrained(tiny_base, attn_implementation="eager")
    shape = Shape.of(plain.config, LoraConfig(target_modules=modules))
    model = get_peft_model(plain, PeftLoraConfig(r=8, target_modules=list(modules)))
    ids = torch.randint(3, 259, (1, TOKENS))
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(input_ids=ids).logits[0], ids[0]).backward()
    dense = Load(tokens=TOKENS, asked=TOKENS, pairs=TOKENS**2, asked_pairs=TOKENS**2)
    assert needed(shape, dense) == counter.get_total_flops()


def test_the_load_is_the_packed_rows() -> None:
    """Tokens, asked positions and pairs, counted one by one on a row."""
    examples = [
        TokenizedExample([1, 2, 3, 4], [5, 6]),
        TokenizedExample([1, 2, 9], [5]),
        TokenizedExample([1, 2], [7, 7, 7]),
    ]
    row = BatchBuilder()
    prefix = row.add(0, [1])
    ends: list[int] = [1]
    asked_pairs = 0
    for example in examples:
        chain = row.add(0, (example.prompt + example.answer[:-1])[1:], after=prefix)
        row.predict(0, chain[len(example.prompt) - 1 :], example.answer)
        ends += range(2, len(chain) + 1)
        asked_pairs += sum(range(len(example.prompt), len(chain) + 1))
    batch = row.pack()
    assert load_of(examples) == Load(batch.tokens, len(batch.at_P), sum(ends), asked_pairs)


def test_a_jobs_load_is_the_sum_of_its_steps() -> None:
    alike = [TokenizedExample([1, 2, 3, n], [4, 5]) for n in range(4)]
    load = job_load(Job("ada", alike, seed=0), TrainConfig(epochs=3, batch_size=2))
    steps = 3 * 2
    assert (load.tokens, load.asked) == (steps * (3 + 2 * 2), steps * 2 * 2)
