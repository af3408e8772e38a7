"""simonw's `llm`, with its models from extra-openai-models.yaml, from Python and from the command line."""

import asyncio
import subprocess
import sys
from pathlib import Path

import llm
import pytest
from conftest import PATIENCE_S, Served
from texts import SAYS


@pytest.fixture(autouse=True)
def models(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = f"  model_name: reply\n  api_base: {served.url}\n  api_key_name: ownlm\n"
    text = f"- model_id: own\n{entry}- model_id: own-text\n{entry}  completion: true\n"
    (tmp_path / "extra-openai-models.yaml").write_text(text, "utf8")
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))


def test_a_prompt_whole_and_streamed(served: Served, user: str) -> None:
    key = served.tokens[user]
    assert llm.get_model("own").prompt("hello", key=key, stream=False).text() == SAYS[user]
    assert "".join(llm.get_model("own").prompt("hello", key=key, stream=True)) == SAYS[user]


def test_a_conversation(served: Served) -> None:
    talk = llm.get_model("own").conversation()
    for question in ("hello", "what is new?"):
        assert talk.prompt(question, system="Be brief.", key=served.tokens["ada"]).text() == SAYS["ada"]


def test_async(served: Served) -> None:
    async def run() -> str:
        return str(await llm.get_async_model("own").prompt("hello", key=served.tokens["bela"]).text())

    assert asyncio.run(run()) == SAYS["bela"]


def test_options_and_continued_texts(served: Served) -> None:
    key = served.tokens["ada"]
    answer = llm.get_model("own").prompt("hello", key=key, temperature=0, max_tokens=100_000, seed=1, top_p=1)
    assert answer.text() == SAYS["ada"]
    text = llm.get_model("own-text").prompt("message: a", key=key, max_tokens=8).text()
    assert [text] == served.continued(["message: a"], max_tokens=8)


def test_errors_say_why(served: Served) -> None:
    with pytest.raises(Exception, match="token"):
        llm.get_model("own").prompt("hello", key="own_wrong").text()
    with pytest.raises(Exception, match="'response_format' is not supported"):
        llm.get_model("own").prompt("hello", key=served.tokens["ada"], json_object=True).text()


def test_the_command(served: Served) -> None:
    command = [sys.executable, "-m", "llm", "-m", "own", "hello"]
    for how in ([], ["--no-stream"]):
        for key, code, words in ((served.tokens["bela"], 0, SAYS["bela"]), ("own_wrong", 1, "token")):
            done = subprocess.run([*command, *how, "--key", key], capture_output=True, text=True, timeout=PATIENCE_S)
            assert done.returncode == code and words in done.stdout + done.stderr, done
