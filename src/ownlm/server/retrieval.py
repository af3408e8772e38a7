"""Prompts that show records of a long history: made in processes of their own, one at a time for each user.

Searching megabytes of text is work for Python alone, which lets no other thread run: in the server's own process it
would slow down everybody's answers.
"""

import json
import os
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ownlm.errors import OwnlmError, TaskError
from ownlm.inference.protocol import AnswerTimeoutError, StoppedError
from ownlm.programs import child_environment, python_command

LONG_BYTES = 64_000  # of a history that is searched in another process
PROCESSES = max(1, min(4, os.cpu_count() or 1))


class Retrieval:
    """Processes that make prompts, started when they are needed. Called in threads: `PROCESSES` at a time.

    Args:
        folder: the home.
        timeout_s: time after which a process is killed.
    """

    def __init__(self, folder: Path, timeout_s: float) -> None:
        self._folder, self._timeout_s = folder, timeout_s
        self._idle: list[subprocess.Popen[str]] = []
        self._busy: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def __call__(
        self, task: str, user: str, fields: Mapping[str, str], how: Mapping[str, Any]
    ) -> tuple[str, list[str]]:
        """`query_prompt` on a user's history as it stands in the home.

        Args:
            task: the task, as JSON.
            how: arguments of `query_prompt`.

        Raises:
            TaskError: the fields are no input of the task. AnswerTimeoutError: it takes too long.
        """
        process, late, reply = self._take(), threading.Event(), None

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self._timeout_s, end)
        timer.start()
        try:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(
                json.dumps({"task": task, "user": user, "fields": dict(fields), "how": dict(how)}) + "\n"
            )
            process.stdin.flush()
            reply = json.loads(process.stdout.readline())
        except (OSError, ValueError):  # it has ended, or was killed while it wrote
            raise self._failure(late.is_set()) from None
        finally:
            timer.cancel()
            self._give_back(process, reply is not None and not late.is_set())
        if "wrong" in reply:
            raise TaskError(reply["wrong"])
        return reply["prompt"], reply["retrieved"]

    def _failure(self, late: bool) -> OwnlmError:
        if late:
            what, expected = "The search in the history took too long", f"{self._timeout_s:g} s at most"
            hint = "ask with `rag` 0, or delete records that are not needed"
            return AnswerTimeoutError(what, expected=expected, hint=hint)
        if self._stopped:
            return StoppedError("The server was stopped before the history was searched", hint="ask again")
        return OwnlmError("The history could not be searched", hint="tell who runs the server")

    def stop(self) -> None:
        """Ends all processes."""
        with self._lock:
            self._stopped = True
            for process in (*self._idle, *self._busy):
                process.kill()
            for process in self._idle:
                process.wait()
            self._idle.clear()

    def _take(self) -> subprocess.Popen[str]:
        with self._lock:
            if self._stopped:
                raise StoppedError("The server is stopping", hint="ask again")
            process = self._idle.pop() if self._idle else self._start()
            self._busy.add(process)
            return process

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            python_command("-m", "ownlm.server.retrieval_process", str(self._folder)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf8",
            start_new_session=True,  # Ctrl-C is the server's, which ends it in its own time
            env=child_environment({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}),
        )

    def _give_back(self, process: subprocess.Popen[str], answered: bool) -> None:
        """Keeps a process for the next search; one that did not answer is ended."""
        with self._lock:
            self._busy.discard(process)
            if answered and not self._stopped:
                self._idle.append(process)
                return
        process.kill()
        process.wait()
