"""A real `ownlm serve` on 127.0.0.1, for the clients that people use with OpenAI's API."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from texts import SAYS

HERE = Path(__file__).parent
PATIENCE_S = 300  # of a machine whose cores are all busy
LONGEST = 64  # tokens of an answer that this server gives
MANY = 32  # requests at once

os.environ.update({
    "HF_HUB_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "DO_NOT_TRACK": "1",
    "LANGCHAIN_TRACING_V2": "false", "LANGSMITH_TRACING": "false", "HF_DATASETS_OFFLINE": "1",
})  # fmt: skip
for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE"):
    os.environ.pop(name, None)


@dataclass(frozen=True)
class Served:
    """A server.

    Attributes:
        url: of the API.
        tokens: by user; "new" has no records.
        base: folder of the base.
    """

    url: str
    tokens: dict[str, str]
    base: Path

    def post(self, path: str, user: str, **content: Any) -> Any:
        """What the server answers to a plain request, which no client has touched."""
        head = {"Authorization": f"Bearer {self.tokens[user]}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps({"model": "reply"} | content).encode(), head)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return json.load(response)

    def continued(self, prompt: Any, user: str = "ada", **how: Any) -> list[str]:
        """What the server continues prompts with."""
        return [one["text"] for one in self.post("/completions", user, prompt=prompt, **how)["choices"]]


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of a home in which ada, bela and jo have models of their own."""
    folder = tmp_path_factory.mktemp("clients")
    python = sys.executable if find_spec("ownlm") else os.environ.get("OWNLM_PYTHON", HERE.parent / ".venv/bin/python")
    process = subprocess.Popen(
        [python, HERE / "community.py", folder],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    try:
        assert process.stdout is not None
        tokens = json.loads(process.stdout.readline())
        yield Served(json.loads(process.stdout.readline())["address"] + "/v1", tokens, folder / "tiny")
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(params=SAYS)
def user(request: pytest.FixtureRequest) -> str:
    """Each of the users who have models."""
    return str(request.param)
