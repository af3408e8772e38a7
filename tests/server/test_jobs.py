"""Jobs: done in a process of their own, with the settings of last time; kept when a server is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ownlm.config import TrainConfig
from ownlm.errors import ConflictError, NotFoundError
from ownlm.home import Home
from ownlm.server import jobs as server_jobs
from ownlm.server.jobs import Jobs, Report, _Outcomes, job_settings
from ownlm.store import jobs as jobs_module
from ownlm.store.jobs import add_job, begin_jobs, end_job, find_job, jobs
from ownlm.store.rows import JobInfo
from tests.community import rows, write_rows

TASK = "sorting"
PATIENCE_S = 120


@pytest.fixture
def working(home: Home) -> Iterator[Jobs]:
    """Jobs of a home, begun."""
    made = Jobs(home)
    made.start()
    yield made
    made.stop()


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def ended(home: Home, job: JobInfo) -> JobInfo:
    """The job, when it is done or failed."""

    def now() -> JobInfo:
        return next(one for one in jobs(home.store) if one.id == job.id)

    until(lambda: now().ended is not None)
    return now()


def test_a_person_is_trained_with_the_settings_of_their_task(home: Home, working: Jobs) -> None:
    job = ended(home, working.ask("train", "ciro", TASK))
    made = home.latest_adapters()[TASK, "ciro"]
    assert (job.state, job.adapter, job.error) == ("done", made.id, None)
    known = home.latest_adapters()[TASK, "ada"]
    assert made.provenance["config"] == known.provenance["config"] and made.key == known.key


def test_training_goes_on_from_the_last_adapter(home: Home, tmp_path: Path, working: Jobs) -> None:
    before = home.latest_adapters()[TASK, "ada"]
    home.add_history(write_rows(tmp_path / "more.jsonl", rows("ada", 3, first=7)), TASK)
    job = ended(home, working.ask("train", "ada", TASK))
    made = home.latest_adapters()[TASK, "ada"]
    assert job.adapter == made.id != before.id and made.parent == before.id
    again = ended(home, working.ask("train", "ada", TASK))  # nothing is new
    assert (again.state, again.adapter) == ("done", made.id)


def test_a_job_that_cannot_be_done_says_why(home: Home, working: Jobs) -> None:
    job = ended(home, working.ask("assemble", "ada", TASK))
    assert job.state == "failed" and job.error is not None and "pool" in job.error["what"] and job.error["hint"]
    assert job.adapter is None


def test_the_same_job_waits_once(home: Home) -> None:
    one, same = add_job(home.store, "train", "ada", TASK), add_job(home.store, "train", "ada", TASK)
    assert one == same and len(jobs(home.store)) == 1
    begin_jobs(home.store, [one.id])  # it may have read the records already
    assert add_job(home.store, "train", "ada", TASK).id != one.id


def test_people_who_ask_for_the_same_are_trained_together(home: Home) -> None:
    asked = [add_job(home.store, "train", user, TASK) for user in ("ada", "ciro")]
    other = add_job(home.store, "assemble", "bela", TASK)
    together, settings = Jobs(home)._together(jobs(home.store, states=["queued"]))
    assert together == asked and settings["learning_rate"] == 1e-2
    assert Jobs(home)._together([other])[0] == [other]


def test_what_was_running_when_a_server_was_killed_is_done_by_the_next(home: Home) -> None:
    job = add_job(home.store, "train", "ciro", TASK)
    begin_jobs(home.store, [job.id])
    made = Jobs(home)
    made.start()
    assert ended(home, job).state == "done"
    made.stop()
    assert (TASK, "ciro") in home.latest_adapters()


def test_a_queued_job_is_cancelled(home: Home) -> None:
    made = Jobs(home)
    job = made.ask("train", "ciro", TASK)
    with pytest.raises(NotFoundError):
        made.cancel(job.id, "ada")
    assert made.cancel(job.id, "ciro").state == "cancelled"
    assert begin_jobs(home.store, [job.id]) == set()
    with pytest.raises(ConflictError, match="has ended"):
        made.cancel(job.id, "ciro")
    made.start()
    assert ended(home, made.ask("train", "ciro", TASK)).state == "done"
    made.stop()
    assert find_job(home.store, job.id, "ciro").state == "cancelled"


def test_a_running_job_is_cancelled_and_its_process_ends(home: Home, working: Jobs) -> None:
    job = working.ask("train", "ciro", TASK)
    until(lambda: working._process is not None)
    process = working._process
    assert process is not None and working.cancel(job.id, "ciro").state == "cancelled"
    assert process.wait(PATIENCE_S) == -signal.SIGKILL
    assert ended(home, working.ask("train", "ada", TASK)).state == "done"
    assert find_job(home.store, job.id, "ciro").state == "cancelled" and (TASK, "ciro") not in home.latest_adapters()


def test_who_cancels_does_not_cancel_others_and_shares_no_process_afterwards(home: Home) -> None:
    working = Jobs(home)
    mine, other = (add_job(home.store, "train", user, TASK) for user in ("bela", "ciro"))
    working.start()
    until(lambda: working._process is not None)
    working.cancel(mine.id, "bela")
    assert ended(home, other).state == "done" and find_job(home.store, mine.id, "bela").state == "cancelled"
    working.stop()
    asked = [add_job(home.store, "train", user, TASK) for user in ("ada", "bela", "ciro")]
    assert working._together(asked)[0] == [asked[0], asked[2]] and working._together(asked[1:])[0] == [asked[1]]


def test_a_job_that_takes_too_long_fails_and_what_was_finished_is_kept(home: Home) -> None:
    working, seen = Jobs(home, timeout_s=0.2), list[list[str]]()

    def process_of(asked: Report) -> _Outcomes:
        """Finishes ciro's adapter, then works for ever; of one that works alone, for ever."""
        seen.append(asked["users"])
        if len(asked["users"]) > 1:
            home.train(TASK, users=["ciro"], epochs=1)
        told = _Outcomes()
        with subprocess.Popen(["sleep", "600"], text=True) as process, working._watched(process):
            process.wait(PATIENCE_S)
        assert process.returncode == -signal.SIGKILL
        told.error = {"what": "took longer", "hint": None}
        return told

    working._process_of = process_of  # type: ignore[method-assign]
    asked = {user: add_job(home.store, "train", user, TASK) for user in ("bela", "ciro")}
    working.start()
    states = {user: ended(home, job).state for user, job in asked.items()}
    working.stop()
    assert states == {"bela": "failed", "ciro": "done"} and seen == [["bela", "ciro"], ["bela"]]


def test_a_job_that_takes_too_long_says_so(home: Home) -> None:
    working = Jobs(home, timeout_s=0.01)
    working.start()
    job = ended(home, working.ask("train", "ciro", TASK))
    working.stop()
    assert job.state == "failed" and job.error is not None and "took longer than" in job.error["what"]


def test_waiting_for_another_process_does_not_count(home: Home) -> None:
    working = Jobs(home, timeout_s=1000)
    working._on_event(
        {"event": "progress", "progress": {"stage": "training steps", "done": 1, "total": 2}}, _Outcomes()
    )
    assert working._deadline == 0
    working._on_event({"event": "progress", "progress": {"stage": "waiting", "done": 0, "total": 0}}, _Outcomes())
    assert working._deadline > time.monotonic() + 900


def test_old_jobs_make_room(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "KEPT", 2)
    asked = list[JobInfo]()
    for _ in range(4):
        asked.append(add_job(home.store, "train", "ada", TASK))
        end_job(home.store, asked[-1].id)
    running = add_job(home.store, "train", "ada", TASK)
    assert [one.id for one in jobs(home.store)] == [asked[2].id, asked[3].id, running.id]


def test_a_server_that_stops_leaves_its_job_to_the_next(home: Home) -> None:
    first = Jobs(home)
    first.start()
    job = first.ask("train", "ciro", TASK)
    until(lambda: first._process is not None)
    first.stop()
    assert jobs(home.store)[0].ended is None
    second = Jobs(home)
    second.start()
    assert ended(home, job).state == "done"
    second.stop()


def test_a_process_that_dies_fails_its_jobs_and_not_the_next(home: Home, working: Jobs) -> None:
    job = working.ask("train", "ciro", TASK)
    until(lambda: working.progress(job.id) is not None)  # before it has read its work, another process is started
    process = working._process
    assert process is not None
    process.kill()
    assert "status -9" in str(ended(home, job).error)
    assert ended(home, working.ask("train", "ciro", TASK)).state == "done"


def test_who_breaks_the_process_does_not_fail_the_others(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    working, seen, process_of = Jobs(home), list[list[str]](), Jobs._process_of

    def breaks_on_bela(self: Jobs, asked: Report) -> _Outcomes:
        seen.append(asked["users"])
        told = _Outcomes(error={"what": "The work ended with status -9", "hint": None})
        return told if "bela" in asked["users"] else process_of(self, asked)

    monkeypatch.setattr(Jobs, "_process_of", breaks_on_bela)
    asked = {user: add_job(home.store, "train", user, TASK) for user in ("bela", "ciro")}
    working.start()
    states = {user: ended(home, job).state for user, job in asked.items()}
    working.stop()
    assert states == {"bela": "failed", "ciro": "done"} and seen == [["bela", "ciro"], ["bela"], ["ciro"]]


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_what_ends_the_server_leaves_its_process_to_it(home: Home, working: Jobs, by: signal.Signals) -> None:
    job = working.ask("train", "ciro", TASK)
    until(lambda: working.progress(job.id) is not None)
    process = working._process
    assert process is not None and os.getpgid(process.pid) != os.getpgid(0)
    process.send_signal(by)
    assert ended(home, job).state == "done"


def test_what_breaks_in_a_job_is_told_without_its_words() -> None:
    program = """
from ownlm.server import job_process

def work(asked, tell):
    raise KeyError(asked["text"])

job_process.work = work
job_process.main()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin and process.stdout and process.stderr  # its input stays open: at the end of it, it ends
        process.stdin.write(json.dumps({"text": "of ada"}) + "\n")
        process.stdin.flush()
        told, out = process.stderr.read(), process.stdout.read()
        assert process.wait() == 1 and out == ""
    assert "KeyError in a job" in told and "of ada" not in told


def test_settings_that_cannot_be_read_any_more_are_the_presets(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    made = home.latest_adapters()[TASK, "ada"]
    odd = replace(made, provenance={"config": {"unheard_of": 1}, "seed": 0})
    monkeypatch.setattr(server_jobs, "last_made", lambda *_: odd)
    assert job_settings(home.store, JobInfo("j", "train", "ada", TASK)) == {}


def test_jobs_of_who_was_forgotten_are_gone(home: Home) -> None:
    add_job(home.store, "train", "ada", TASK)
    home.forget("ada")
    assert jobs(home.store) == []


def test_settings_are_those_of_the_last_adapter(home: Home) -> None:
    settings = job_settings(home.store, JobInfo("j", "train", "ada", TASK))
    config = TrainConfig.model_validate(home.latest_adapters()[TASK, "ada"].provenance["config"])
    assert settings["learning_rate"] == config.learning_rate and settings["r"] == config.lora.r
    assert "virtual_tokens" not in settings and settings["seed"] == 0
    assert job_settings(home.store, JobInfo("j", "assemble", "ada", TASK)) == {}
