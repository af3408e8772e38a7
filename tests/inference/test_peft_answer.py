"""Answers with (IA)3 and virtual tokens are those that peft gives with the exported folder."""

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import save
from torch import Tensor
from transformers import AutoModelForCausalLM

from ownlm.config import TrainConfig
from ownlm.errors import AdapterError
from ownlm.inference.ask import Question, answer
from ownlm.inference.label_scoring import choose
from ownlm.inference.peft_answer import answer_with_peft
from ownlm.inference.prompt_row import Prompt
from ownlm.model.base import BaseLM, load_base
from ownlm.model.bases.random_base import make_random_base
from ownlm.model.packed import BatchBuilder
from ownlm.model.peft_adapter import PeftAdapter, fresh_adapter
from ownlm.model.segments import BASE

TEXTS = ["Sort this: a", "Sort this: a longer message, about something else", "Other words", "b"]
LABELS = ["yes", "no", "yes please", "perhaps not today"]
METHODS = ("ia3", "prompt")
methods = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> BaseLM:
    folder = make_attentive(tiny_base, tmp_path_factory.mktemp("base") / "attentive")
    return load_base(folder, name="attentive", fingerprint="attentive")


def make_attentive(tiny_base: Path, folder: Path) -> Path:
    """The tiny base with larger weights: as it is, it says its last token again, whatever stood before."""
    shutil.copytree(tiny_base, folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    for module in model.model.layers.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data *= 10
    model.save_pretrained(folder)
    return folder


def random_adapter(base: BaseLM, method: str) -> PeftAdapter:
    """One that changes answers."""
    generator = torch.Generator().manual_seed(3)
    with fresh_adapter(base.model, TrainConfig(method=method, virtual_tokens=3), 0) as attached:
        for parameter in attached.parameters():
            parameter.data.normal_(generator=generator)
        return attached.read()


def by_peft(base: BaseLM, adapter: PeftAdapter, folder: Path) -> Callable[[list[int]], Tensor]:
    """Logits of the tokens alone, in the stock model, as peft gives them with the exported folder."""
    adapter.write_folder(folder, str(base.folder))
    model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32), folder)

    def logits(tokens: list[int]) -> Tensor:
        with torch.no_grad():
            ids = torch.tensor([tokens])
            logits_TV = model(ids, attention_mask=torch.ones_like(ids)).logits[0][-len(tokens) :]
            assert torch.equal(logits_TV, again(ids).logits[0][-len(tokens) :])
        return logits_TV

    return logits


def questions(base: BaseLM) -> list[Question]:
    return [Question(base.encode_prompt(text), "ada") for text in TEXTS]


@methods
def test_logits_are_those_of_the_exported_folder(base: BaseLM, method: str, tmp_path: Path) -> None:
    adapter = random_adapter(base, method)
    logits = by_peft(base, adapter, tmp_path / "adapter")
    tokens = base.encode_prompt(TEXTS[1])
    with adapter.attached(base.model) as attached:
        row = BatchBuilder()
        chain = row.add(BASE, attached.virtual_tokens + tokens)
        row.predict(BASE, chain[len(attached.virtual_tokens) :])
        with torch.no_grad():
            mine = base.logits(row.pack())
    torch.testing.assert_close(mine, logits(tokens), atol=1e-5, rtol=1e-5)
    plain = BatchBuilder()
    plain.predict(BASE, plain.add(BASE, tokens))
    assert not torch.allclose(mine, base.logits(plain.pack()), atol=0.1)


@methods
def test_generation_equals_a_greedy_loop_in_peft(base: BaseLM, method: str, tmp_path: Path) -> None:
    adapter = random_adapter(base, method)
    logits = by_peft(base, adapter, tmp_path / "adapter")
    done: list[int] = []
    ours = answer_with_peft(base, adapter, questions(base), max_new_tokens=9, on_done=done.append)
    assert sum(done) == 4 and len(set("".join(ours))) > 4
    for question, text in zip(questions(base), ours, strict=True):
        tokens: list[int] = []
        while len(tokens) < 9 and not (tokens and tokens[-1] in base.stop_tokens):
            tokens.append(int(logits(question.prompt + tokens)[-1].argmax()))
        assert text == base.decode(tokens)


@methods
def test_choice_equals_scoring_each_label_alone(base: BaseLM, method: str, tmp_path: Path) -> None:
    adapter = random_adapter(base, method)
    logits = by_peft(base, adapter, tmp_path / "adapter")
    chosen = answer_with_peft(base, adapter, questions(base), labels=LABELS, max_new_tokens=9)
    with adapter.attached(base.model) as attached:
        prompts = [Prompt(BASE, attached.virtual_tokens + question.prompt) for question in questions(base)]
        choices = choose(base, None, prompts, [f" {label}" for label in LABELS], tokens_per_pass=200)
    for question, label, choice in zip(questions(base), chosen, choices, strict=True):
        expected = {}
        for name in LABELS:
            tokens = base.encode_answer(f" {name}")
            log_p = logits(question.prompt + tokens)[len(question.prompt) - 1 : -1].log_softmax(-1)
            expected[name] = float(log_p.gather(1, torch.tensor(tokens)[:, None]).sum())
        assert choice.log_probabilities == pytest.approx(expected, rel=1e-4)
        assert label == choice.label == max(expected, key=expected.__getitem__)


@methods
def test_nothing_is_left_for_the_next_person(base: BaseLM, method: str) -> None:
    def without() -> list[str]:
        return answer(base, {}, [Question(q.prompt, None) for q in questions(base)], max_new_tokens=9)

    before, modules = without(), list(base.model.modules())
    adapter = random_adapter(base, method)
    assert answer_with_peft(base, adapter, questions(base), max_new_tokens=9) != before
    assert without() == before

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_with_peft(base, adapter, questions(base), max_new_tokens=9, on_done=stop)
    assert without() == before
    assert list(base.model.modules()) == modules and not hasattr(base.model, "peft_config")


def test_one_after_the_other_equals_each_alone(base: BaseLM) -> None:
    one, other = random_adapter(base, "ia3"), random_adapter(base, "prompt")
    alone = [answer_with_peft(base, adapter, questions(base), max_new_tokens=9) for adapter in (one, other)]
    again = [answer_with_peft(base, adapter, questions(base), max_new_tokens=9) for adapter in (other, one)]
    assert alone == again[::-1] and alone[0] != alone[1]


def damaged(adapter: PeftAdapter) -> dict[str, PeftAdapter]:
    """What an adapter may look like that is none."""
    tensors, data, config = adapter.tensors(), adapter.to_bytes(), adapter.shape()
    first = next(iter(tensors))

    def other(tensor: Tensor) -> bytes:
        return save(tensors | {first: tensor})

    return {
        "cut": replace(adapter, weights=data[:-4]),
        "empty": replace(adapter, weights=b""),
        "pickle": replace(adapter, weights=pickle.dumps({first: [1.0]})),
        "no number": replace(adapter, weights=other(torch.full_like(tensors[first], float("nan")))),
        "infinite": replace(adapter, weights=other(torch.full_like(tensors[first], float("inf")))),
        "another shape": replace(adapter, weights=other(tensors[first][..., :1, :].repeat(2, 1))),
        "lacks one": replace(adapter, weights=save({name: t for name, t in tensors.items() if name != first})),
        "one too many": replace(adapter, weights=save(tensors | {"more": torch.zeros(2)})),
        "LoRA": replace(adapter, config=config | {"peft_type": "LORA"}),
        "unknown": replace(adapter, config=config | {"peft_type": "nonsense"}),
        "no type": replace(adapter, config={name: v for name, v in config.items() if name != "peft_type"}),
        "unknown setting": replace(adapter, config=config | {"nonsense": 1}),
        "no modules": replace(adapter, config=config | {"target_modules": ["nonsense"], "num_virtual_tokens": 0}),
        "no count": replace(adapter, config=config | {"target_modules": 3, "num_virtual_tokens": "x"}),
    }


@methods
def test_what_is_damaged_is_refused_and_leaves_no_trace(base: BaseLM, method: str) -> None:
    modules = list(base.model.modules())
    good = random_adapter(base, method)
    for what, bad in damaged(good).items():
        with pytest.raises(AdapterError):
            print(what, answer_with_peft(base, bad, questions(base), max_new_tokens=2))
        assert list(base.model.modules()) == modules, what
        assert not hasattr(base.model, "peft_config"), what
    with good.attached(base.model):
        pass


@methods
def test_an_adapter_of_another_base_is_refused(base: BaseLM, method: str, tmp_path: Path) -> None:
    wide = load_base(make_random_base(tmp_path / "wide", hidden=128, layers=2), name="wide", fingerprint="wide")
    deep = load_base(make_random_base(tmp_path / "deep", layers=3), name="deep", fingerprint="deep")
    adapter = random_adapter(base, method)
    with pytest.raises(AdapterError), adapter.attached(wide.model):
        pass
    if method == "ia3":  # virtual tokens fit any base as wide as theirs; the fingerprint tells them apart
        with pytest.raises(AdapterError, match="does not fit"), adapter.attached(deep.model):
            pass
