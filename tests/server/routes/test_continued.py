"""Continued texts come byte for byte, streamed or not, by either engine; answers of tasks have no outer space."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ownlm.inference import decoder
from ownlm.inference.protocol import ServingEngine
from ownlm.model.base import load_base
from ownlm.server.app import create_app
from ownlm.server.limits import Limits
from ownlm.server.vllm.engine import VllmEngine
from ownlm.store.tokens import give_token
from tests.server.answering import Office
from tests.server.vllm.fake_vllm import fake_vllm

SAID = "\n  漢字 Paris, it is. \n\n Really 👩🏽‍🚀 \n "


@pytest.fixture(params=["own", "vllm"])
def asked(
    request: pytest.FixtureRequest, office: Office, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:  # fmt: skip
    """Asks a server whose model says SAID, whatever it is asked."""
    with _engine(request.param, office, monkeypatch) as engine:
        who = {"Authorization": f"Bearer {give_token(office.home.store, None)[1]}"}
        with TestClient(create_app(office.home, engine, Limits(grace_s=0))) as client:

            def ask(path: str, **content: Any) -> Any:
                _script(office, monkeypatch)
                response = client.post(path, headers=who, json={"model": office.task, "max_tokens": 200} | content)
                assert response.status_code == 200, response.text
                return response

            yield ask


@contextmanager
def _engine(kind: str, office: Office, patch: pytest.MonkeyPatch) -> Iterator[ServingEngine]:
    if kind == "own":
        yield office.engine()
    else:
        with fake_vllm(office, patch) as server:
            yield VllmEngine(office.home.store, server)  # type: ignore[arg-type]


def _script(office: Office, patch: pytest.MonkeyPatch) -> None:
    """Has the model say SAID, token by token."""
    tokens = iter(office.base.encode_answer(SAID))
    patch.setattr(decoder, "next_tokens", lambda logits, _: [next(tokens) for _ in logits])


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (None, SAID), ("\n", ""), (" ", "\n"), ("\n  漢", ""), (["Really", " it"], "\n  漢字 Paris,"),
        ("字 P", "\n  漢"), (["never", "👩🏽‍🚀 \n "], "\n  漢字 Paris, it is. \n\n Really "),
    ],
)  # fmt: skip
def test_a_text_is_continued_byte_for_byte(asked: Any, stop: str | None, expected: str) -> None:
    how = {"prompt": "The capital of France is"} | ({"stop": stop} if stop else {})
    whole = asked("/v1/completions", **how).json()["choices"][0]
    assert (whole["text"], whole["finish_reason"]) == (expected, "stop")
    lines = asked("/v1/completions", **how, stream=True).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert "".join(one["choices"][0]["text"] for one in events) == expected


def test_a_continuation_that_is_cut_off_keeps_its_white_space(asked: Any) -> None:
    for most in range(1, 6):
        one = asked("/v1/completions", prompt="x", max_tokens=most).json()["choices"][0]
        assert one["text"].rstrip("\ufffd") == SAID.encode()[:most].decode(errors="ignore")
        assert one["finish_reason"] == "length"


def test_an_answer_of_a_task_has_no_outer_space(asked: Any) -> None:
    how = {"messages": [{"role": "user", "content": "Where?"}], "stop": [" \n\n"]}
    told = asked("/v1/chat/completions", **how).json()
    assert told["choices"][0]["message"]["content"] == "漢字 Paris, it is."
    lines = asked("/v1/chat/completions", **how, stream=True).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in events) == "漢字 Paris, it is."


def test_spaces_before_punctuation_stay(tmp_path: Any, tiny_base: Any) -> None:
    import shutil

    folder = shutil.copytree(tiny_base, tmp_path / "base")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    told = {
        "clean_up_tokenization_spaces": True,
        "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | told))
    base = load_base(folder, name="tiny", fingerprint="tiny")
    assert base.decode(base.encode_answer("so , it does n't ?")) == "so , it does n't ?"
