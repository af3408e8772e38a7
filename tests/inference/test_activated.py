"""Activated adapters: answers equal PEFT's, and the instruction is computed once for all users."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ownlm.config import LoraConfig
from ownlm.inference.adapter_cache import AdapterSlot
from ownlm.inference.decoder import INSTRUCTIONS, Decoder
from ownlm.inference.label_scoring import encode_labels, score_labels
from ownlm.inference.sequence import Sequence
from ownlm.model.adapter import write_peft_folder
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM, load_base
from ownlm.model.lora import activation_start
from ownlm.model.segments import BASE
from ownlm.oppu.examples import invocation_tokens
from tests.decoding import new_sequence, texts_of

INSTRUCTION = "Sort this into: a, b."
TEXTS = ["one", "a longer message, about something else", f"another\n\n{INSTRUCTION}\n\nagain", "b"]
LABELS = ["yes", "no", "perhaps not today"]
USERS = 3


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseLM:
    return load_base(tiny_base, name="tiny", fingerprint="tiny")


@pytest.fixture(scope="module")
def bank(base: BaseLM) -> Iterator[LoraBank]:
    lora = LoraConfig(r=4, lora_alpha=8, alora_invocation_tokens=invocation_tokens(base, INSTRUCTION))
    bank = LoraBank(base.model, lora, USERS)
    bank.param_UP.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
    with bank.attached():
        yield bank


def sequences_of(base: BaseLM, bank: LoraBank, texts: list[str], **how: Any) -> list[Sequence]:
    """A sequence of each text for each user."""
    made = []
    for text in texts:
        for user in range(USERS):
            sequence = new_sequence(base, BASE, base.encode_prompt(f"{INSTRUCTION}\n\n{text}"), caller=str(user), **how)
            sequence.use(AdapterSlot(bank, user))
            assert sequence.slot == user and sequence.unadapted > 0
            made.append(sequence)
    return made


def in_peft(base: BaseLM, bank: LoraBank, user: int, folder: Path) -> PeftModel:
    adapter = bank.read(user)
    write_peft_folder(folder, adapter.to_bytes(), adapter.lora, str(base.folder))
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32), folder)


def test_the_adapter_acts_from_the_first_invocation_on(base: BaseLM) -> None:
    invocation = invocation_tokens(base, INSTRUCTION)
    alone = base.encode_prompt(INSTRUCTION)
    for text in TEXTS:
        prompt = base.encode_prompt(f"{INSTRUCTION}\n\n{text}")
        start = activation_start(prompt, invocation)
        assert start is not None and start < len(alone) and tuple(prompt[start:][: len(invocation)]) == invocation
    assert activation_start(base.encode_prompt("other words"), invocation) is None


def test_generation_and_labels_equal_peft(base: BaseLM, bank: LoraBank, tmp_path: Path) -> None:
    texts = [text for text in TEXTS if INSTRUCTION not in text]  # of a repeated instruction, PEFT takes the last
    sequences = sequences_of(base, bank, texts, max_tokens=9)
    decoder = Decoder(base, bank)
    for sequence in sequences:
        decoder.join(sequence)
    while decoder.running:
        decoder.step()
    scores = score_labels(base, bank, sequences, encode_labels(base, LABELS))
    assert len({*texts_of(sequences)}) > 4
    for user in range(USERS):
        model = in_peft(base, bank, user, tmp_path / str(user))
        for sequence, found in list(zip(sequences, scores, strict=True))[user::USERS]:
            ids = torch.tensor([sequence.prompt])
            out = model.generate(input_ids=ids, max_new_tokens=9, do_sample=False)[0, ids.shape[1] :].tolist()
            assert base.decode(out) == sequence.text.whole
            for label, score in zip(LABELS, found, strict=True):
                tokens = base.encode_answer(f" {label}")
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([sequence.prompt + tokens])).logits[0]
                log_p = logits[len(sequence.prompt) - 1 : -1].log_softmax(-1)
                assert score == pytest.approx(float(log_p.gather(1, torch.tensor(tokens)[:, None]).sum()), rel=1e-4)


def test_the_instruction_is_computed_once_and_stays(
    base: BaseLM, bank: LoraBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, logits = list[int](), BaseLM.logits

    def counting(self: BaseLM, batch: Any, *rest: Any, **named: Any) -> torch.Tensor:
        sizes.append(batch.tokens)
        return logits(self, batch, *rest, **named)

    monkeypatch.setattr(BaseLM, "logits", counting)
    decoder, said = Decoder(base, bank), list[list[str]]()
    for _ in range(2):
        sequences = sequences_of(base, bank, ["one", "two"], max_tokens=3)
        own = sum(len(one.prompt) - one.unadapted for one in sequences)
        for sequence in sequences:
            decoder.join(sequence)
        before = len(sizes)
        while decoder.running:
            decoder.step()
        assert sizes[before] == own + (0 if before else sequences[0].unadapted)
        said.append(texts_of(sequences))
    assert said[0] == said[1]


def test_a_prompt_without_the_instruction_is_the_base_s_as_in_peft(base: BaseLM, bank: LoraBank) -> None:
    prompt = base.encode_prompt("quite other words")
    with_adapter, without = (new_sequence(base, BASE, prompt) for _ in range(2))
    with_adapter.use(AdapterSlot(bank, 0))
    decoder = Decoder(base, bank)
    for sequence in (with_adapter, without):
        decoder.join(sequence)
    while decoder.running:
        decoder.step()
    assert with_adapter.text.whole == without.text.whole


def test_a_caller_s_own_text_is_shared_with_nobody_and_old_instructions_leave_the_cache(
    base: BaseLM, bank: LoraBank
) -> None:
    decoder = Decoder(base, bank)
    own = sequences_of(base, bank, ["one"], continues=True)
    for sequence in own:
        decoder.join(sequence)
    assert len({id(one.parent) for one in own}) == USERS
    while decoder.running:
        decoder.step()
    assert decoder._cache.used == 0
    for number in range(INSTRUCTIONS + 3):
        (sequence, *_) = sequences_of(base, bank, ["one"])
        sequence.prompt = [number + 5, *sequence.prompt]
        sequence.pending = sequence.prompt
        sequence.use(AdapterSlot(bank, 0))
        decoder.join(sequence)
        while decoder.running:
            decoder.step()
    assert decoder._cache.used == INSTRUCTIONS * sequence.unadapted
