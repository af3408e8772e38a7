"""The process that trains or assembles for a server: `python -m ownlm.server.job_process`.

It reads its options as one line of JSON from its input, and writes a line of JSON for each event. When the input ends,
the server is gone, and the process exits. A separate process keeps the server responsive, and frees its memory.
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

if TYPE_CHECKING:
    from ownlm.workflows.report import Assemblies, Training

Tell = Callable[..., None]
NICE = 10


def main() -> None:
    """Runs the job that the input describes."""
    for by in (signal.SIGINT, signal.SIGTERM):  # for the server alone, which kills this process itself
        signal.signal(by, signal.SIG_IGN)
    os.nice(NICE)
    out = os.fdopen(os.dup(1), "w", encoding="utf8")
    os.dup2(2, 1)  # output of libraries must not mix with the events
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_server, daemon=True).start()

    def tell(**what: Any) -> None:
        out.write(json.dumps(what) + "\n")
        out.flush()

    try:
        work(asked, tell)
    except OwnlmError as error:
        tell(event="error", error=_told(error))
    except Exception as error:  # its message may hold a user's text
        print(f"{type(error).__name__} in a job\n", *traceback.format_tb(error.__traceback__), file=sys.stderr)
        os._exit(1)
    tell(event="end")


def work(asked: dict[str, Any], tell: Tell) -> None:
    """Trains or assembles users, and reports each result.

    Args:
        asked: home, placement, kind, task, users, settings.
    """
    from ownlm.home import Home  # importing it takes seconds; signals are handled already

    home = Home(asked["home"], **asked["placement"], create=False)

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
    from ownlm.server.errors import for_client  # it loads FastAPI, which jobs need for errors alone

    instead = for_client(error)
    return {"what": instead.what, "hint": instead.hint}


def _end_with_server() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
