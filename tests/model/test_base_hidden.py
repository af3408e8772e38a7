"""The last hidden states of a packed row are those that the stock model gives each sequence alone."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ownlm.config import LoraConfig
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM, load_base
from ownlm.model.packed import BatchBuilder
from ownlm.model.segments import BASE
from tests.model.test_self_test import save

SEQUENCES = [[5, 6, 7, 8, 9], [10], list(range(20, 90)), [5, 6, 7]]


def rows() -> tuple[BatchBuilder, BatchBuilder]:
    """A row that asks for nothing, and one that asks for a single token, few enough for the last MLP to be trimmed."""
    silent, asking = BatchBuilder(), BatchBuilder()
    for sequence in SEQUENCES:
        silent.add(BASE, sequence)
        chain = asking.add(BASE, sequence)
    asking.predict(BASE, chain[-1:])
    return silent, asking


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma"])
def test_every_position_is_the_stock_models(tmp_path: Path, tiny_base: Path, kind: str) -> None:
    folder = save(tmp_path / kind, tiny_base, kind)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    alone = [plain(torch.tensor([ids]), output_hidden_states=True) for ids in SEQUENCES]
    expected_TD = torch.cat([output.hidden_states[-1][0] for output in alone])
    base = load_base(folder, name=kind, fingerprint=kind)
    for row in rows():
        hidden_TD = base.hidden(row.pack())
        torch.testing.assert_close(hidden_TD, expected_TD, atol=1e-5, rtol=1e-4)
    logits_TV = torch.cat([output.logits[0] for output in alone])
    torch.testing.assert_close(base.model.lm_head(hidden_TD), logits_TV, atol=1e-4, rtol=1e-4)  # after the final norm


@torch.no_grad()
def test_a_bank_changes_nothing(base: BaseLM) -> None:
    bank = LoraBank(base.model, LoraConfig(r=4, lora_alpha=8), 1)
    bank.param_UP.normal_(generator=torch.Generator().manual_seed(1))
    row = BatchBuilder()
    row.predict(0, row.add(0, SEQUENCES[0]))
    batch = row.pack()
    before_TD, before_PV = base.hidden(batch), base.logits(batch)
    with bank.attached():
        assert torch.equal(base.hidden(batch), before_TD)
        assert not torch.allclose(base.logits(batch, bank), before_PV)


def test_the_head_does_not_run(base: BaseLM) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the head ran")

    handle = base.model.lm_head.register_forward_pre_hook(refuse)
    try:
        assert base.hidden(rows()[0].pack()).shape == (sum(map(len, SEQUENCES)), base.model.config.hidden_size)
    finally:
        handle.remove()
