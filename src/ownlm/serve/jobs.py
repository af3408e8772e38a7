"""Jobs of a server: people who ask to be trained or assembled, as many at once as wait for the same."""

import json
import logging
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ownlm.errors import OwnlmError
from ownlm.home import Home
from ownlm.serve.job_settings import job_settings
from ownlm.store.jobs import OPEN, add_job, begin_jobs, end_job, jobs, requeue_jobs
from ownlm.store.rows import JobInfo

log = logging.getLogger("ownlm.serve")
AT_ONCE = 256  # people of one process
RETRY_S = 5.0

Report = dict[str, Any]


@dataclass(slots=True)
class _Outcomes:
    """What a process told so far."""

    failed: dict[str, dict[str, str | None]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    error: dict[str, str | None] | None = None
    ended: bool = False


class Jobs:
    """Runs a home's jobs, oldest first, in a process of their own, one at a time.

    What is acknowledged is in the home: a server that was killed goes on with it when it is started again.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._wake, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._process: subprocess.Popen[str] | None = None
        self._running: dict[str, Report | None] = {}  # by job: how far it is
        self._alone: set[str] = set()  # jobs whose process died: one of them may be why

    def start(self) -> None:
        """Begins with what is left of last time."""
        requeue_jobs(self._home.store)
        self._thread.start()
        self._wake.set()

    def stop(self) -> None:
        """Ends; what runs is begun anew by the next server."""
        self._over.set()
        self._wake.set()
        if (process := self._process) is not None:
            process.kill()
        if self._thread.is_alive():
            self._thread.join()

    def ask(self, kind: str, user: str, task: str) -> JobInfo:
        """A job, kept before this returns."""
        job = add_job(self._home.store, kind, user, task)
        self._wake.set()
        return job

    def progress(self, job: str) -> Report | None:
        """How far a running job's process is: stage, done, total."""
        return self._running.get(job)

    def _run(self) -> None:
        while not self._over.is_set():
            self._wake.wait()
            self._wake.clear()
            try:
                while not self._over.is_set() and (waiting := jobs(self._home.store, states=["queued"])):
                    self._do(*self._together(waiting))
            except Exception as error:  # the home cannot be read or written just now, say: jobs wait
                log.error("jobs wait: %s", error.what if isinstance(error, OwnlmError) else type(error).__name__)
                self._over.wait(RETRY_S)
                with suppress(OwnlmError):
                    requeue_jobs(self._home.store)
                self._wake.set()

    def _together(self, waiting: list[JobInfo]) -> tuple[list[JobInfo], dict[str, Any]]:
        """The oldest job, and those that ask for the same with the same settings; of each person one."""
        first, settings = waiting[0], job_settings(self._home.store, waiting[0])
        if first.id in self._alone:
            return [first], settings
        same = (j for j in waiting[1:] if (j.kind, j.task) == (first.kind, first.task) and j.id not in self._alone)
        alike = [first, *(job for job in same if job_settings(self._home.store, job) == settings)]
        return alike[:AT_ONCE], settings

    def _do(self, alike: list[JobInfo], settings: dict[str, Any]) -> None:
        if not (alike := self._without_gone(alike)):
            return
        begin_jobs(self._home.store, [job.id for job in alike])
        self._running = dict.fromkeys((job.id for job in alike), None)
        asked = {
            "home": str(self._home.store.folder), "device": self._home.device, "kind": alike[0].kind,
            "task": alike[0].task, "users": [job.user for job in alike], "settings": settings,
        }  # fmt: skip
        told = self._process_of(asked)
        if not self._over.is_set():
            died = not told.ended and len(alike) > 1
            if died:
                self._alone.update(job.id for job in alike)
            if died or (told.error is not None and len(self._without_gone(alike)) < len(alike)):
                requeue_jobs(self._home.store)  # who was forgotten meanwhile, or breaks it, must not fail the others
                alike = []
            for job in alike:
                self._end(job, told)
        self._running = {}

    def _without_gone(self, alike: list[JobInfo]) -> list[JobInfo]:
        """Those jobs whose people still have records; the others end here."""
        there = [job for job in alike if self._home.store.knows(job.task, job.user)]
        for job in alike:
            if job not in there:
                gone: dict[str, str | None] = {
                    "what": "There are no records any more",
                    "hint": "add records, and ask for it again",
                }
                end_job(self._home.store, job.id, error=gone)
        return there

    def _process_of(self, asked: Report) -> _Outcomes:
        """Starts a process, and listens until it ends."""
        told = _Outcomes()
        command = [sys.executable, "-m", "ownlm.serve.job_process"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf8",
            start_new_session=True,  # what ends the server's group must not end it before the server knows
            env={**os.environ, "OMP_WAIT_POLICY": "passive"},  # threads that wait leave their core to the answers
        ) as process:  # fmt: skip
            self._process = process
            if self._over.is_set():  # it was not there yet to be ended
                process.kill()
            assert process.stdin is not None and process.stdout is not None
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(asked) + "\n")
                process.stdin.flush()
            for line in process.stdout:
                with suppress(ValueError):  # half a line, of one that was killed
                    self._hear(json.loads(line), told)
        self._process = None
        if not told.ended and told.error is None:
            told.error = {"what": f"The work ended with status {process.returncode}", "hint": "ask for it again"}
        return told

    def _hear(self, message: Report, told: _Outcomes) -> None:
        match message["event"]:
            case "progress":
                self._running = dict.fromkeys(self._running, message["progress"])
            case "failed":
                told.failed[message["user"]] = message["error"]
            case "skipped":
                told.skipped[message["user"]] = message["why"]
            case "error":
                told.error = message["error"]
            case "end":
                told.ended = True

    def _end(self, job: JobInfo, told: _Outcomes) -> None:
        """Says what came of one job: whoever was neither trained nor failed is up to date."""
        error = told.failed.get(job.user) or told.error
        newest = self._home.store.latest_adapters(job.task, [job.user]).get((job.task, job.user))
        if error is None and newest is None:
            why = told.skipped.get(job.user, "nothing came of it")
            error = {"what": f"No adapter was made: {why}", "hint": "add records, and ask for it again"}
        elif error is None and newest and newest.is_recipe and newest.pool in self._home.pools.waiting():
            error = {
                "what": "The pieces of your adapter wait for a withdrawal, and answer nobody until it is done",
                "hint": "ask for it again later, or ask to be trained",
            }
        self._alone.discard(job.id)
        end_job(self._home.store, job.id, adapter=None if error or newest is None else newest.id, error=error)


def open_jobs(home: Home, user: str) -> list[JobInfo]:
    """A person's jobs that are not done."""
    return jobs(home.store, user, OPEN)
