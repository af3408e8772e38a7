"""Jobs of a server: users who ask to be trained or assembled. Jobs with equal options run together."""

import json
import logging
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import select

from ownlm.config import TrainConfig
from ownlm.errors import NotFoundError, OwnlmError
from ownlm.home import Home
from ownlm.inference.load import RECIPE
from ownlm.programs import child_environment, python_command
from ownlm.store import tables
from ownlm.store.jobs import OPEN, add_job, begin_jobs, cancel_job, end_job, jobs, requeue_jobs
from ownlm.store.rows import AdapterInfo, JobInfo
from ownlm.store.store import Store
from ownlm.store.tables import without_number
from ownlm.workflows.plan import pick_base

log = logging.getLogger("ownlm.server")
AT_ONCE = 256  # users of one process
RETRY_S = 5.0

Report = dict[str, Any]


@dataclass(slots=True)
class _Outcomes:
    """Events that a process has reported so far."""

    failed: dict[str, dict[str, str | None]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    error: dict[str, str | None] | None = None
    ended: bool = False


class Jobs:
    """Runs the jobs of a home, oldest first, in a separate process, one process at a time.

    Accepted jobs are stored in the home: after a server was killed, the next one continues with them.

    Args:
        home: home of the jobs.
        timeout_s: time after which a process is killed; waiting for another training process does not count.
    """

    def __init__(self, home: Home, timeout_s: float = 6 * 3600) -> None:
        self._home, self._timeout_s = home, timeout_s
        self._wake, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._process: subprocess.Popen[str] | None = None
        self._ending = threading.Lock()  # held while a process is started or killed
        self._deadline = 0.0
        self._running: dict[str, Report | None] = {}  # progress by job
        self._stopped: str | None = None  # reason why the running process was killed: "cancelled" or "timeout"
        self._alone: set[str] = set()  # jobs of a process that died: one of them may be the cause
        self._apart: set[str] = set()  # users who cancelled a running job; their jobs run without others

    def start(self) -> None:
        """Starts the thread; unfinished jobs are queued again."""
        requeue_jobs(self._home.store)
        self._thread.start()
        self._wake.set()

    def stop(self) -> None:
        """Stops the thread; the next server runs the unfinished jobs again."""
        self._over.set()
        self._wake.set()
        self._kill(None)
        if self._thread.is_alive():
            self._thread.join()

    def ask(self, kind: str, user: str, task: str) -> JobInfo:
        """Queues a job; it is stored before this returns."""
        job = add_job(self._home.store, kind, user, task)
        self._wake.set()
        return job

    def cancel(self, job: str, user: str) -> JobInfo:
        """Cancels a user's job: a queued one never starts, the process of a running one is killed.

        Adapters that the process has stored stay. Jobs of other users in the same process are started again.

        Raises:
            NotFoundError: the user has no such job. ConflictError: it has ended.
        """
        cancelled, before = cancel_job(self._home.store, job, user)
        if before == "running":
            self._apart.add(user)
            with self._ending:
                if job in self._running:
                    self._kill("cancelled")
        return cancelled

    def progress(self, job: str) -> Report | None:
        """Progress of a running job: stage, done, total."""
        return self._running.get(job)

    def _run(self) -> None:
        while not self._over.is_set():
            self._wake.wait()
            self._wake.clear()
            try:
                while not self._over.is_set() and (waiting := jobs(self._home.store, states=["queued"])):
                    self._do(*self._together(waiting))
            except Exception as error:  # such as a home that cannot be read or written at the moment: jobs wait
                log.error("jobs wait: %s", error.what if isinstance(error, OwnlmError) else type(error).__name__)
                self._over.wait(RETRY_S)
                with suppress(OwnlmError):
                    requeue_jobs(self._home.store)
                self._wake.set()

    def _together(self, waiting: list[JobInfo]) -> tuple[list[JobInfo], dict[str, Any]]:
        """The oldest job, and the other queued jobs with the same kind, task and settings."""
        first, settings = waiting[0], job_settings(self._home.store, waiting[0])
        if self._is_alone(first):
            return [first], settings
        same = (j for j in waiting[1:] if (j.kind, j.task) == (first.kind, first.task) and not self._is_alone(j))
        alike = [first, *(job for job in same if job_settings(self._home.store, job) == settings)]
        return alike[:AT_ONCE], settings

    def _is_alone(self, job: JobInfo) -> bool:
        return job.id in self._alone or job.user in self._apart

    def _do(self, alike: list[JobInfo], settings: dict[str, Any]) -> None:
        store = self._home.store
        if not (alike := self._without_gone(alike)):
            return
        with self._ending:  # so that `cancel` finds the job either queued or in `_running`
            begun = begin_jobs(store, [job.id for job in alike])
            alike = [job for job in alike if job.id in begun]
            self._running, self._stopped = dict.fromkeys((job.id for job in alike), None), None
        if alike:
            before = self._newest(alike)
            asked = {
                "home": str(store.folder), "placement": asdict(self._home.placement), "kind": alike[0].kind,
                "task": alike[0].task, "users": [job.user for job in alike], "settings": settings,
            }  # fmt: skip
            outcomes = self._process_of(asked)
            if not self._over.is_set():
                self._settle(alike, outcomes, before)
        with self._ending:
            self._running = {}

    def _settle(self, alike: list[JobInfo], outcomes: _Outcomes, before: dict[str, str]) -> None:
        """Stores the results of jobs, or queues them again; cancelled jobs stay cancelled."""
        is_open = {job.id for job in jobs(self._home.store, states=OPEN)}
        rest, company = [job for job in alike if job.id in is_open], len(alike) > 1
        if self._stopped == "timeout":
            newest = self._newest(rest)
            done = [job for job in rest if newest.get(job.user) != before.get(job.user)]
            for job in done:
                self._end(job, _Outcomes())
            rest = [job for job in rest if job not in done]
            if company and not done:
                self._alone.update(job.id for job in rest)
        died = self._stopped is None and not outcomes.ended and company
        if died:
            self._alone.update(job.id for job in rest)
        left_out = outcomes.error is not None and len(self._without_gone(rest)) < len(rest)
        if died or left_out or (company and self._stopped is not None):
            requeue_jobs(self._home.store)  # one forgotten, cancelled or broken user must not fail the others
            return
        for job in rest:
            self._end(job, outcomes)

    def _newest(self, alike: list[JobInfo]) -> dict[str, str]:
        """Ids of the users' newest adapters in the jobs' task."""
        made = self._home.store.latest_adapters(alike[0].task, [job.user for job in alike]) if alike else {}
        return {user: adapter.id for (_, user), adapter in made.items()}

    def _without_gone(self, alike: list[JobInfo]) -> list[JobInfo]:
        """The jobs of users who still have records; the others fail here."""
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
        """Runs a process, and collects its events until it ends."""
        outcomes = _Outcomes()
        command = python_command("-m", "ownlm.server.job_process")
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf8",
            start_new_session=True,  # a signal to the server's group must not kill it before the server knows
            env=child_environment({"OMP_WAIT_POLICY": "passive"}),  # waiting threads leave their core to the answers
        ) as process, self._watched(process):  # fmt: skip
            assert process.stdin is not None and process.stdout is not None
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(asked) + "\n")
                process.stdin.flush()
            for line in process.stdout:
                with suppress(ValueError):  # half a line of a killed process
                    self._on_event(json.loads(line), outcomes)
        if self._stopped == "timeout":
            limit = f"{self._timeout_s:,.0f} s"
            outcomes.error = {
                "what": f"The job took longer than {limit}",
                "hint": "ask again later, or with fewer records",
            }
        elif not outcomes.ended and outcomes.error is None:
            outcomes.error = {"what": f"The work ended with status {process.returncode}", "hint": "ask for it again"}
        return outcomes

    @contextmanager
    def _watched(self, process: subprocess.Popen[str]) -> Iterator[None]:
        """Within the block, the process is killed when its job is cancelled, takes too long, or the server stops."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(max(0.0, self._deadline - time.monotonic())):
                if time.monotonic() >= self._deadline:
                    self._kill("timeout")
                    return

        with self._ending:
            self._process, self._deadline = process, time.monotonic() + self._timeout_s
            if self._over.is_set() or self._stopped is not None:  # `_kill` came before the process was set
                process.kill()
        watcher = threading.Thread(target=watch, name="job watch", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            self._process = None

    def _kill(self, why: str | None) -> None:
        self._stopped = self._stopped or why
        if (process := self._process) is not None:
            process.kill()

    def _on_event(self, message: Report, outcomes: _Outcomes) -> None:
        match message["event"]:
            case "progress":
                self._running = dict.fromkeys(self._running, message["progress"])
                if message["progress"]["stage"] == "waiting":  # for another training process in the home
                    self._deadline = time.monotonic() + self._timeout_s
            case "failed":
                outcomes.failed[message["user"]] = message["error"]
            case "skipped":
                outcomes.skipped[message["user"]] = message["why"]
            case "error":
                outcomes.error = message["error"]
            case "end":
                outcomes.ended = True

    def _end(self, job: JobInfo, outcomes: _Outcomes) -> None:
        """Stores the result of one job; a user who was neither trained nor failed is up to date."""
        error = outcomes.failed.get(job.user) or outcomes.error
        newest = self._home.store.latest_adapters(job.task, [job.user]).get((job.task, job.user))
        if error is None and newest is None:
            why = outcomes.skipped.get(job.user, "nothing came of it")
            error = {"what": f"No adapter was made: {why}", "hint": "add records, and ask for it again"}
        elif error is None and newest and newest.waits:
            error = {
                "what": "The pieces of your adapter wait for a withdrawal, and are not used until it is done",
                "hint": "ask for it again later, or ask to be trained",
            }
        self._alone.discard(job.id)
        end_job(self._home.store, job.id, adapter=None if error or newest is None else newest.id, error=error)


def job_settings(store: Store, job: JobInfo) -> dict[str, Any]:
    """Options of a job: those of the user's last adapter of that kind, else of the task's last one.

    So the options that an operator trains with on the command line are also the server's.
    """
    method, settings = ("lora", _of_training) if job.kind == "train" else (RECIPE, _of_assembling)
    for user in (job.user, None):
        made = last_made(store, job.task, method, user)
        if made is not None:
            try:
                return settings(store, made)
            except (KeyError, ValueError):  # written by another version of ownlm: the preset's settings are used
                return {}
    return {}


def last_made(store: Store, task: str, method: str, user: str | None) -> AdapterInfo | None:
    """The newest adapter that was made by a method, of one user or of all."""
    a = tables.adapters.c
    query = select(tables.adapters).where(a.task == task, a.method == method)
    if user is not None:
        query = query.where(a.user == user)
    with store.database.reading() as db:
        row = db.execute(query.order_by(a.number.desc()).limit(1)).first()
    return None if row is None else AdapterInfo(**without_number(row))


def _of_training(store: Store, adapter: AdapterInfo) -> dict[str, Any]:
    config = TrainConfig.model_validate(adapter.provenance["config"])
    parts = ("lora", "prompt")
    found = config.model_dump(mode="json", exclude={*parts, "virtual_tokens", "method"})
    for part in parts:
        found |= getattr(config, part).model_dump(mode="json")
    try:
        on_newest = adapter.base == pick_base(store, adapter.task, None).name
    except NotFoundError:
        on_newest = True
    return found | {"seed": adapter.provenance["seed"]} if on_newest else {}


def _of_assembling(store: Store, recipe: AdapterInfo) -> dict[str, Any]:
    return {**recipe.provenance["assembly"], "seed": recipe.provenance["seed"]}
