"""The process that trains or assembles for a server: `python -m ownlm.server.job_process`.

It reads what to do as one line of JSON from its input, whose end tells it that the server is gone, and writes a line of
JSON for everything that happens. Work in a process of its own leaves the server's answers their time, and its memory
goes back when it ends.
"""

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ownlm.errors import OwnlmError
from ownlm.server.told import told

if TYPE_CHECKING:
    from ownlm.workflows.report import Assemblies, Training

Tell = Callable[..., None]
NICE = 10


def main() -> None:
    """Does what it is told."""
    for by in (signal.SIGINT, signal.SIGTERM):  # they are the server's, which ends this process in its own time
        signal.signal(by, signal.SIG_IGN)
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
        tell(event="error", error=_told(error))
    except Exception as error:  # what it says may be a person's text
        print(f"{type(error).__name__} in a job\n", *traceback.format_tb(error.__traceback__), file=sys.stderr)
        os._exit(1)
    tell(event="end")


def work(asked: dict[str, Any], tell: Tell) -> None:
    """Trains or assembles people, and tells each outcome.

    Args:
        asked: home, device, kind, task, users, settings.
    """
    from ownlm.home import Home  # it takes seconds, in which signals must be heard already

    home = Home(asked["home"], device=asked["device"], create=False)

    def progress(stage: str, done: float, total: float, note: str = "") -> None:
        tell(event="progress", progress={"stage": stage, "done": done, "total": total})

    report: Training | Assemblies
    if asked["kind"] == "train":
        how = {"held_back": True} | asked["settings"]
        report = home.train(asked["task"], users=asked["users"], progress=progress, **how)
    else:
        report = home.assemble(asked["task"], users=asked["users"], progress=progress, **asked["settings"])
    for user, error in report.failed:
        tell(event="failed", user=user, error=_told(error))
    for user, why in report.skipped:
        tell(event="skipped", user=user, why=why)


def _told(error: OwnlmError) -> dict[str, str | None]:
    instead = told(error)
    return {"what": instead.what, "hint": instead.hint}


def _end_with_server() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
