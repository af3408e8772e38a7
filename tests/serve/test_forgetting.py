"""Forgetting that cannot be finished at once is finished by the server: the person's token is gone by then."""

import time

import pytest

from ownlm.errors import StoreError
from ownlm.serve import forgetting
from ownlm.store.database import Database
from ownlm.store.forget import dues
from tests.serve.conftest import Served

PATIENCE_S = 60


@pytest.mark.parametrize("error", [StoreError("another process is reading"), OSError(28, "No space left on device")])
def test_what_could_not_be_finished_is_finished_later(
    served: Served, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "RETRY_S", 0.01)
    vacuum, failures = Database.vacuum, iter(range(3))

    def busy(database: Database) -> None:
        if next(failures, None) is not None:
            raise error
        vacuum(database)

    monkeypatch.setattr(Database, "vacuum", busy)
    done = served.client.delete("/v1/users/me?confirm=ada", headers=served.token("ada"))
    assert done.status_code == 200 and done.json()["records"] == 7 and done.json()["finished"] is False
    end = time.monotonic() + PATIENCE_S
    while True:
        with served.home.store.database.reading() as db:
            if not dues(db):
                break
        assert time.monotonic() < end
        time.sleep(0.02)
    assert next(failures, None) is None  # it was tried until it worked


def test_what_is_finished_is_told_so(served: Served) -> None:
    done = served.client.delete("/v1/users/me?confirm=bela", headers=served.token("bela")).json()
    assert done["finished"] is True
