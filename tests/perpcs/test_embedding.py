"""A person's vector is the mean of means that the stock model gives, whoever else is embedded beside them."""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedConfig

from ownlm.errors import ConfigError, DataError
from ownlm.model.base import BaseLM
from ownlm.model.packed import PackedBatch
from ownlm.perpcs.embedding import embed_histories, embed_with

PEOPLE = [
    ["the rain again", "sun, at last", "a much longer record, about snow and what it does to a road in the morning"],
    ["x"],
    ["tea at four", "tea at five", "tea at four"],
    [f"record {n} of somebody with many" for n in range(30)],
]


def naive(folder: Path, base: BaseLM, histories: list[list[str]], longest: int = 512) -> torch.Tensor:
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    vectors = []
    for texts in histories:
        records = []
        for text in texts:
            ids = torch.tensor([base.encode_prompt(text)[:longest]])
            with torch.no_grad():
                records.append(plain.model(ids).last_hidden_state[0].mean(dim=0))
        vectors.append(torch.stack(records).mean(dim=0))
    return torch.stack(vectors)


def test_it_is_the_mean_over_records_of_the_mean_over_tokens(base: BaseLM, tiny_base: Path) -> None:
    emb_UD = embed_histories(base, PEOPLE)
    assert emb_UD.dtype == torch.float32 and not emb_UD.is_inference()
    torch.testing.assert_close(emb_UD, naive(tiny_base, base, PEOPLE), atol=1e-5, rtol=1e-4)
    assert len(emb_UD.unique(dim=0)) == len(PEOPLE)


@settings(max_examples=20)
@given(st.permutations(range(len(PEOPLE))), st.integers(1, 300), st.randoms())
def test_company_and_order_do_not_matter(base: BaseLM, order: list[int], tokens_per_pass: int, random: Random) -> None:
    alone = torch.cat([embed_histories(base, [texts]) for texts in PEOPLE])
    shuffled = [random.sample(PEOPLE[person], len(PEOPLE[person])) for person in order]
    together = embed_histories(base, iter(shuffled), tokens_per_pass=tokens_per_pass)
    torch.testing.assert_close(together, alone[order], atol=1e-5, rtol=0)


def test_people_are_read_one_by_one_and_share_passes(base: BaseLM, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, read, hidden = list[int](), list[int](), BaseLM.hidden

    def watched(self: BaseLM, batch: PackedBatch) -> torch.Tensor:
        sizes.append(batch.tokens)
        assert len(read) <= 16 * len(sizes) + 1  # the one that did not fit is waiting
        return hidden(self, batch)

    def people() -> Iterator[list[str]]:
        for number in range(100):
            read.append(number)
            yield [f"{number:06}"]  # a token each digit

    monkeypatch.setattr(BaseLM, "hidden", watched)
    assert len(embed_histories(base, people(), tokens_per_pass=100)) == 100
    assert sizes == [96] * 6 + [24]


def test_long_records_are_cut(base: BaseLM, tiny_base: Path) -> None:
    long = [["word " * 100, "short"]]
    cut = embed_histories(base, long, tokens_per_record=9)
    torch.testing.assert_close(cut, naive(tiny_base, base, long, 9), atol=1e-5, rtol=1e-4)
    whole = embed_histories(base, long)
    assert not torch.allclose(cut, whole, atol=1e-3)
    model = SimpleNamespace(config=PreTrainedConfig(max_position_embeddings=9), get_decoder=base.model.get_decoder)
    model.parameters = base.model.parameters
    narrow = replace(base, model=model)
    assert narrow.max_tokens == 9
    assert torch.equal(embed_histories(narrow, long), cut)  # whatever is asked for, never beyond the context


def test_blank_texts_do_not_count(base: BaseLM) -> None:
    assert torch.equal(embed_histories(base, [["tea", " ", "", "sun"]]), embed_histories(base, [["tea", "sun"]]))


@pytest.mark.parametrize("silent", [[], [""], [" \n"]])
def test_people_without_text_are_refused(base: BaseLM, silent: list[str]) -> None:
    with pytest.raises(DataError, match="History number 2 has no text") as caught:
        embed_histories(base, [["a secret"], silent])
    assert "secret" not in str(caught.value)
    with pytest.raises(DataError, match="no histories to embed"):
        embed_histories(base, [])


@pytest.mark.parametrize("version", [None, "5.6.1"])
def test_a_package_missing_or_too_old_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    old = None if version is None else ModuleType("sentence_transformers")
    if old:
        old.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", old)
    with pytest.raises(ConfigError, match="version 6 or newer") as caught:
        embed_with(tmp_path, PEOPLE)
    assert caught.value.command == 'pip install "ownlm[embed]"'


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """The folder of a random BERT with mean pooling."""
    package: Any = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    BertModel(BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    body = Transformer(str(folder / "bert"))
    package.SentenceTransformer(modules=[body, Pooling(32)], device="cpu").save(str(folder / "whole"))
    return folder / "whole"


def test_a_folder_of_sentence_transformers_embeds(encoder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoTokenizer, BertModel

    capfd.readouterr()
    emb_UD = embed_with(encoder, iter(PEOPLE))
    assert capfd.readouterr() == ("", "")
    model, tokenizer = BertModel.from_pretrained(encoder).eval(), AutoTokenizer.from_pretrained(encoder)
    with torch.no_grad():
        naive = [
            torch.stack([model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in texts])
            for texts in PEOPLE
        ]
    expected_UD = torch.stack([records.mean(dim=0) for records in naive])
    torch.testing.assert_close(emb_UD, expected_UD, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(embed_with(encoder, [PEOPLE[2][::-1]]), emb_UD[2:3], atol=1e-5, rtol=0)
    with pytest.raises(DataError, match="number 1"):
        embed_with(encoder, [[" "]])


def test_code_and_pickles_in_a_folder_are_refused(encoder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    coded = shutil.copytree(encoder, tmp_path / "coded")
    (coded / "mine.py").write_text(f"open({str(ran)!r}, 'w')\nclass Mine: pass\n", "utf8")
    modules = json.loads((coded / "modules.json").read_text("utf8"))
    modules[1]["type"] = "mine.Mine"
    (coded / "modules.json").write_text(json.dumps(modules), "utf8")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        embed_with(coded, PEOPLE)
    assert not ran.exists()

    for number, module in enumerate((".", "1_Pooling")):  # transformers reads the one, the package the other
        old = shutil.copytree(encoder, tmp_path / f"old {number}")
        torch.save({}, old / module / "pytorch_model.bin")
        (old / module / "model.safetensors").unlink(missing_ok=True)
        with pytest.raises(ConfigError, match="weights in a pickle"):
            embed_with(old, PEOPLE)
    with pytest.raises(ConfigError, match="not a folder"):
        embed_with(tmp_path / "nowhere", PEOPLE)
