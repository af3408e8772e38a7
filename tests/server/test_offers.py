"""What a user can ask for is what comes to something."""

from pathlib import Path

from fastapi.testclient import TestClient

from ownlm.home import Home
from ownlm.server.app import create_app
from ownlm.server.jobs import job_settings
from ownlm.server.limits import Limits
from ownlm.store.jobs import add_job
from ownlm.store.rows import JobInfo
from tests.community import rows, write_rows, write_task
from tests.server.conftest import Served
from tests.server.fake_engine import FakeEngine
from tests.sharing import TASK as SHARED

TASK = "sorting"


def offered(served: Served, user: str, task: str = TASK) -> tuple[str | None, str | None]:
    """Why training and assembling are not offered."""
    told = served.get(f"/v1/users/me/adapter?task={task}", served.token(user))["not_offered"]
    return told["train"], told["assemble"]


def test_training_is_offered_where_there_is_something_to_learn(served: Served, tmp_path: Path) -> None:
    home = served.home
    assert offered(served, "somebody new") == ("no_records", "no_records")
    assert offered(served, "ciro") == (None, "no_pieces")
    assert offered(served, "ada") == ("up_to_date", "no_pieces")
    how = job_settings(home.store, JobInfo("", "train", "ada", TASK))
    assert home.train(TASK, users=["ada"], **how).skipped == [("ada", "up to date")]  # it would come to nothing
    home.add_history(write_rows(tmp_path / "more.jsonl", rows("ada", 1, first=7)), TASK)
    assert offered(served, "ada")[0] is None
    add_job(home.store, "train", "ada", TASK)
    assert offered(served, "ada") == ("at_work", "no_pieces")
    add_job(home.store, "assemble", "ciro", TASK)
    assert offered(served, "ciro") == (None, "at_work")
    told = served.get(f"/v1/users/me/adapter?task={TASK}", served.token("ciro"))
    assert [job["kind"] for job in told["open_jobs"]] == ["assemble"]
    assert offered(served, "bela")[0] == "up_to_date"
    home.forget_record("bela", "bela-1", TASK)
    assert offered(served, "bela")[0] is None  # to be made again, without it


def test_assembling_is_offered_where_there_are_pieces_to_choose_from(shared: Home, tmp_path: Path) -> None:
    with TestClient(create_app(shared, FakeEngine(), Limits(grace_s=0))) as client:
        served = Served(shared, FakeEngine(), client)
        nina = [{"user_id": "nina", "id": f"n{n}", "text": f"nina wrote {n}", "folder": "bin"} for n in range(4)]
        shared.add_history(write_rows(tmp_path / "nina.jsonl", nina), SHARED)
        assert offered(served, "nina", SHARED) == (None, None)
        shared.assemble(SHARED, users=["nina"])
        assert offered(served, "nina", SHARED) == (None, "up_to_date")
        sharer = next(person.user for person in shared.histories(SHARED) if shared.consent(person.user).pools)
        shared.consent(sharer, False)
        assert offered(served, "nina", SHARED) == (None, "waits")
        told = served.get(f"/v1/users/me/adapter?task={SHARED}", served.token("nina"))
        assert told["adapter"]["waits"] and "withdrawal" in told["standing"]


def test_without_a_base_nothing_can_be_learnt(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.add_history(write_rows(tmp_path / "ada.jsonl", rows("ada", 3)), str(write_task(tmp_path)))
    with TestClient(create_app(home, FakeEngine(), Limits(grace_s=0))) as client:
        assert offered(Served(home, FakeEngine(), client), "ada") == ("no_base", "no_pieces")
