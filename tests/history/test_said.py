"""What the command line says about right answers and records that give them away; and which names get tokens."""

import json
from pathlib import Path

import pytest

from ownlm.errors import ConfigError
from ownlm.store.store import Store
from ownlm.store.tokens import give_token
from tests.community import write_task
from tests.shell import QuickShell


@pytest.mark.parametrize(("own", "said"), [({"gold": "bin"}, "2 of them"), ({}, "none of them")])
def test_right_answers_are_counted(tmp_path: Path, own: dict[str, str], said: str) -> None:
    write_task(tmp_path)
    notes = [{"id": str(n), "text": f"note {n}", "folder": "bin"} for n in range(4)]
    questions = [{"id": f"q{n}", "user_id": "u", "input": f"note {n}", "profile": notes, **own} for n in range(2)]
    (tmp_path / "dev_questions.json").write_text(json.dumps(questions), "utf8")
    shell = QuickShell(tmp_path)
    out = shell.run("history", "add", "dev_questions.json", "--task", "sorting.toml")
    assert f"2 queries, {said} with the right answer" in out
    assert "left out 2: records that are the answer to a query of the same user" in out
    imported = shell.run("import", "lamp", "dev_questions.json", "out.jsonl", "--task", "sorting.toml")
    assert f"2 queries, {said} with the right answer" in imported


@pytest.mark.parametrize("name", ["ada\u202e", "a\u200bda", "ada\nbob", "Rene\u0301", "\x1b[2J", "a\u3164"])
def test_names_that_are_not_what_they_look_like_get_no_token(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="Invalid user name: it "):
        give_token(Store(tmp_path / "home"), name)
