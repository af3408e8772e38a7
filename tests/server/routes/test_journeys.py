"""From nothing to nothing, by what people have: the `openai` client, and curl. The page's journey is in page/."""

import io
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from openai import APIStatusError, OpenAI

from ownlm.home import Home
from ownlm.store.tokens import give_token
from tests.server.process import Process, serve, until
from tests.sharing import TASK

NINA = [{"id": f"n{n}", "text": f"nina wrote {n}", "folder": "bin"} for n in range(6)]
Call = Callable[[str, str, Any], tuple[int, bytes]]  # method, path below /v1, document -> status, body


def by_openai(server: Process, token: str) -> Call:
    """The `openai` client: its own calls where it has some, and its connection for the rest."""
    client = OpenAI(base_url=f"{server.url}/v1", api_key=token, max_retries=0)

    def call(method: str, path: str, content: Any) -> tuple[int, bytes]:
        if path == "/models":
            return 200, json.dumps([one.id for one in client.models.list()]).encode()
        if path == "/chat/completions" and content.get("stream"):
            pieces = client.chat.completions.create(**content)
            return 200, "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices).encode()
        if path == "/chat/completions":
            return 200, str(client.chat.completions.create(**content).choices[0].message.content).encode()
        if path == "/completions":
            return 200, client.completions.create(**content).choices[0].text.encode()
        kwargs = {} if content is None else {"body": content}
        try:
            return 200, getattr(client, method.lower())(path, cast_to=httpx2.Response, **kwargs).content
        except APIStatusError as error:
            return error.status_code, error.response.content

    return call


def by_curl(server: Process, token: str) -> Call:
    """curl, which says what came: the texts of answers are taken out of it here."""
    if shutil.which("curl") is None:
        pytest.skip("NOT TESTED: the journey by curl. It is not installed")

    def call(method: str, path: str, content: Any) -> tuple[int, bytes]:
        command = ["curl", "-sS", "-X", method, "-H", f"Authorization: Bearer {token}", "-w", "\n%{http_code}"]
        if content is not None:
            command += ["-H", "Content-Type: application/json", "-d", json.dumps(content)]
        done = subprocess.run([*command, f"{server.url}/v1{path}"], capture_output=True, check=True)
        body, _, status = done.stdout.rpartition(b"\n")
        if path == "/models":
            body = json.dumps([one["id"] for one in json.loads(body)["data"]]).encode()
        elif path.endswith("/completions"):
            body = said(body.decode(), path).encode()
        return int(status), body

    return call


def said(body: str, path: str) -> str:
    """The text of an answer, streamed or not."""
    if not body.startswith("data:"):
        first = json.loads(body)["choices"][0]
        return str(first["message"]["content"] if path.startswith("/chat") else first["text"])
    lines = [line.removeprefix("data: ") for line in body.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return "".join(one["delta"].get("content") or "" for line in lines for one in json.loads(line)["choices"])


@pytest.fixture
def server(shared: Home) -> Iterator[Process]:
    """A server of a home in which four people share."""
    with serve(shared.store.folder) as process:
        yield process


@pytest.mark.parametrize("by", [by_openai, by_curl])
def test_add_assemble_train_ask_export_and_forget(
    server: Process, shared: Home, tmp_path: Path, by: Callable[[Process, str], Call]
) -> None:
    call = by(server, give_token(shared.store, "nina")[1])

    def told(method: str, path: str, content: Any = None) -> Any:
        status, body = call(method, path, content)
        assert status < 300, body
        return json.loads(body)

    assert TASK in told("GET", "/models")
    assert told("POST", "/users/me/history", {"task": TASK, "records": NINA})["new"] == len(NINA)
    for kind, method in (("assemble", "recipe"), ("train", "lora")):
        job = told("POST", f"/users/me/{kind}", {"task": TASK})
        done = until(lambda path=f"/users/me/jobs/{job['id']}": (now := told("GET", path))["ended"] and now)
        assert done["state"] == "done"
        adapter = told("GET", f"/users/me/adapter?task={TASK}")["adapter"]
        assert (adapter["id"], adapter["method"]) == (done["adapter"], method)

        asked = {"model": TASK, "messages": [{"role": "user", "content": "nina wrote 7"}]}
        answer = call("POST", "/chat/completions", asked)[1].decode()
        assert answer == shared.ask("nina", "nina wrote 7", TASK).answer
        assert call("POST", "/chat/completions", asked | {"stream": True})[1].decode() == answer

    content = call("GET", f"/users/me/adapter/download?task={TASK}", None)[1]
    zipfile.ZipFile(io.BytesIO(content)).extractall(tmp_path / "exported")
    prompt = "message: nina wrote 7"
    asked = {"model": TASK, "prompt": prompt, "max_tokens": 12}
    exported = by_peft(shared, tmp_path / "exported", prompt, 12)
    assert exported and call("POST", "/completions", asked)[1].decode() == exported

    assert told("DELETE", "/users/me?confirm=nina")["records"] == len(NINA)
    assert call("GET", "/users/me", None)[0] == 401
    assert "nina" not in {person.user for person in shared.histories()} and shared.adapters("nina") == []


def by_peft(home: Home, exported: Path, prompt: str, most: int) -> str:
    """What `peft` says with an exported adapter."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = home.load(home.bases()[0])
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.folder), exported)
    tokens = torch.tensor([base.encode_prompt(prompt)])
    with torch.inference_mode():
        out = model.generate(input_ids=tokens, max_new_tokens=most, do_sample=False)
    return str(base.tokenizer.decode(out[0, tokens.shape[1] :], skip_special_tokens=True))
