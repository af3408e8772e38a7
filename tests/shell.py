"""The command line, as it is typed."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

from ownlm.cli.app import main

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


class QuickShell(Shell):
    """Runs `ownlm` in a folder within this process, which has loaded torch already."""

    def both(self, *args: object, code: int = 0) -> tuple[str, str]:
        """What it writes to stdout and to stderr."""
        out, err, ended = io.StringIO(), io.StringIO(), 0
        line, environment = patch.object(sys, "argv", ["ownlm", *map(str, args)]), patch.dict(os.environ)
        redirected = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
        with line, environment, contextlib.chdir(self.folder), redirected[0], redirected[1]:
            try:
                main()
            except SystemExit as end:
                ended = end.code if isinstance(end.code, int) else 0
        assert ended == code, (out.getvalue(), err.getvalue())
        return out.getvalue(), err.getvalue()

    def run(self, *args: object, code: int = 0) -> str:
        out, err = self.both(*args, code=code)
        return out if code == 0 or "--json" in args else err
