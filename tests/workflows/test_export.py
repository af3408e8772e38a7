"""An exported adapter is what `peft` reads, whatever the base and the method."""

import json
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, get_peft_model_state_dict
from safetensors.torch import load as load_safetensors
from safetensors.torch import load_file, save_file

from ownlm.errors import AdapterError, BaseModelError
from ownlm.history.record import Query
from ownlm.home import Home
from ownlm.inference.load import load_adapter
from ownlm.model.adapter import WEIGHTS
from ownlm.model.bank import LoraBank
from ownlm.model.packed import BatchBuilder
from ownlm.model.peft_names import check_folder, skeleton
from tests.community import rows, small_home, write_rows
from tests.model.small_bases import EXPERTS, QWEN2_MOE, QWEN3_MOE, write_base

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
EVERY = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
LAGUNA = EXPERTS | {"shared_expert_intermediate_size": 16, "mlp_layer_types": ["dense", "sparse"]}
FAST = {"epochs": 1, "learning_rate": 1e-2, "batch_size": 4}
REVISION = "0123456789abcdef0123456789abcdef01234567"


def home_on(base: Path, tmp_path: Path) -> Home:
    return small_home(tmp_path, base, rows("ada", 4))


def read_quietly(folder: Path) -> torch.nn.Module:
    """What `peft` makes of a folder; it must not warn of anything missing, nor of anything left over."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
        return AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def answers_as_at_home(home: Home, folder: Path) -> None:
    """`peft` gives the exported adapter the logits that the home gives it."""
    base, ids = home.load(home.bases()[0]), [5, 9, 200, 33, 7, 7, 80]
    (info,) = home.latest_adapters().values()
    adapter = load_adapter(home.store, info, base)
    bank, row = LoraBank(base.model, adapter.lora, 1), BatchBuilder()
    bank.load(0, adapter)
    row.predict(0, row.add(0, ids))
    with torch.inference_mode(), bank.attached():
        own = base.logits(row.pack(base.device), bank)
        bare = base.logits(row.pack(base.device))
    theirs = read_quietly(folder)(torch.tensor([ids]), use_cache=False).logits[0]
    assert (own - bare).abs().max() > 1e-4 * bare.abs().max()  # else any adapter would do
    assert (own - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize(
    ("kind", "changes", "modules"),
    [
        ("llama", {}, EVERY),
        ("qwen2_moe", QWEN2_MOE, ATTENTION),
        ("qwen3_moe", QWEN3_MOE, ATTENTION),
    ],
)
def test_peft_reads_what_was_trained(
    tmp_path: Path, tiny_base: Path, kind: str, changes: dict[str, object], modules: tuple[str, ...]
) -> None:
    home = home_on(write_base(tmp_path / kind, tiny_base, kind, **changes), tmp_path)
    home.train("sorting", target_modules=modules, **FAST)
    home.export("ada", tmp_path / "adapter")
    answers_as_at_home(home, tmp_path / "adapter")


def test_an_adapter_of_the_top_layers_is_exported_and_answers_beside_one_of_all_layers(
    tmp_path: Path, tiny_base: Path
) -> None:
    home = home_on(tiny_base, tmp_path)
    home.train("sorting", top_layers=1, **FAST)
    (info,) = home.latest_adapters().values()
    weights = load_safetensors(home.store.weights(info))
    assert info.shape["top_layers"] == 1 and all(".layers.1." in name for name in weights)
    home.export("ada", tmp_path / "adapter")
    answers_as_at_home(home, tmp_path / "adapter")
    assert home.train("sorting", top_layers=1, **FAST).skipped
    home.add_history(write_rows(tmp_path / "more.jsonl", rows("bob", 4)), "sorting")
    home.train("sorting", users=["bob"], **FAST)
    queries = [Query(user, "", {"text": "thing one"}) for user in ("ada", "bob")]
    together = list(home.ask_many(queries, "sorting"))
    alone = [next(home.ask_many([query], "sorting")) for query in queries]
    assert [one.answer for one in together] == [one.answer for one in alone]
    assert len({one.adapter for one in together}) == 2 and not any(one.error or one.warning for one in together)
    with pytest.raises(BaseModelError, match=r"fewer layers.* Got: the top 3 layers\. Expected: at most 2"):
        home.train("sorting", users=["bob"], top_layers=3, **FAST)


@pytest.mark.parametrize(
    ("kind", "changes", "modules", "named"),
    [
        ("qwen3_moe", QWEN3_MOE, EVERY, "down_proj, gate_proj, up_proj"),
        ("qwen3_moe", QWEN3_MOE, ("up_proj",), "up_proj"),
        ("laguna", LAGUNA, ("q_proj", "down_proj"), "down_proj"),  # peft finds the modules, and misnames the weights
    ],
)
def test_modules_that_peft_reads_under_other_names_are_refused_before_training(
    tmp_path: Path, tiny_base: Path, kind: str, changes: dict[str, object], modules: tuple[str, ...], named: str
) -> None:
    home = home_on(write_base(tmp_path / "base", tiny_base, kind, **changes), tmp_path)
    for begin in (home.train, partial(home.adapt, "adapted")):
        with pytest.raises(BaseModelError, match=rf"peft cannot read.*: {named}, which peft loads under other names"):
            begin("sorting", target_modules=modules, **FAST)
    assert not home.adapters()


@pytest.mark.parametrize("method", ["ia3", "prompt"])
@pytest.mark.parametrize(("kind", "changes"), [("llama", {}), ("qwen2_moe", QWEN2_MOE)])
def test_other_methods_are_read_too(
    tmp_path: Path, tiny_base: Path, method: str, kind: str, changes: dict[str, object]
) -> None:
    home = home_on(write_base(tmp_path / kind, tiny_base, kind, **changes), tmp_path)
    home.train("sorting", method=method, **FAST)
    home.export("ada", tmp_path / "adapter")
    (info,) = home.latest_adapters().values()
    stored = load_safetensors(home.store.weights(info))
    read = get_peft_model_state_dict(read_quietly(tmp_path / "adapter"), save_embedding_layers=False)
    assert read.keys() == stored.keys() and all(torch.equal(read[name], tensor) for name, tensor in stored.items())
    assert not all(torch.equal(tensor, torch.ones_like(tensor)) for tensor in stored.values())  # (IA)3 begins so


def test_a_base_from_the_hub_is_named_by_its_id_and_revision(tmp_path: Path, tiny_base: Path) -> None:
    cache = tmp_path / "hub" / "models--some-body--tiny.llama" / "snapshots" / REVISION
    home = home_on(write_base(cache, tiny_base, "llama"), tmp_path)
    for method in ("lora", "prompt"):
        home.train("sorting", method=method, epochs=1)
        home.export("ada", folder := tmp_path / method)
        config = json.loads((folder / "adapter_config.json").read_bytes())
        assert config["base_model_name_or_path"] == "some-body/tiny.llama"
        assert config["revision"] == REVISION
        assert not any(str(tmp_path).encode() in file.read_bytes() for file in folder.iterdir())


def test_a_folder_that_peft_would_read_otherwise_is_not_given_out(tmp_path: Path, tiny_base: Path) -> None:
    home = home_on(tiny_base, tmp_path)
    home.train("sorting", **FAST)
    home.export("ada", tmp_path / "adapter")
    weights = tmp_path / "adapter" / WEIGHTS
    whole = load_file(weights)
    first = min(whole)
    for other in (
        {name: tensor for name, tensor in whole.items() if name != first},
        whole | {first.replace("layers.0", "layers.7"): whole[first]},
        whole | {first: whole[first][:, :-1]},
    ):
        save_file({name: tensor.clone() for name, tensor in other.items()}, weights)
        with pytest.raises(AdapterError, match="peft does not read"):
            check_folder(tmp_path / "adapter", skeleton(tiny_base))
    save_file(whole, weights)
    check_folder(tmp_path / "adapter", skeleton(tiny_base))
