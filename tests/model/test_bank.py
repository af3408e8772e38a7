"""The bank's slots are LoRA, exactly; they come and go without a trace."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from ownlm.config import LoraConfig
from ownlm.errors import AdapterError, BaseModelError
from ownlm.model.adapter import Adapter, LoraPair, write_peft_folder
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM, load_base, save_merged
from ownlm.model.forward_context import set_forward_context
from ownlm.model.lora import down, lora_merge, lora_update, up_
from ownlm.model.packed import BatchBuilder
from ownlm.model.segments import BASE, make_segments
from tests.peft_folder import read_peft_folder
from tests.perpcs.assembling import IDS, random_adapter, row_of

LORA = LoraConfig(r=4, lora_alpha=12, target_modules=("q_proj", "v_proj", "down_proj"))


def test_equations_against_naive_loops() -> None:
    x_TD, A_URD, B_UOR = (torch.randn(n, dtype=torch.float64) for n in ((7, 5), (3, 2, 5), (3, 4, 2)))
    segments = make_segments([(BASE, 1), (0, 2), (2, 4)], "cpu")
    base_1TO = torch.randn(1, 7, 4, dtype=torch.float64)
    h_TR = down(x_TD[None], A_URD, None, segments)
    out_TO, token = up_(base_1TO.clone(), h_TR, B_UOR, None, segments, 1.5)[0], 0
    for slot, tokens in segments.parts:
        for _ in range(tokens):
            for o in range(4):
                naive = float(base_1TO[0, token, o])
                for r in range(2) if slot != BASE else ():
                    naive += 1.5 * float(B_UOR[slot, o, r] * sum(A_URD[slot, r, d] * x_TD[token, d] for d in range(5)))
                assert float(out_TO[token, o]) == pytest.approx(naive, abs=1e-12)
            token += 1
    weight_OD = torch.randn(4, 5, dtype=torch.float64)
    merged = lora_merge(weight_OD, A_URD[0], B_UOR[0], 1.5)
    torch.testing.assert_close(x_TD @ merged.T, x_TD @ weight_OD.T + lora_update(x_TD, A_URD[0], B_UOR[0], 1.5))


def test_mixed_slots_equal_each_alone_and_the_bare_base(base: BaseLM) -> None:
    bare = base.logits(row_of([BASE]).pack())
    adapters = [random_adapter(base, LORA, seed) for seed in range(3)]
    bank = LoraBank(base.model, LORA, 3)
    for slot, adapter in enumerate(adapters):
        bank.load(slot, adapter)
    with bank.attached():
        mixed = base.logits(row_of([BASE, 0, 1, 2]).pack(), bank).view(4, len(IDS), -1)
        alone = [base.logits(row_of([slot]).pack(), bank) for slot in range(3)]
    torch.testing.assert_close(mixed[0], bare)
    for slot in range(3):
        torch.testing.assert_close(mixed[slot + 1], alone[slot], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(mixed[slot + 1], bare, atol=1e-2)


def test_detached_without_trace(base: BaseLM) -> None:
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    bare = base.logits(row_of([BASE]).pack())
    hooks = [len(module._forward_hooks) for module in base.model.modules()]
    with LoraBank(base.model, LORA, 1).attached():
        assert hooks != [len(module._forward_hooks) for module in base.model.modules()]
    assert hooks == [len(module._forward_hooks) for module in base.model.modules()]
    after = base.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(base.logits(row_of([BASE]).pack()), bare)


def test_an_exported_adapter_gives_the_same_logits_in_peft(base: BaseLM, tmp_path: Path) -> None:
    adapter = random_adapter(base, LORA)
    bank = LoraBank(base.model, LORA, 1)
    bank.load(0, adapter)
    with bank.attached(), torch.no_grad():
        ours = base.logits(row_of([0]).pack(), bank)
    write_peft_folder(tmp_path / "adapter", adapter.to_bytes(), LORA, str(base.folder))
    plain = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
    peft = PeftModel.from_pretrained(plain, tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(peft(torch.tensor([IDS])).logits[0], ours, atol=1e-5, rtol=1e-5)
    back = read_peft_folder(tmp_path / "adapter")
    assert back.lora.r == 4 and back.lora.lora_alpha == 12
    assert all(torch.equal(back.pairs[name].B_OR, pair.B_OR) for name, pair in adapter.pairs.items())


def test_a_merged_base_gives_the_same_logits_without_adapter(base: BaseLM, tmp_path: Path) -> None:
    adapter = random_adapter(base, LORA)
    bank = LoraBank(base.model, LORA, 1)
    bank.load(0, adapter)
    with bank.attached(), torch.no_grad():
        ours = base.logits(row_of([0]).pack(), bank)
    before = base.model.state_dict()["model.layers.0.self_attn.q_proj.weight"].clone()
    save_merged(base, adapter, tmp_path / "merged")
    assert torch.equal(base.model.state_dict()["model.layers.0.self_attn.q_proj.weight"], before)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(plain(torch.tensor([IDS])).logits[0], ours, atol=1e-5, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").decode(IDS) == base.tokenizer.decode(IDS)


def test_a_merged_head_is_no_longer_tied_to_the_embeddings(base: BaseLM, tmp_path: Path) -> None:
    """The tiny base ties its head to its embeddings; the adapter changes the head alone."""
    lora = LoraConfig(r=4, lora_alpha=12, target_modules=("q_proj", "lm_head"))
    adapter, bank = random_adapter(base, lora), LoraBank(base.model, lora, 1)
    bank.load(0, adapter)
    with bank.attached(), torch.no_grad():
        ours = base.logits(row_of([0]).pack(), bank)
    save_merged(base, adapter, tmp_path / "merged")
    embeddings, head = base.model.get_input_embeddings().weight, base.model.get_output_embeddings().weight
    assert base.model.config.tie_word_embeddings and head is embeddings  # in memory as before
    assert json.loads((tmp_path / "merged/config.json").read_text("utf8"))["tie_word_embeddings"] is False
    merged = load_base(tmp_path / "merged", name="merged", fingerprint="merged")
    with torch.no_grad():
        torch.testing.assert_close(merged.logits(row_of([BASE]).pack()), ours, atol=1e-5, rtol=1e-5)
    assert torch.equal(merged.model.get_input_embeddings().weight, embeddings)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(plain(torch.tensor([IDS])).logits[0], ours, atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_is_refused(base: BaseLM) -> None:
    bank = LoraBank(base.model, LORA, 1)
    with pytest.raises(AdapterError, match="r=8"):
        bank.load(0, random_adapter(base, LORA.model_copy(update={"r": 8})))
    with pytest.raises(AdapterError, match="other modules"):
        bank.load(0, random_adapter(base, LORA.model_copy(update={"target_modules": ("q_proj",)})))
    good = random_adapter(base, LORA)
    name = next(iter(good.pairs))
    wide = LoraPair(torch.zeros(4, 65), good.pairs[name].B_OR)
    with pytest.raises(AdapterError, match="do not fit"):
        bank.load(0, Adapter(LORA, dict(good.pairs) | {name: wide}))
    assert not bank.param_UP.any()  # nothing was loaded
    with pytest.raises(BaseModelError, match="qkv_proj"):
        LoraBank(base.model, LoraConfig(target_modules=("q_proj", "qkv_proj")), 1)


@pytest.mark.parametrize("at", [0, 4, 9, 60, 400, -1])
def test_damaged_weights_are_refused(base: BaseLM, at: int) -> None:
    data = random_adapter(base, LORA).to_bytes()
    with pytest.raises(AdapterError):
        Adapter.from_bytes(data[:at], LORA)


def test_numbers_that_are_none_and_foreign_names_are_refused(base: BaseLM) -> None:
    adapter = random_adapter(base, LORA)
    name = next(iter(adapter.pairs))
    adapter.pairs[name].A_RD[0, 0] = float("inf")
    with pytest.raises(AdapterError, match="not finite"):
        Adapter.from_bytes(adapter.to_bytes(), LORA)
    with pytest.raises(AdapterError, match="rank"):
        Adapter.from_bytes(random_adapter(base, LORA).to_bytes(), LORA.model_copy(update={"r": 2}))
    with pytest.raises(AdapterError, match="PEFT"):
        Adapter.from_bytes(random_adapter(base, LORA).to_bytes().replace(b"lora_B", b"lora_C", 1), LORA)


class Parallel(torch.nn.Module):
    """As where attention and MLP read one normalised input: modules of two families see the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.v_proj, self.gate_proj = (torch.nn.Linear(5, width, bias=False) for width in (4, 3, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.q_proj(x), self.v_proj(x), self.gate_proj(x), self.q_proj(2 * x)], dim=-1)


def test_each_module_gets_its_own_adapter_whatever_it_reads() -> None:
    model, lora = Parallel(), LoraConfig(r=2, lora_alpha=3, target_modules=("q_proj", "v_proj", "gate_proj"))
    row = BatchBuilder()
    row.predict(0, row.add(0, IDS))
    batch, bank, x_1TD = row.pack(), LoraBank(model, lora, 1), torch.randn(1, len(IDS), 5)
    bank.param_UP.normal_(generator=torch.Generator().manual_seed(0))
    pairs = bank.read(0).pairs
    with bank.attached(), set_forward_context(batch, bank, None), torch.no_grad():
        out_1TO = model(x_1TD)
    expected = [
        module(x_1TD[0] * times) + lora_update(x_1TD[0] * times, pairs[name].A_RD, pairs[name].B_OR, 1.5)
        for name, module, times in (
            ("q_proj", model.q_proj, 1), ("v_proj", model.v_proj, 1), ("gate_proj", model.gate_proj, 1),
            ("q_proj", model.q_proj, 2),
        )
    ]  # fmt: skip
    torch.testing.assert_close(out_1TO[0], torch.cat(expected, dim=-1))
