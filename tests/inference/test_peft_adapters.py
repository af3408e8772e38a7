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
from ownlm.inference.adapter_cache import AttachedAdapter
from ownlm.inference.decoder import Decoder
from ownlm.inference.engine import BATCH, drive
from ownlm.inference.label_scoring import encode_labels, score_labels
from ownlm.inference.request import Request
from ownlm.inference.scheduler import Scheduler
from ownlm.model.base import BaseLM, load_base
from ownlm.model.bases.random_base import make_random_base
from ownlm.model.packed import BatchBuilder
from ownlm.model.peft_adapter import PeftAdapter, fresh_adapter
from ownlm.model.segments import BASE
from tests.decoding import INFO, answers, new_sequence
from tests.store.rows import adapter as adapter_row

TEXTS = ["Sort this: a", "Sort this: a longer message, about something else", "Other words", "b"]
LABELS = ("yes", "no", "yes please", "perhaps not today")
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


def prompts(base: BaseLM) -> list[list[int]]:
    return [base.encode_prompt(text) for text in TEXTS]


def peft_answers(base: BaseLM, adapter: PeftAdapter, most: int = 9, labels: tuple[str, ...] = ()) -> list[str]:
    """What the engine answers to all prompts with an adapter that peft has attached."""
    info = adapter_row(1, "ada")
    requests = [Request(INFO, info, tuple(prompt), most, labels=labels) for prompt in prompts(base)]
    with adapter.attached(base.model) as attached:
        scheduler = Scheduler(base, AttachedAdapter(info.id, attached.virtual_tokens), BATCH)
        outputs = list(drive(scheduler, iter(requests)))
    assert all(one.adapter == info.id and one.error is None for one in outputs)
    return [one.text for one in outputs]


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
    ours = peft_answers(base, adapter)
    assert len(set("".join(ours))) > 4
    for prompt, text in zip(prompts(base), ours, strict=True):
        tokens: list[int] = []
        while len(tokens) < 9 and not (tokens and tokens[-1] in base.stop_tokens):
            tokens.append(int(logits(prompt + tokens)[-1].argmax()))
        assert text == base.decode(tokens)


@methods
def test_choice_equals_scoring_each_label_alone(base: BaseLM, method: str, tmp_path: Path) -> None:
    adapter = random_adapter(base, method)
    logits = by_peft(base, adapter, tmp_path / "adapter")
    chosen = peft_answers(base, adapter, labels=LABELS)
    with adapter.attached(base.model) as attached:
        sequences = [new_sequence(base, BASE, attached.virtual_tokens + prompt) for prompt in prompts(base)]
        scores = score_labels(base, None, sequences, encode_labels(base, LABELS))
    for prompt, label, found in zip(prompts(base), chosen, scores, strict=True):
        expected = []
        for name in LABELS:
            tokens = base.encode_answer(f" {name}")
            log_p = logits(prompt + tokens)[len(prompt) - 1 : -1].log_softmax(-1)
            expected.append(float(log_p.gather(1, torch.tensor(tokens)[:, None]).sum()))
        assert found == pytest.approx(expected, rel=1e-4)
        assert label == LABELS[max(range(len(LABELS)), key=expected.__getitem__)]


@methods
def test_nothing_is_left_for_the_next_user(base: BaseLM, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def without() -> list[str]:
        return answers(base, {}, [(None, prompt) for prompt in prompts(base)], 9)

    def stop(self: Decoder) -> None:
        raise KeyboardInterrupt

    before, modules = without(), list(base.model.modules())
    adapter = random_adapter(base, method)
    assert peft_answers(base, adapter) != before
    assert without() == before
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Decoder, "step", stop)
        peft_answers(base, adapter)
    assert without() == before
    assert list(base.model.modules()) == modules and not hasattr(base.model, "peft_config")


def test_one_after_the_other_equals_each_alone(base: BaseLM) -> None:
    one, other = random_adapter(base, "ia3"), random_adapter(base, "prompt")
    alone = [peft_answers(base, adapter) for adapter in (one, other)]
    again = [peft_answers(base, adapter) for adapter in (other, one)]
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
            print(what, peft_answers(base, bad, 2))
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
