from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

from ownlm.bench.machine import commit


def test_a_package_that_only_lies_in_a_checkout_has_no_commit() -> None:
    answers = {"ls-files": "", "describe": "abc\n"}

    def answer(command: list[str], **_: object) -> CompletedProcess[str]:
        return CompletedProcess(command, 0, next(answers[part] for part in command if part in answers))

    with patch("subprocess.run", answer):
        assert commit(Path("venv")) is None
    answers["ls-files"] = "machine.py\n"
    with patch("subprocess.run", answer):
        assert commit(Path("src")) == "abc"
