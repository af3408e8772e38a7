"""OpenAI's client for Node."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE_S, Served
from texts import SAYS

NODE = Path(__file__).with_name("node")


def asked(served: Served, user: str, many: int) -> dict[str, Any]:
    """What `node/client.mjs` was answered."""
    if shutil.which("node") is None or not (NODE / "node_modules" / ".installed").is_file():  # as `make` marks it
        pytest.skip("NOT TESTED: the client for Node. Node, or its packages, are not installed")
    done = subprocess.run(
        ["node", "client.mjs"], cwd=NODE, capture_output=True, text=True, timeout=PATIENCE_S,
        env=os.environ | {"BASE": served.url, "TOKEN": served.tokens[user], "MANY": str(many)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_what_people_do(served: Served) -> None:
    told = asked(served, "ada", 4)
    assert told["models"] == ["reply"]
    assert {told["whole"], told["streamed"], told["helper"], *told["many"]} == {SAYS["ada"]}
    assert told["texts"] == served.continued(["message: a", "message: b"], max_tokens=8)
    assert told["token"]["name"] == "AuthenticationError" and "token" in told["token"]["message"]
    assert told["missing"]["name"] == "NotFoundError" and "no such model" in told["missing"]["message"]
    assert told["long"]["name"] == "BadRequestError" and told["long"]["status"] == 400
    assert told["format"]["name"] == "BadRequestError" and "response_format" in told["format"]["message"]
