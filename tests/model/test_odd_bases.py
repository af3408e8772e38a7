"""Bases that lack something, have something twice, or hold more than text."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import import_utils

from ownlm.config import LoraConfig
from ownlm.errors import BaseModelError
from ownlm.home import Home
from ownlm.model.adapter import Adapter, LoraPair
from ownlm.model.base import BaseLM, load_base, load_without_weights, save_merged
from ownlm.model.bases.files import parameter_count
from ownlm.model.packed import BatchBuilder
from ownlm.model.targets import target_modules
from ownlm.oppu.memory import bytes_per_token
from tests.community import rows, write_rows, write_task
from tests.model.bases_table import LLAMA_4, SHORT, VISION, VISION_4
from tests.model.small_bases import SMALL, write_base

IDS = [5, 9, 200, 33, 7, 7, 80, 100, 3, 60]
PICTURES = {
    "gemma3": (
        "Gemma3ForConditionalGeneration",
        {"text_config": {"sliding_window": SHORT}, "vision_config": VISION, "mm_tokens_per_image": 4},
    ),
    "llama4": ("Llama4ForConditionalGeneration", {"text_config": LLAMA_4, "vision_config": VISION_4}),
}


def edit(file: Path, **changes: Any) -> None:
    """Changes a JSON file in place; None takes a key away."""
    content = {**json.loads(file.read_text("utf8")), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), "utf8")


def copied(base: Path, folder: Path) -> Path:
    return Path(shutil.copytree(base, folder))


def logits(base: BaseLM, ids: list[int]) -> torch.Tensor:
    row = BatchBuilder()
    row.predict(0, row.add(0, ids))
    return base.logits(row.pack(base.device))


# Tokenizers


def test_without_an_end_of_text_the_models_own_is_taken(tiny_base: Path, tmp_path: Path) -> None:
    folder = copied(tiny_base, tmp_path / "base")
    edit(folder / "tokenizer_config.json", eos_token=None)
    for load in (load_base, load_without_weights):
        assert load(folder, name="base", fingerprint="f").encode_answer("x")[-1] == 2
    edit(folder / "generation_config.json", eos_token_id=[1, 2])
    base = load_base(folder, name="base", fingerprint="f")
    assert base.end_of_text == 1 and base.stop_tokens == {1, 2}
    base.tokenizer.save_pretrained(tmp_path / "saved")  # as beside an adapted base
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").eos_token_id == 1


@pytest.mark.parametrize("end", [None, 10**6])
def test_without_any_end_of_text_a_base_is_refused_when_it_is_added(tiny_base: Path, tmp_path: Path, end: Any) -> None:
    folder = copied(tiny_base, tmp_path / "base")
    edit(folder / "tokenizer_config.json", eos_token=None)
    edit(folder / "config.json", eos_token_id=end)
    (folder / "generation_config.json").unlink()
    home = Home(tmp_path / "home")
    with pytest.raises(BaseModelError, match="no end-of-text token"):
        home.add_base(str(folder))
    assert home.bases() == []


@pytest.mark.parametrize("roles", [{"bos_token": None}, {"bos_token": None, "pad_token": None}, {"pad_token": None}])
def test_tokenizers_without_a_beginning_or_a_pad_are_accepted(
    tiny_base: Path, tmp_path: Path, roles: dict[str, None]
) -> None:
    folder = copied(tiny_base, tmp_path / "base")
    edit(folder / "tokenizer_config.json", **roles)
    home = Home(tmp_path / "home")
    home.add_base(str(folder), "odd")
    report = home.train(
        str(write_task(tmp_path)), data=write_rows(tmp_path / "p.jsonl", rows("ada", 3)), epochs=1, batch_size=4
    )
    assert [one.user for one in report.trained] == ["ada"]


def larger_tokenizer(base: Path, folder: Path, token: AddedToken) -> Path:
    """A base whose tokenizer has a token more than the model has embeddings."""
    copied(base, folder)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([token])
    tokenizer.save_pretrained(folder)
    return folder


def test_a_control_token_without_an_embedding_does_no_harm(tiny_base: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    for number, special in enumerate((True, False)):
        token = AddedToken("<image_soft_token>", special=special)
        folder = larger_tokenizer(tiny_base, tmp_path / f"base{number}", token)
        base = home.load(home.add_base(str(folder), f"base{number}"))
        embedded = base.model.get_input_embeddings().num_embeddings
        assert len(base.tokenizer) == embedded + 1
        assert max(base.encode_prompt("an <image_soft_token> here")) < embedded


def test_a_token_of_text_without_an_embedding_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    folder = larger_tokenizer(tiny_base, tmp_path / "base", AddedToken("\n\n", special=False))
    with pytest.raises(BaseModelError, match="a tokenizer of 260 tokens for text and embeddings for 259"):
        Home(tmp_path / "home").add_base(str(folder))


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (
            lambda folder: ((folder / "tokenizer.json").unlink(), (folder / "tokenizer.model").write_bytes(b"x")),
            "The tokenizer is in SentencePiece's own format alone",
        ),
        (
            lambda folder: (
                (folder / "tokenizer.json").rename(folder / "vocab.json"),
                (folder / "merges.txt").write_text(""),
                edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["a.B", None]}),
            ),
            "The tokenizer needs code of its own, which is not run here",
        ),
    ],
)
def test_tokenizers_that_need_what_is_not_here(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], object], what: str
) -> None:
    monkeypatch.setattr("ownlm.model.bases.architecture.distributions", lambda name: [])
    spoil(folder := copied(tiny_base, tmp_path / "base"))
    with pytest.raises(BaseModelError) as caught:
        Home(tmp_path / "home").add_base(str(folder))
    assert caught.value.what == what and "\n" not in str(caught.value)


# Configurations and weights


@pytest.mark.parametrize("missing", ["max_position_embeddings", "architectures", "pad_token_id", "torch_dtype"])
def test_what_a_configuration_need_not_say(tiny_base: Path, tmp_path: Path, missing: str) -> None:
    folder = copied(tiny_base, tmp_path / "base")
    edit(folder / "config.json", **{missing: None})
    home = Home(tmp_path / "home")
    base = home.load(home.add_base(str(folder)))
    assert torch.equal(logits(base, IDS), logits(load_base(tiny_base, name="tiny", fingerprint="t"), IDS))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 30},
        {"hidden_size": "many"},
        {"num_attention_heads": 0},
        {"rope_parameters": {"rope_type": "none such"}},
        {"hidden_act": "none such"},
        {"vocab_size": -1},
        {"num_hidden_layers": 1_000_000},
    ],
)
def test_an_impossible_configuration_is_refused_in_one_line(
    tiny_base: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    folder = copied(tiny_base, tmp_path / "base")
    edit(folder / "config.json", **changes)
    refused = r"The model (cannot be made of its configuration|has too many layers)"
    with pytest.raises(BaseModelError, match=refused) as caught:
        Home(tmp_path / "home").add_base(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("model.layers.0.self_attn.q_proj.weight", torch.uint8),
        ("model.layers.0.self_attn.q_proj.weight", torch.float8_e4m3fn),
        ("model.layers.0.self_attn.q_proj.qweight", torch.int32),
        ("model.layers.0.mlp.experts.gate_up_proj_blocks", torch.uint8),
    ],
)
def test_quantised_weights_are_recognised_whatever_the_configuration_says(
    tiny_base: Path, tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    folder = copied(tiny_base, tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {name: torch.ones(8, 8).to(dtype)}, folder / "model.safetensors")
    with pytest.raises(BaseModelError, match="is quantised: use the full-precision base"):
        Home(tmp_path / "home").add_base(str(folder))


def test_masks_kept_beside_the_weights_are_no_quantisation(tiny_base: Path, tmp_path: Path) -> None:
    folder = write_base(tmp_path / "base", tiny_base, "gpt_neox")  # old ones have them
    before = logits(load_base(folder, name="base", fingerprint="b"), IDS)
    tensors = load_file(folder / "model.safetensors")
    mask = {"gpt_neox.layers.0.attention.bias": torch.ones(4, 4, dtype=torch.uint8)}
    save_file(tensors | mask, folder / "model.safetensors", metadata={"format": "pt"})
    home = Home(tmp_path / "home")
    assert torch.equal(logits(home.load(home.add_base(str(folder))), IDS), before)


def test_a_tower_that_is_another_packages_is_named(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(tiny_base, tmp_path / "base")
    edit(folder / "config.json", model_type="gemma3n", architectures=["Gemma3nForConditionalGeneration"])
    monkeypatch.setitem(import_utils.BACKENDS_MAPPING, "timm", (lambda: False, "{0} needs timm"))
    with pytest.raises(BaseModelError, match="needs a package that is not installed") as caught:
        Home(tmp_path / "home").add_base(str(folder))
    assert "timm" in str(caught.value.got) and caught.value.hint and "install" in caught.value.hint


# Pictures and text


@pytest.fixture(scope="module", params=PICTURES)
def pictures(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    architecture, changes = PICTURES[request.param]
    folder = tmp_path_factory.mktemp("pictures") / request.param
    return write_base(folder, tiny_base, request.param, architecture, **changes)


def test_what_is_counted_is_the_text_decoder(pictures: Path) -> None:
    base = load_base(pictures, name="b", fingerprint="f")
    decoder = base.model.get_decoder()
    own = {id(one): one.numel() for one in (*decoder.parameters(), *base.model.get_output_embeddings().parameters())}
    assert parameter_count(pictures) == sum(own.values())
    assert base.max_tokens == SMALL["max_position_embeddings"] and base.end_of_text == 2
    assert bytes_per_token(base.model) > 0
    names = [name for name, _ in target_modules(base.model, LoraConfig(target_modules=("q_proj", "v_proj")))]
    assert len(names) == 4 and not any("vision" in name for name in names)


def test_an_adapted_base_is_whole_and_can_be_added(pictures: Path, tmp_path: Path) -> None:
    base, generator = load_base(pictures, name="b", fingerprint="f"), torch.Generator().manual_seed(0)
    lora = LoraConfig(r=2, target_modules=("q_proj", "o_proj"))
    pairs = {
        name: LoraPair(
            torch.randn(2, module.in_features, generator=generator) / 4,
            torch.randn(module.out_features, 2, generator=generator) / 4,
        )
        for name, module in target_modules(base.model, lora)
    }
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    save_merged(base, Adapter(lora, pairs), tmp_path / "merged")
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())
    home = Home(tmp_path / "home")
    merged = home.load(home.add_base(str(tmp_path / "merged")))
    for name, tensor in merged.model.state_dict().items():
        pair = pairs.get(name.removesuffix(".weight"))
        update = 0 if pair is None else lora.scaling * pair.B_OR @ pair.A_RD
        torch.testing.assert_close(tensor, before[name] + update)


def test_an_export_of_a_model_of_pictures_is_for_its_text(tiny_base: Path, tmp_path: Path) -> None:
    architecture, changes = PICTURES["gemma3"]
    folder = write_base(tmp_path / "base", tiny_base, "gemma3", architecture, **changes)
    home = Home(tmp_path / "home")
    base = home.load(home.add_base(str(folder)))
    data = write_rows(tmp_path / "p.jsonl", rows("ada", 4))
    home.train(str(write_task(tmp_path)), data=data, epochs=1, batch_size=4, learning_rate=1e-2)
    home.export("ada", tmp_path / "adapter")
    targets = json.loads((tmp_path / "adapter" / "adapter_config.json").read_bytes())["target_modules"]
    assert sorted(targets) == [
        f"model.language_model.layers.{layer}.self_attn.{name}" for layer in (0, 1) for name in ("q_proj", "v_proj")
    ]
    from peft import PeftModel

    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    alone = plain(torch.tensor([IDS])).logits[0].detach()
    with torch.inference_mode():
        torch.testing.assert_close(logits(base, IDS), alone, atol=1e-5, rtol=1e-4)
    adapted = PeftModel.from_pretrained(plain, tmp_path / "adapter")(torch.tensor([IDS])).logits[0]
    assert not torch.allclose(adapted, alone, atol=1e-4)
