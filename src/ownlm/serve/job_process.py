"""The process that trains or assembles for a server: `python -m ownlm.serve.job_process`.

It reads what to do as one line of JSON from its input, whose end tells it that the server is gone, and writes a line of
JSON for everything that happens. Work in a process of its own leaves the server's answers their time, and its memory
goes back when it ends.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from ownlm.errors import OwnlmError
from ownlm.home import Home
from ownlm.verbs.report import Assemblies, Training

Tell = Callable[..., None]
NICE = 10


def main() -> None:
    """Does what it is told."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's; it ends this process in its own time
    os.nice(NICE)
    out = os.fdopen(os.dup(1), "w", encoding="utf8")
    os.dup2(2, 1)  # whatever libraries print is no message
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_server, daemon=True).start()

    def tell(**what: Any) -> None:
        out.write(json.dumps(what) + "\n")
        out.flush()

    try:
        work(asked, tell)
    except OwnlmError as error:
        tell(event="error", error={"what": error.what, "hint": error.hint})
    tell(event="end")


def work(asked: dict[str, Any], tell: Tell) -> None:
    """Trains or assembles people, and tells each outcome.

    Args:
        asked: home, device, kind, task, users, settings.
    """
    home = Home(asked["home"], device=asked["device"], create=False)

    def progress(stage: str, done: float, total: float, note: str = "") -> None:
        tell(event="progress", progress={"stage": stage, "done": done, "total": total})

    report: Training | Assemblies
    if asked["kind"] == "train":
        report = home.train(asked["task"], users=asked["users"], progress=progress, **asked["settings"])
    else:
        report = home.assemble(asked["task"], users=asked["users"], progress=progress, **asked["settings"])
    for user, error in report.failed:
        tell(event="failed", user=user, error={"what": error.what, "hint": error.hint})
    for user, why in report.skipped:
        tell(event="skipped", user=user, why=why)


def _end_with_server() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
