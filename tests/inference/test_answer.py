"""Answers in mixed batches are those that each person's merged model gives alone."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ownlm.config import LoraConfig
from ownlm.inference.ask import Question, answer
from ownlm.inference.generate import generate
from ownlm.inference.label_scoring import choose, label_log_likelihood
from ownlm.inference.prompt_row import Prompt
from ownlm.model.adapter import Adapter, write_peft_folder
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM, load_base
from ownlm.model.segments import BASE

LORA = LoraConfig(r=4, lora_alpha=8)
TEXTS = ["Sort this: a", "Sort this: a longer message, about something else", "Other words", "b"]
LABELS = [" yes", " no", " yes please", " perhaps not today"]


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


def cases(base: BaseLM, adapters: dict[str, Adapter]) -> list[Question]:
    owners = [None, *adapters]
    return [Question(base.encode_prompt(text), owner) for text in TEXTS for owner in owners]  # owners interleaved


def test_generation_equals_transformers_generate(base: BaseLM, adapters: dict[str, Adapter], tmp_path: Path) -> None:
    questions = cases(base, adapters)
    ours = answer(base, adapters, questions, max_new_tokens=9)
    assert len(set(ours)) > 4
    for owner in (None, *adapters):
        model = stock_model(base, adapters.get(owner or ""), tmp_path / str(owner))
        for question, text in zip(questions, ours, strict=True):
            if question.owner == owner:
                ids = torch.tensor([question.prompt])
                out = model.generate(input_ids=ids, max_new_tokens=9, do_sample=False)[0, ids.shape[1] :].tolist()
                assert base.decode(out) == text


def test_choice_equals_scoring_each_label_alone(base: BaseLM, adapters: dict[str, Adapter], tmp_path: Path) -> None:
    bank = LoraBank(base.model, LORA, 3)
    for slot, adapter in enumerate(adapters.values()):
        bank.load(slot, adapter)
    prompts = [Prompt(slot, base.encode_prompt(text)) for text in TEXTS for slot in (2, BASE, 0)]
    with bank.attached():
        choices = choose(base, bank, prompts, LABELS, tokens_per_pass=200)
    for prompt, choice in zip(prompts, choices, strict=True):
        adapter = None if prompt.slot == BASE else adapters[f"person {prompt.slot}"]
        model = stock_model(base, adapter, tmp_path / str(prompt.slot))
        for label in LABELS:
            tokens = base.encode_answer(label)
            with torch.no_grad():
                logits = model(torch.tensor([prompt.tokens + tokens])).logits[0, len(prompt.tokens) - 1 : -1]
            expected = logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None]).sum()
            assert choice.log_probabilities[label.strip()] == pytest.approx(float(expected), rel=1e-4)
        assert choice.label == max(choice.log_probabilities, key=choice.log_probabilities.__getitem__)


def test_log_likelihood_against_a_naive_loop() -> None:
    logits_PV, target_P, label_P = torch.randn(6, 5, dtype=torch.float64), [0, 4, 2, 2, 1, 3], [0, 0, 1, 2, 2, 2]
    got = label_log_likelihood(logits_PV, torch.tensor(target_P), torch.tensor(label_P), 3)
    naive = [0.0, 0.0, 0.0]
    for at, (target, label) in enumerate(zip(target_P, label_P, strict=True)):
        naive[label] += float((logits_PV[at].exp() / logits_PV[at].exp().sum()).log()[target])
    assert got.tolist() == pytest.approx(naive)


def test_generation_stops_at_the_limit_and_at_the_context(base: BaseLM) -> None:
    (short,) = generate(base, None, [Prompt(BASE, [5, 6])], max_new_tokens=1)
    assert len(short) <= 1  # a token of this base is a byte at most
    room = base.max_tokens - 3
    (cut,) = generate(base, None, [Prompt(BASE, [5] * room)], max_new_tokens=50)
    assert len(cut) <= 3


def test_an_answer_of_one_line_ends_with_it(base: BaseLM) -> None:
    line_end = base.tokenizer("\n", add_special_tokens=False)["input_ids"][-1]
    prompts = [Prompt(BASE, base.encode_prompt(text)) for text in ("one", "another one", "a third")]
    free = generate(base, None, prompts, max_new_tokens=12)
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

    one_line = generate(Lines(), None, prompts, max_new_tokens=12, one_line=True)  # type: ignore[arg-type]
    assert calls == 4 and all("\n" not in text for text in one_line)
    for whole, line in zip(free, one_line, strict=True):
        assert whole.split("\n")[0].startswith(line)


def test_nothing_asked_nothing_answered(base: BaseLM) -> None:
    assert answer(base, {}, [], max_new_tokens=4) == []
    assert answer(base, {}, [], labels=["a"], max_new_tokens=4) == []
