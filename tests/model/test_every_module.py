"""Every linear module that a bank accepts: a user alone, the same user in company, and `peft` agree, in float64."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from ownlm.config import LoraConfig
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM, load_base
from ownlm.model.packed import BatchBuilder
from ownlm.model.piece_bank import PieceBank, attached
from tests.model.test_self_test import save
from tests.peft_reference import weights

KINDS: dict[str, dict[str, object]] = {
    "llama": {"tie_word_embeddings": True},
    "phi3": {},  # fused projections
    "gpt_neox": {},  # biases, attention beside the MLP
    "qwen2_moe": {  # a shared expert that sees [T, D]
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40,
    },
    "llama4_text": {"num_local_experts": 2, "intermediate_size_mlp": 40, "attention_chunk_size": 512},
}  # fmt: skip
R, ALPHA = 2, 3.0


@dataclass
class Case:
    base: BaseLM
    plain: nn.Module
    names: tuple[str, ...]


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Case:
    folder = save(tmp_path_factory.mktemp("bases") / request.param, tiny_base, request.param, **KINDS[request.param])
    base = load_base(folder, name=request.param, fingerprint="")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    for model in (base.model, plain):
        model.set_experts_implementation("eager")  # the grouped kernels know no float64
        model.double()
    linears = {name for name, module in plain.named_modules() if type(module) is nn.Linear}
    return Case(base, plain, tuple(sorted({name.rsplit(".", 1)[-1] for name in linears})))


@dataclass(frozen=True)
class User:
    """A prefix, and bodies behind it. Some positions are asked for more than once, some never."""

    seed: int
    prefix: int
    bodies: tuple[int, ...]

    @cache  # noqa: B019 (a few users a test)
    def tokens(self) -> tuple[list[int], list[list[int]]]:
        draw = np.random.default_rng(self.seed)
        prefix, *bodies = (draw.integers(3, 250, size).tolist() for size in (self.prefix, *self.bodies))
        return prefix, bodies

    def fill(self, row: BatchBuilder, slot: int) -> int:
        prefix, bodies = self.tokens()
        shared, asked = row.add(slot, prefix), 0
        for body in bodies:
            chain = row.add(slot, body, after=shared)[len(prefix) - 1 :]
            row.predict(slot, chain)  # the prefix's end is asked for once a body
            asked += len(chain)
        return asked


users = st.builds(
    User, st.integers(0, 99), st.integers(1, 9), st.lists(st.integers(1, 12), min_size=1, max_size=3).map(tuple)
)


def in_bank(case: Case, lora: LoraConfig, people: Sequence[User]) -> list[tuple[Tensor, Tensor]]:
    """Each user's logits, and the gradient of a loss of their own."""
    bank = LoraBank(case.base.model, lora, len(people))
    row, counts = BatchBuilder(), []
    for slot, user in enumerate(people):
        bank.param_UP[slot].normal_(std=0.1, generator=torch.Generator().manual_seed(user.seed))
        counts.append(user.fill(row, slot))
    batch = row.pack()
    grads_WP = bank.new_grads(batch)
    with bank.attached():
        logits_PV = case.base.logits(batch, bank, grads_WP=grads_WP)
        logits_PV.tanh().sum().backward()
    return list(zip(logits_PV.detach().split(counts), grads_WP, strict=True))


def in_peft(case: Case, lora: LoraConfig, user: User) -> tuple[Tensor, dict[str, Tensor]]:
    """One user's logits and gradients, by PEFT's names."""
    bank = LoraBank(case.base.model, lora, 1)
    bank.param_UP[0].normal_(std=0.1, generator=torch.Generator().manual_seed(user.seed))
    adapter = bank.read(0)
    config = PeftLoraConfig(r=lora.r, lora_alpha=lora.lora_alpha, target_modules=list(adapter.pairs))
    model = get_peft_model(deepcopy(case.plain), config)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    begin = weights(adapter)
    assert trained.keys() == begin.keys()
    for name, parameter in trained.items():
        parameter.data.copy_(begin[name])
    prefix, bodies = user.tokens()
    logits_PV = torch.cat([model(torch.tensor([prefix + body])).logits[0, len(prefix) - 1 :] for body in bodies])
    logits_PV.tanh().sum().backward()
    return logits_PV.detach(), {name: parameter.grad for name, parameter in trained.items()}


def by_peft_names(case: Case, lora: LoraConfig, grad_P: Tensor) -> dict[str, Tensor]:
    bank = LoraBank(case.base.model, lora, 1)
    bank.pairs_UP[0] = grad_P
    return weights(bank.read(0))


def close(ours: Tensor, theirs: Tensor) -> bool:
    """Norms, angles and the stock softmax are computed in float32 whatever the weights are."""
    return bool((ours - theirs).abs().max() <= 1e-4 * theirs.abs().max())


@settings(max_examples=5, phases=[Phase.generate])
@given(data=st.data(), people=st.lists(users, min_size=2, max_size=4))
def test_alone_equals_in_company_equals_peft(case: Case, data: st.DataObject, people: list[User]) -> None:
    names = data.draw(st.sets(st.sampled_from(case.names), min_size=1).map(sorted))
    lora = LoraConfig(r=R, lora_alpha=ALPHA, target_modules=tuple(names))
    together = in_bank(case, lora, people)
    for user, (logits_PV, grad_P) in zip(people, together, strict=True):
        ((alone_PV, alone_P),) = in_bank(case, lora, [user])
        assert close(logits_PV, alone_PV) and close(grad_P, alone_P)
    theirs_PV, theirs = in_peft(case, lora, people[0])
    assert close(together[0][0], theirs_PV)
    ours = by_peft_names(case, lora, together[0][1])
    for name, grad in theirs.items():
        assert close(ours[name], grad), name


def test_each_module_alone_in_a_bank_of_pieces(case: Case) -> None:
    """The same for the bank in which users share pieces."""
    people, lora = [User(1, 3, (4, 2)), User(2, 1, (9,)), User(3, 5, (1, 1))], LoraConfig(r=R, lora_alpha=ALPHA)
    for name in case.names:
        shape = lora.model_copy(update={"target_modules": (name,)})
        like = LoraBank(case.base.model, shape, 4)
        like.param_UP.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
        adapters = [like.read(slot).pairs for slot in range(4)]

        def stacked(module: str, adapters: list = adapters) -> tuple[Tensor, Tensor]:
            return torch.stack([one[module].A_RD for one in adapters]), torch.stack(
                [one[module].B_OR for one in adapters]
            )

        bank, modules = PieceBank(case.base.model, shape, stacked, len(people)), list(adapters[0])
        weight_MK = torch.tensor([[0.7, 0.3]], dtype=torch.float64).expand(len(modules), 2)
        row, counts = BatchBuilder(), []
        with attached(bank) as banks, torch.no_grad():
            alone = []
            for slot, user in enumerate(people):
                bank.load(slot, modules, torch.tensor([[slot, slot + 1]]).expand(len(modules), 2), weight_MK)
                counts.append(user.fill(row, slot))
                own = BatchBuilder()
                user.fill(own, slot)
                alone.append(case.base.logits(own.pack(), banks))
            together = case.base.logits(row.pack(), banks).split(counts)
        for one, other in zip(together, alone, strict=True):
            assert close(one, other), name
