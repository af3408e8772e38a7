"""The passes of a GPU without a GPU: on `meta` tensors, which hold no numbers, so that any host read fails.

They take the branches of CUDA. What is launched is counted: kernels, copies from the host, bytes read and written.
"""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, LlamaConfig

from ownlm.config import LoraConfig, TrainConfig
from ownlm.model import attention
from ownlm.model.bank import LoraBank, Scaled
from ownlm.model.base import BaseLM
from ownlm.model.forward_context import trim_last_mlp
from ownlm.model.kv_cache import KvCache
from ownlm.model.packed import BatchBuilder
from ownlm.model.piece_bank import PieceBank, attached
from ownlm.oppu.fleet import Job, _bank, _Fleet
from ownlm.oppu.minibatches import TokenizedExample
from ownlm.perpcs.assemble import features_of

META = torch.device("meta")
HIDDEN, USERS = 576, 4
LORA = LoraConfig(r=8, lora_alpha=8, target_modules=("q_proj", "v_proj"))
VIEWS = {
    "view", "_unsafe_view", "t", "transpose", "expand", "select", "slice", "unsqueeze", "squeeze", "detach", "alias",
    "permute", "split", "split_with_sizes", "_reshape_alias", "as_strided", "unbind", "lift_fresh", "is_same_size",
    "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided",
}  # fmt: skip


class Launches(TorchDispatchMode):
    """Counts what a GPU would be given: one kernel an operation, some of which are more in truth."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.copies, self.bytes = Counter[str](), list[str](), 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        every = given + [one for one in tree_leaves(result) if isinstance(one, Tensor)]
        if any(one.device == META for one in every):
            name = function._overloadpacket.__name__
            if any(one.device != META and one.dim() for one in given):
                self.copies.append(name)
            elif name not in VIEWS:
                self.kernels[name] += 1
                self.bytes += sum(one.nbytes for one in every if one.device == META)
        return result


@pytest.fixture(autouse=True, params=["flash", "padded"])
def flash(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Attention by the kernel for sequences of any lengths, as on newer GPUs; and by buckets, as on older ones."""
    chosen = request.param == "flash"
    monkeypatch.setattr(attention, "_is_flash", lambda query, value: chosen)
    assert varlen.varlen_attn is not None
    return chosen


def model_of(layers: int) -> BaseLM:
    config = LlamaConfig(
        hidden_size=HIDDEN, intermediate_size=1536, num_hidden_layers=layers, num_attention_heads=9,
        num_key_value_heads=3, vocab_size=1000,
    )  # fmt: skip
    with META:
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME, dtype=torch.bfloat16)
    model.requires_grad_(False).eval()
    trim_last_mlp(model)
    return BaseLM("meta", "meta", Path("."), model, None)


def jobs() -> list[Job]:
    rng, made = random.Random(0), list[Job]()
    for user in range(USERS):
        prompts = [[rng.randrange(3, 999) for _ in range(rng.randint(100, 130))] for _ in range(8)]
        made.append(Job(f"user {user}", [TokenizedExample(prompt, [5, 6, 2]) for prompt in prompts], seed=7))
    return made


def training_step(layers: int, dropout: float = 0.0) -> tuple[Launches, Launches, int]:
    """The launches of a pass and of the optimizer's step, and the tokens."""
    base, config = model_of(layers), TrainConfig(lora=LORA, batch_size=8, epochs=1, lora_dropout=dropout)
    fleet = _Fleet(base, _bank(base, config, USERS, None, None), config, 10**6, 1, None)
    for job in jobs():
        fleet.seat(job)
    task = fleet.next_pass()
    assert task is not None
    step, place = task
    with fleet.bank.attached():
        with Launches() as forward_backward:
            step.passed[place] = fleet.run_pass(step.passes[place])
        with Launches() as update:
            fleet.finish(step)
    return forward_backward, update, sum(step.tokens.values())


# Kernels a layer, and bytes a token and layer in multiples of the hidden size. docs/decisions/0035 has the history.
@pytest.mark.parametrize(
    ("dropout", "most_kernels", "most_bytes"),
    [(0.0, {"flash": 141, "padded": 281}, 651), (0.05, {"flash": 203, "padded": 358}, 959)],
)
def test_a_training_step_reads_nothing_and_launches_little(
    flash: bool, dropout: float, most_kernels: dict[str, int], most_bytes: int
) -> None:
    fewer, _, _ = training_step(2, dropout)
    more, update, tokens = training_step(3, dropout)
    assert len(more.copies) + len(update.copies) <= 3
    assert more.kernels.total() - fewer.kernels.total() <= most_kernels["flash" if flash else "padded"]
    assert update.kernels.total() <= 34
    if flash:
        assert (more.bytes - fewer.bytes) / tokens / HIDDEN <= most_bytes


@pytest.mark.parametrize("scaled", ["gates", "weights"])
def test_gates_and_weights_read_nothing(scaled: Scaled) -> None:
    base, config = model_of(2), TrainConfig(lora=LORA, batch_size=8, epochs=1)
    fleet = _Fleet(base, _bank(base, config, USERS, scaled, LORA), config, 10**6, 1, None)
    for job in jobs():
        fleet.seat(job)
    task = fleet.next_pass()
    assert task is not None
    step, place = task
    with fleet.bank.attached(), Launches() as seen:
        step.passed[place] = fleet.run_pass(step.passes[place])
        fleet.finish(step)
    assert len(seen.copies) <= 3


def test_slots_of_very_different_lengths_are_not_multiplied_one_by_one() -> None:
    counts = []
    for users in (4, 12):
        base, row = model_of(1), BatchBuilder()
        bank = LoraBank(base.model, LORA, users)
        for slot in range(users):
            chain = row.add(slot, [5] * (500 if slot == users - 1 else 3))
            row.predict(slot, chain[-1:])
        with bank.attached(), torch.no_grad(), Launches() as seen:
            base.logits(row.pack(META), bank)
        counts.append(seen.kernels["bmm"] + seen.kernels["baddbmm_"] + seen.kernels["mm"] + seen.kernels["addmm_"])
    assert counts[0] == counts[1]


def decoding_pass(layers: int) -> Launches:
    """A pass of a decoder, with the next token of each of 8 sequences."""
    base, row, cache = model_of(layers), BatchBuilder(), KvCache()
    bank = LoraBank(base.model, LORA, 8)
    for slot in range(8):
        before, new = cache.take(20 + slot), cache.take(1)
        row.add(slot, [5], after=before, at=new)
        row.predict(slot, torch.tensor([slot]).numpy())
    places = torch.arange(8).numpy()
    with bank.attached(), torch.no_grad():
        base.logits(row.pack(META), bank, cache.writing(places, META))  # the cache is allocated
        with Launches() as seen:
            base.logits(row.pack(META), bank, cache.writing(places, META))
    return seen


def test_a_pass_of_decoding_reads_nothing_and_launches_little(flash: bool) -> None:
    fewer, more = decoding_pass(2), decoding_pass(3)
    assert len(more.copies) <= 3
    assert more.kernels.total() - fewer.kernels.total() <= (48 if flash else 63)


def test_the_piece_bank_reads_nothing() -> None:
    base, row = model_of(2), BatchBuilder()

    def pieces(name: str) -> tuple[Tensor, Tensor]:
        module = base.model.get_submodule(name)
        return torch.zeros(6, LORA.r, module.in_features), torch.zeros(6, module.out_features, LORA.r)

    bank = PieceBank(base.model, LORA, pieces, slots=3)
    names = list(bank._number)
    for slot in range(3):
        bank.load(slot, names, torch.zeros(len(names), 2, dtype=torch.long), torch.ones(len(names), 2))
        row.predict(slot, row.add(slot, [5, 6, 7])[-1:])
    with attached(bank) as banks, torch.no_grad(), Launches() as seen:
        base.logits(row.pack(META), banks)
    assert len(seen.copies) <= 3


def test_features_of_a_history_take_one_sum() -> None:
    row = BatchBuilder()
    for slot in range(USERS):
        row.predict(slot, row.add(slot, [5, 6, 7, 8])[1:])
    batch = row.pack(META)
    with Launches() as seen:
        assert features_of(torch.empty(batch.tokens, HIDDEN, device=META), batch).shape == (USERS, HIDDEN)
    assert not seen.copies and seen.kernels["index_add_"] == 1
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool((batch.at_P > 0).any())  # what any host read does here
