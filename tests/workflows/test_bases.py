"""Bases from a hub: what config.json alone refuses is refused before any weight is downloaded."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from ownlm.errors import BaseModelError
from ownlm.home import Home
from ownlm.model.bases.files import fingerprint
from tests.hub import running_hub

MAMBA = {"architectures": ["MambaForCausalLM"], "hidden_size": 32, "state_size": 4, "num_hidden_layers": 2}
GPT_J = {"architectures": ["GPTJForCausalLM"], "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 8}
BERT = {"architectures": ["BertLMHeadModel"], "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "quantised": ({"quantization_config": {"quant_method": "awq"}}, "is quantised: use the full-precision base"),
    "its own code": ({"model_type": "baichuan", "auto_map": {"AutoModelForCausalLM": "a.B"}}, "code of its own"),
    "unknown": ({"model_type": "llama9"}, "a type that transformers does not know"),
    "no text": ({"architectures": ["LlamaForSequenceClassification"]}, "no causal language model"),
    "encoder-decoder": ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "an encoder-decoder"),
    "impossible": ({"hidden_size": 30}, "cannot be made of its configuration"),
    "state-space": ({"model_type": "mamba"} | MAMBA, "a state along the row: Mamba"),
    "its own attention": ({"model_type": "gptj"} | GPT_J, "attention that transformers does not let others compute"),
    "encoder": ({"model_type": "bert", "num_attention_heads": 4} | BERT, "attention to later tokens"),
}


@pytest.fixture
def hub(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The hub that is asked in this test: the names of the files that it sends."""
    files = {path.name: path.read_bytes() for path in tiny_base.iterdir()}
    models = {"some/model": files}
    for name, (changes, _) in REFUSED.items():
        config = json.loads(files["config.json"]) | changes
        models[f"some/{name.replace(' ', '-')}"] = files | {"config.json": json.dumps(config).encode()}
    sent: list[str] = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_hub(models, sent) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield sent


def test_a_base_comes_from_a_hub(hub: list[str], tiny_base: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    added = home.add_base("some/model")
    assert added.fingerprint == fingerprint(tiny_base) and added.source == "some/model"
    assert sorted(hub) == sorted(path.name for path in tiny_base.iterdir())  # config.json once
    assert home.load(added).encode_answer("x")
    assert home.add_base("some/model") == added


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_configuration_shows_is_refused_before_the_download(name: str, hub: list[str], tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with pytest.raises(BaseModelError, match=REFUSED[name][1]) as caught:
        home.add_base(f"some/{name.replace(' ', '-')}")
    assert hub == ["config.json"] and home.bases() == []
    assert caught.value.hint and "\n" not in str(caught.value) and "Error" not in str(caught.value)
