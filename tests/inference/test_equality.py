"""Answers in mixed batches are those that each person's merged model gives alone."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ownlm.config import LoraConfig
from ownlm.inference.label_scoring import encode_labels, label_log_likelihood, score_labels
from ownlm.model.adapter import Adapter, write_peft_folder
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM, load_base
from ownlm.model.segments import BASE
from tests.decoding import answers, generate, new_sequence, texts_of

LORA = LoraConfig(r=4, lora_alpha=8)
TEXTS = ["Sort this: a", "Sort this: a longer message, about something else", "Other words", "b"]
LABELS = ["yes", "no", "yes please", "perhaps not today"]


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseLM:
    return load_base(tiny_base, name="tiny", fingerprint="tiny")


@pytest.fixture(scope="module")
def adapters(base: BaseLM) -> dict[str, Adapter]:
    bank = LoraBank(base.model, LORA, 3)
    bank.param_UP.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
    return {f"person {slot}": bank.read(slot) for slot in range(3)}


def stock_model(base: BaseLM, adapter: Adapter | None, folder: Path) -> torch.nn.Module:
    plain = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
    if adapter is None:
        return plain
    write_peft_folder(folder, adapter.to_bytes(), LORA, str(base.folder))
    return PeftModel.from_pretrained(plain, folder)


def test_generation_equals_transformers_generate(base: BaseLM, adapters: dict[str, Adapter], tmp_path: Path) -> None:
    owners = [None, *adapters]
    prompts = [(owner, base.encode_prompt(text)) for text in TEXTS for owner in owners]  # owners interleaved
    ours = answers(base, adapters, prompts, 9)
    assert len(set(ours)) > 4
    for owner in owners:
        model = stock_model(base, adapters.get(owner or ""), tmp_path / str(owner))
        for (own, prompt), text in zip(prompts, ours, strict=True):
            if own == owner:
                ids = torch.tensor([prompt])
                out = model.generate(input_ids=ids, max_new_tokens=9, do_sample=False)[0, ids.shape[1] :].tolist()
                assert base.decode(out) == text


def test_scores_equal_each_label_alone(base: BaseLM, adapters: dict[str, Adapter], tmp_path: Path) -> None:
    bank = LoraBank(base.model, LORA, 3)
    for slot, adapter in enumerate(adapters.values()):
        bank.load(slot, adapter)
    sequences = [new_sequence(base, slot, base.encode_prompt(text)) for text in TEXTS for slot in (2, BASE, 0)]
    with bank.attached():
        scores = score_labels(base, bank, sequences, encode_labels(base, LABELS))
    for sequence, found in zip(sequences, scores, strict=True):
        adapter = None if sequence.slot == BASE else adapters[f"person {sequence.slot}"]
        model = stock_model(base, adapter, tmp_path / str(sequence.slot))
        for label, score in zip(LABELS, found, strict=True):
            tokens = base.encode_answer(f" {label}")
            with torch.no_grad():
                logits = model(torch.tensor([sequence.prompt + tokens])).logits[0, len(sequence.prompt) - 1 : -1]
            expected = logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None]).sum()
            assert score == pytest.approx(float(expected), rel=1e-4)


def test_log_likelihood_against_a_naive_loop() -> None:
    logits_PV, target_P, label_P = torch.randn(6, 5, dtype=torch.float64), [0, 4, 2, 2, 1, 3], [0, 0, 1, 2, 2, 2]
    got = label_log_likelihood(logits_PV, torch.tensor(target_P), torch.tensor(label_P), 3)
    naive = [0.0, 0.0, 0.0]
    for at, (target, label) in enumerate(zip(target_P, label_P, strict=True)):
        naive[label] += float((logits_PV[at].exp() / logits_PV[at].exp().sum()).log()[target])
    assert got.tolist() == pytest.approx(naive)


def test_generation_stops_at_the_limit_and_at_the_context(base: BaseLM) -> None:
    (short,) = texts_of(generate(base, None, [(BASE, [5, 6])], 1))
    assert len(short) <= 1  # a token of this base is a byte at most
    room = base.max_tokens - 3
    (cut,) = generate(base, None, [(BASE, [5] * room)], 50)
    assert cut.num_completion_tokens == 3 and cut.finish == "length"


def test_an_answer_of_one_line_ends_with_it(base: BaseLM) -> None:
    line_end = base.tokenizer("\n", add_special_tokens=False)["input_ids"][-1]
    prompts = [(BASE, base.encode_prompt(text)) for text in ("one", "another one", "a third")]
    free = texts_of(generate(base, None, prompts, 12))
    calls = 0

    class Lines:
        """The base, saying a line end as its fourth token."""

        def __getattr__(self, name: str) -> object:
            return getattr(base, name)

        def logits(self, *args: object) -> torch.Tensor:
            nonlocal calls
            calls += 1
            logits_PV = base.logits(*args)  # type: ignore[arg-type]
            if calls == 4:
                logits_PV[:, line_end] = 1e9
            return logits_PV

    one_line = texts_of(generate(Lines(), None, prompts, 12, one_line=True))  # type: ignore[arg-type]
    assert calls == 4 and all("\n" not in text for text in one_line)
    for whole, line in zip(free, one_line, strict=True):
        assert whole.split("\n")[0].startswith(line)
