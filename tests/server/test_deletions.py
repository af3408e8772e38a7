"""Forgetting that cannot be finished at once is finished by the server: the person's token is gone by then."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from ownlm.errors import StoreError
from ownlm.home import Home
from ownlm.progress import silent
from ownlm.server import deletions
from ownlm.server.app import create_app
from ownlm.server.limits import Limits
from ownlm.store.database import Database, working
from ownlm.store.erasing import leftovers
from ownlm.store.erasing.leftovers import dues
from ownlm.store.forget import Forgotten, leaving
from tests.server.conftest import Served
from tests.server.fake_engine import FakeEngine
from tests.sharing import GIVERS, OTHERS

PATIENCE_S = 60


@pytest.mark.parametrize("error", [StoreError("another process is reading"), OSError(28, "No space left on device")])
def test_what_could_not_be_finished_is_finished_later(
    served: Served, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletions, "RETRY_S", 0.01)
    truncate_log, failures = Database.truncate_log, iter(range(3))

    def busy(database: Database, patience_s: float) -> None:
        if next(failures, None) is not None:
            raise error
        truncate_log(database, patience_s)

    monkeypatch.setattr(Database, "truncate_log", busy)
    done = served.client.delete("/v1/users/me?confirm=ada", headers=served.token("ada"))
    assert done.status_code == 200 and done.json()["records"] == 7 and done.json()["finished"] is False
    end = time.monotonic() + PATIENCE_S
    while dues_of(served.home):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert next(failures, None) is None  # it was tried until it worked


def test_an_unexpected_exception_is_a_500_and_a_line_in_the_log_and_what_it_left_is_removed(
    shared: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(deletions, "RETRY_S", 0.01)
    with (
        TestClient(create_app(shared, FakeEngine(), Limits(grace_s=0)), raise_server_exceptions=False) as client,
        monkeypatch.context() as patched,
    ):
        served = Served(shared, FakeEngine(), client)
        patched.setattr(leftovers, "_is_left", lambda *_: {}["secret text"])
        with caplog.at_level(logging.ERROR, "ownlm.server"):
            failed = client.delete(f"/v1/users/me?confirm={OTHERS[0]}", headers=served.token(OTHERS[0]))
        assert failed.status_code == 500 and "secret" not in failed.text + caplog.text
        assert "KeyError" in caplog.text
        until(lambda: not dues_of(shared))  # the next pass does not look: it rewrites the database
        patched.undo()
        done = client.delete(f"/v1/users/me?confirm={OTHERS[1]}", headers=served.token(OTHERS[1]))
        assert done.status_code == 200 and done.json()["finished"] is True
    assert not people_and_texts(shared, list(OTHERS[:2]))


def dues_of(home: Home) -> set[str]:
    with home.store.database.reading() as db:
        return dues(db)


def test_what_is_finished_is_told_so(served: Served) -> None:
    done = served.client.delete("/v1/users/me?confirm=bela", headers=served.token("bela")).json()
    assert done["finished"] is True


def test_a_copy_in_a_file_is_a_conflict_that_is_not_repeated_and_both_sides_learn_what_to_do(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    who, path = served.token("ada"), "/v1/users/me/history/ada-1?task=sorting"
    text = served.home.history("ada", "sorting").records[1].fields["text"]
    copy = served.home.store.folder / "data" / "people.jsonl"
    copy.parent.mkdir()
    copy.write_text(f'{{"text": "{text}"}}', "utf8")
    with caplog.at_level(logging.ERROR, "ownlm.server"):
        refused = served.client.delete(path, headers=who)
    assert refused.status_code == 409 and refused.headers["x-should-retry"] == "false"
    error = refused.json()["error"]
    assert error["code"] == "copy_in_home" and "whoever runs this server" in error["message"]
    assert str(served.home.store.folder) not in refused.text and "people.jsonl" not in refused.text
    assert str(copy) in caplog.text and text not in caplog.text
    assert any(str(copy) in finding.what for finding in served.home.doctor().wrong)
    assert served.client.delete("/v1/users/me?confirm=ada", headers=who).status_code == 409
    copy.unlink()
    done = served.client.delete(path, headers=who).json()
    assert done["records"] == 1 and done["finished"] and not served.home.doctor().wrong


def test_one_users_deletions_keep_nobody_else_waiting(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    ada, bela = served.token("ada"), served.token("bela")
    genuine, go, under_way = Home.forget_record, threading.Event(), list[str]()

    def slow(home: Home, user: str, record: str, task: str | None = None) -> Forgotten:
        under_way.append(user)
        if user == "ada":
            assert go.wait(PATIENCE_S)
        return genuine(home, user, record, task)

    monkeypatch.setattr(Home, "forget_record", slow)

    def delete(who: dict[str, str], record: str) -> int:
        return served.client.delete(f"/v1/users/me/history/{record}?task=sorting", headers=who).status_code

    with ThreadPoolExecutor(8) as threads:
        hers = [threads.submit(delete, ada, f"ada-{number}") for number in range(7)]
        until(lambda: "ada" in under_way)
        try:
            assert delete(bela, "bela-1") == 200
            assert under_way == ["ada", "bela"]  # hers come one after the other
        finally:
            go.set()
        assert [one.result() for one in hers] == [200] * 7


def until(happened: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def sharing(shared: Home) -> Iterator[Served]:
    """A server of a home in which people share."""
    engine = FakeEngine()
    with TestClient(create_app(shared, engine, Limits(grace_s=0)), raise_server_exceptions=True) as client:
        yield Served(shared, engine, client)


def test_sharers_leave_while_somebody_trains_and_their_pieces_go_when_it_ends(sharing: Served) -> None:
    home, leavers = sharing.home, list(GIVERS)
    with working(home.store.folder, "ownlm train", silent):
        for user in leavers:
            done = sharing.client.delete(f"/v1/users/me?confirm={user}", headers=sharing.token(user)).json()
            assert done["records"] and done["waiting"] == 1 and done["finished"] is False
        assert people_and_texts(home, leavers) == []
        left = sharing.client.delete(f"/v1/users/me?confirm={OTHERS[0]}", headers=sharing.token(OTHERS[0])).json()
        assert left["finished"] is True
        assert len(home.pools.waiting()) == 1 and len(leaving(home.store)) == len(leavers)
        assert any("withdrawal" in finding.what for finding in home.doctor().wrong)
    until(lambda: not leaving(home.store))
    assert home.pools.ls() == [] and not home.doctor().wrong
    assert list((home.store.folder / "pools").iterdir()) == []


def people_and_texts(home: Home, users: list[str]) -> list[str]:
    """Those of these users of whom a file of the home still has the name."""
    content = b"".join(path.read_bytes() for path in Path(home.store.folder).rglob("*") if path.is_file())
    return [user for user in users if user.encode() in content]
