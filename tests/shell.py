"""The command line, as it is typed."""

import json
import signal
import subprocess
import sys
from pathlib import Path

OWNLM = [sys.executable, "-c", "from ownlm.cli.app import main; main()"]


class Shell:
    """Runs `ownlm` in a folder, as a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, *args: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*OWNLM, *map(str, args)],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # where the tests run in the background
        )

    def run(self, *args: object, code: int = 0) -> str:
        process = self.start(*args)
        out, err = process.communicate()
        assert process.returncode == code, (out, err)
        return out if code == 0 or "--json" in args else err

    def json(self, *args: object, code: int = 0):  # type: ignore[no-untyped-def]
        return json.loads(self.run(*args, "--json", code=code))
