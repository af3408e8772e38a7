"""Base folders: what is refused, and what a fingerprint does and does not notice."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ownlm.errors import BaseModelError
from ownlm.model.bases.files import check_base_folder, fingerprint, parameter_count
from ownlm.model.bases.random_base import make_random_base


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    """A copy of the tiny base, to be changed."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def edit(file: Path, change: Callable[[dict], object]) -> None:
    """Changes a JSON file in place."""
    content = json.loads(file.read_text("utf8"))
    change(content)
    file.write_text(json.dumps(content), "utf8")


def shard(folder: Path) -> dict[str, str]:
    """Cuts a folder's weights into two files with an index; returns its map."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    weight_map = {name: f"model-0000{1 + at % 2}-of-00002.safetensors" for at, name in enumerate(names)}
    for file in set(weight_map.values()):
        part = {name: tensors[name] for name in reversed(names) if weight_map[name] == file}
        save_file(part, folder / file, metadata={"format": "pt", "note": file})
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return weight_map


def test_whole_folders_pass(tiny_base: Path, smollm2: Path) -> None:
    for folder in (tiny_base, smollm2):
        check_base_folder(folder)
    assert parameter_count(smollm2) == 134_515_008


def test_parameters_are_those_torch_counts(tiny_base: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    assert parameter_count(tiny_base) == sum(parameter.numel() for parameter in model.parameters())


def test_a_tied_head_counts_once(base: Path) -> None:
    before = parameter_count(base)
    tensors = load_file(base / "model.safetensors")
    head = tensors["model.embed_tokens.weight"]
    save_file({**tensors, "lm_head.weight": head.clone()}, base / "model.safetensors")
    assert parameter_count(base) == before
    save_file(
        {**{name: t for name, t in tensors.items() if "embed" not in name}, "lm_head.weight": head},
        base / "model.safetensors",
    )
    assert parameter_count(base) == before
    edit(base / "config.json", lambda config: config.update(tie_word_embeddings=False))
    save_file({**tensors, "lm_head.weight": head.clone()}, base / "model.safetensors")
    assert parameter_count(base) == before + head.numel()


def test_the_fingerprint_is_of_the_content(base: Path, tiny_base: Path) -> None:
    shard(base)
    edit(base / "config.json", lambda c: c.update(_name_or_path="elsewhere", transformers_version="9", dtype="float16"))
    edit(base / "tokenizer_config.json", lambda c: c.update(is_local=True))
    (base / "README.md").write_text("a note")
    check_base_folder(base)
    assert fingerprint(base) == fingerprint(tiny_base)
    assert parameter_count(base) == parameter_count(tiny_base)


def test_saving_again_keeps_the_weights_part(base: Path, tiny_base: Path) -> None:
    """What transformers writes differs in settings at most: with ours put back, the fingerprint is the same."""
    from transformers import AutoModelForCausalLM

    again = base.parent / "again"
    AutoModelForCausalLM.from_pretrained(tiny_base).save_pretrained(again, max_shard_size="40KB")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_base / name, again / name)
    assert len(list(again.glob("*.safetensors"))) > 1
    assert fingerprint(again) == fingerprint(tiny_base)


def flip_weight(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def rename_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.final_norm.weight"] = tensors.pop("model.norm.weight")
    save_file(tensors, folder / "model.safetensors")


def reshape_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].reshape(8, 8)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        flip_weight,
        rename_tensor,
        reshape_tensor,
        lambda base: edit(base / "tokenizer.json", lambda t: t["added_tokens"][0].update(lstrip=True)),
        lambda base: edit(base / "tokenizer_config.json", lambda c: c.update(chat_template="{{ messages }}")),
        lambda base: (base / "chat_template.jinja").write_text("{{ messages }}"),
        lambda base: edit(base / "config.json", lambda c: c.update(rms_norm_eps=1e-5)),
    ],
)
def test_any_change_of_the_content_changes_the_fingerprint(change: Callable[[Path], object], base: Path) -> None:
    before = fingerprint(base)
    change(base)
    assert fingerprint(base) != before


def test_precision_changes_the_fingerprint(tiny_base: Path, tmp_path: Path) -> None:
    rounded = make_random_base(tmp_path / "bf16", dtype="bfloat16")
    assert fingerprint(rounded) != fingerprint(tiny_base)
    assert parameter_count(rounded) == parameter_count(tiny_base)


def test_pickled_weights_are_refused(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    with pytest.raises(BaseModelError, match=r"pickles.*safetensors only.*convert"):
        check_base_folder(base)


def huge_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")


def foreign_shard(folder: Path) -> None:
    weight_map = shard(folder)
    weight_map["x"] = "../x.safetensors"
    edit(folder / "model.safetensors.index.json", lambda i: i.update(weight_map=weight_map))


def lost_shard(folder: Path) -> None:
    (folder / min(shard(folder).values())).unlink()


def lost_tensor(folder: Path) -> None:
    weight_map = shard(folder)
    file = min(weight_map.values())
    edit(folder / "model.safetensors.index.json", lambda i: i.update(weight_map={**weight_map, "more": file}))


def doubled_tensor(folder: Path) -> None:
    first, second = sorted(set(shard(folder).values()))
    save_file({**load_file(folder / first), **load_file(folder / second)}, folder / second)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda base: (base / "config.json").unlink(), "no config.json"),
        (lambda base: (base / "config.json").write_text('{"model_type"'), "cannot be read"),
        (lambda base: (base / "config.json").write_text("[]"), "cannot be used"),
        (
            lambda base: edit(base / "config.json", lambda c: c.update(architectures=["BertForMaskedLM"])),
            "no causal language model",
        ),
        (lambda base: edit(base / "config.json", lambda c: c.pop("model_type")), "no causal language model"),
        (lambda base: (base / "model.safetensors").unlink(), "no weights"),
        (lambda base: (base / "model.safetensors").write_bytes(b""), "damaged or cut"),
        (huge_header, "damaged or cut"),
        (lambda base: save_file({}, base / "model.safetensors"), "empty"),
        (lost_shard, "not there"),
        (foreign_shard, "not there"),
        (lost_tensor, "lacks a tensor"),
        (doubled_tensor, "two files"),
        (lambda base: (base / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda base: (base / "tokenizer.json").write_text("{"), "cannot be read"),
    ],
)
def test_what_is_not_whole_is_refused(spoil: Callable[[Path], object], message: str, base: Path) -> None:
    spoil(base)
    with pytest.raises(BaseModelError, match=message):
        check_base_folder(base)


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("end", ["x", [2, "x"], True, 2.0, {"a": 2}, [[2]]])
def test_ends_of_texts_that_are_no_token_ids_are_refused(file: str, end: object, base: Path) -> None:
    if not (base / file).exists():
        (base / file).write_text("{}", "utf8")
    edit(base / file, lambda content: content.update(eos_token_id=[2, 3]))
    check_base_folder(base)
    edit(base / file, lambda content: content.update(eos_token_id=end))
    with pytest.raises(BaseModelError, match=rf"The eos_token_id in .*{file} is no token id"):
        check_base_folder(base)


def test_no_folder_is_refused(tmp_path: Path) -> None:
    for read in (check_base_folder, fingerprint, parameter_count):
        with pytest.raises(BaseModelError, match="no folder"):
            read(tmp_path / "nowhere")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.floats(0, 1, exclude_max=True))
def test_weights_cut_anywhere_are_refused(kept: float, base: Path) -> None:
    weights = base / "model.safetensors"
    whole = base / "whole"
    if not whole.exists():
        shutil.copy(weights, whole)
    data = whole.read_bytes()
    weights.write_bytes(data[: int(kept * len(data))])
    for read in (check_base_folder, fingerprint, parameter_count):
        with pytest.raises(BaseModelError, match="damaged or cut"):
            read(base)
