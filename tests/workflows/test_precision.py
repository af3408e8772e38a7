"""Homes that load a base in bfloat16: everything works, is near float32, and is stored as in float32."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ownlm.config import LoraConfig
from ownlm.home import Home
from ownlm.model.adapter import Adapter, LoraPair
from ownlm.model.base import load_base, save_merged
from ownlm.model.bases.files import fingerprint, stored_type
from ownlm.model.bases.placement import Dtype
from ownlm.model.bases.random_base import make_random_base
from ownlm.model.targets import target_modules
from ownlm.store.store import Store
from tests.community import rows, small_home
from tests.sharing import SHARE, TASK
from tests.shell import QuickShell

TRAIN = {"epochs": 2, "batch_size": 2, "learning_rate": 1e-2}


def in_half(home: Home) -> Home:
    return Home(home.store.folder, dtype="bfloat16")


def test_an_adapter_of_another_type_is_up_to_date(tmp_path: Path, tiny_base: Path) -> None:
    home = small_home(tmp_path, tiny_base, rows("ada", 6), rows("bela", 6))
    half = in_half(home)
    assert len(half.train("sorting", users=["ada"], **TRAIN).trained) == 1
    report = home.train("sorting", **TRAIN)
    assert [one.user for one in report.trained] == ["bela"] and len(report.skipped) == 1
    assert not half.train("sorting", **TRAIN).trained
    made = {user: one.provenance for (_, user), one in home.latest_adapters().items()}
    assert (made["ada"]["device"], made["ada"]["dtype"], made["bela"]["dtype"]) == ("cpu", "bfloat16", "float32")
    assert not half.train("sorting", **TRAIN | {"epochs": 3}).failed


def test_users_show_names_type_and_device_where_they_are_known(
    shell: QuickShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.run("train", "people.jsonl", "--task", "sorting.toml", "--epochs", "1", "--dtype", "float32")
    assert "made in float32 on cpu" in shell.run("users", "show", "ada")
    (version,) = shell.json("users", "show", "ada")["adapters"]
    assert (version["provenance"]["dtype"], version["provenance"]["device"]) == ("float32", "cpu")
    known = Store.adapters

    def without(store: Store, *which: object) -> list[object]:
        """As earlier versions stored them."""
        found = known(store, *which)
        for one in found:
            del one.provenance["dtype"], one.provenance["device"]
        return found

    monkeypatch.setattr(Store, "adapters", without)
    assert "made in" not in shell.run("users", "show", "ada")


def test_answers_and_held_back_results(tmp_path: Path, tiny_base: Path) -> None:
    half = in_half(small_home(tmp_path, tiny_base, rows("ada", 20)))
    report = half.train("sorting", held_back=True, **TRAIN)
    assert report.trained and half.latest_adapters()["sorting", "ada"].provenance["held_back"]
    assert half.ask("ada", "thing", "sorting", choose=True).answer in ("home", "work", "bin")
    assert half.ask("ada", "thing", "sorting").error is None


def test_sharing_and_assembling(agreed: Home) -> None:
    half = in_half(agreed)
    shared = half.pools.share(TASK, select="clustered", sharers=3, **SHARE)
    assert len(shared.sharers) >= 2 and not shared.failed
    report = half.assemble(TASK, top_k=2)
    assert report.assembled and not report.failed
    for (_, user), made in half.latest_adapters().items():
        assert made.provenance["dtype"] == "bfloat16"
        assert half.ask(user, "thing", TASK, choose=True).error is None
    assert half.assemble(TASK, top_k=2, adapt_steps=2, users=[report.assembled[0].user]).assembled


def merged(folder: Path, source: Path, dtype: Dtype, modules: tuple[str, ...]) -> Path:
    """The base in `source`, loaded in a type, with the same adapter merged."""
    base, lora = load_base(source, name="tiny", fingerprint="tiny", dtype=dtype), LoraConfig(target_modules=modules)
    generator = torch.Generator().manual_seed(0)
    pairs = {
        name: LoraPair(
            torch.randn(8, module.in_features, generator=generator) * 0.1,
            torch.randn(module.out_features, 8, generator=generator) * 0.1,
        )
        for name, module in target_modules(base.model, lora)
    }
    save_merged(base, Adapter(lora, pairs), folder)
    return folder


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("modules", [("q_proj", "down_proj"), ("v_proj", "lm_head")], ids=["", "head"])
def test_a_merged_base_does_not_depend_on_the_type_it_was_loaded_in(
    tmp_path: Path, stored: str, modules: tuple[str, ...]
) -> None:
    source = make_random_base(tmp_path / "base", dtype=stored)  # type: ignore[arg-type]
    one, other = (merged(tmp_path / dtype, source, dtype, modules) for dtype in ("float32", "bfloat16"))
    assert fingerprint(one) == fingerprint(other) and stored_type(one) == stored_type(source) == stored
    before, after = (load_file(folder / "model.safetensors") for folder in (source, one))
    for name, tensor in after.items():
        if name in before:
            changed = any(f"{module}.weight" in name for module in modules)
            assert torch.equal(tensor, before[name]) != changed


def test_an_adapted_base_keeps_the_precision_of_its_parent(tmp_path: Path, tiny_base: Path) -> None:
    half = in_half(small_home(tmp_path, tiny_base, rows("ada", 6), rows("bela", 6)))
    info = half.adapt("adapted", "sorting", **TRAIN)
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (tiny_base, info.folder))
    same = [name for name in before if torch.equal(before[name], after[name])]
    assert "model.embed_tokens.weight" in same and len(same) < len(before)
    assert stored_type(Path(info.folder)) == "float32" and info.provenance and info.provenance["dtype"] == "bfloat16"
    assert half.train("sorting", **TRAIN, users=["ada"]).trained
