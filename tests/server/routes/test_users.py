"""What a person may do about themselves, and never about others."""

import io
import json
import shutil
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from ownlm.home import Home
from ownlm.model.adapter import WEIGHTS
from ownlm.server.app import create_app
from ownlm.server.limits import Limits
from ownlm.store.exports import sweep_ended
from ownlm.store.jobs import add_job, end_job
from ownlm.store.tokens import give_token, tokens
from tests.server.conftest import Served
from tests.server.fake_engine import FakeEngine
from tests.shell import QuickShell

TASK = "sorting"
PATIENCE_S = 120
HISTORY = "/v1/users/me/history"


def ids(page: dict[str, list[dict[str, str]]]) -> list[str]:
    return [record["id"] for record in page["records"]]


def test_who_am_i(served: Served) -> None:
    told = served.get("/v1/users/me", served.token("ada"))
    (task,) = told["tasks"]
    assert (told["user"], told["scope"], task["records"]) == ("ada", "user", 7)
    assert task["standing"].startswith("up to date; training loss ")
    assert task["standing"].endswith(" in 1 step: it may have learnt little") and task["worth"]["verdict"] == "little"
    assert task["adapter"]["method"] == "lora" and told["consent"]["shares"] is False
    assert served.get("/v1/users/me", served.token("somebody new"))["tasks"] == []
    assert served.get("/v1/users/me", served.token(None)) == {
        "user": None, "scope": "operator", "expires": None, "consent": None, "tasks": [],
    }  # fmt: skip


def test_a_standing_goes_by_evidence_and_is_the_same_everywhere(served: Served) -> None:
    who, figures = served.token("ada"), {"base": 2.0, "adapter": 1.5, "gain": 0.5, "low": 0.2, "high": 0.8}
    for first, last, held_back, verdict in (
        (0.95, 0.07, None, None),  # of few steps, but its loss fell
        (7.9, 7.3, None, "little"),
        (7.9, 7.3, {"how": "trial", "records": 6} | figures, "better"),
        (0.95, 0.07, {"how": "last", "records": 6} | figures | {"low": -0.2}, "unclear"),
    ):
        made = served.home.latest_adapters()[TASK, "ada"]
        provenance = {**made.provenance, "held_back": held_back}
        new = replace(made, id=uuid4().hex, steps=4, loss_first=first, loss_last=last, provenance=provenance)
        assert served.home.store.add_adapters([(new, served.home.store.weights(made))]) == [None]
        told = served.get(f"/v1/users/me/adapter?task={TASK}", who)
        (mine,) = served.get("/v1/users/me", who)["tasks"]
        assert told["worth"]["verdict"] == mine["worth"]["verdict"] == verdict
        assert told["standing"] == mine["standing"] == f"up to date; {told['worth']['words']}"
        shown = "".join(QuickShell(served.home.store.folder).both("users", "show", "ada", "--home", "."))
        assert told["standing"] in " ".join(shown.split())
        assert ("little" in told["standing"]) is (verdict == "little")


def test_an_operator_has_nothing_of_their_own(served: Served) -> None:
    who = served.token(None)
    assert served.client.get(HISTORY, params={"task": TASK}, headers=who).status_code == 404
    assert served.client.delete("/v1/users/me?confirm=x", headers=who).status_code == 404


def test_tasks_say_what_they_take(served: Served) -> None:
    (task,) = served.get("/v1/tasks", served.token("ada"))["tasks"]
    assert (task["name"], task["input_fields"], task["answer_field"]) == (TASK, ["text"], "folder")
    assert task["labels"] == ["home", "work", "bin"] and task["record_fields"] == ["text", "folder"]


def test_history_comes_page_by_page_the_latest_first_and_only_ones_own(served: Served) -> None:
    who, query = served.token("ada"), f"{HISTORY}?task={TASK}&limit=3"
    first = served.get(query, who)
    assert ids(first) == ["ada-6", "ada-5", "ada-4"] and first["total"] == 7
    second = served.get(f"{query}&before={first['next']}", who)
    third = served.get(f"{query}&before={second['next']}", who)
    assert ids(second) + ids(third) == ["ada-3", "ada-2", "ada-1", "ada-0"] and third["next"] is None
    assert ids(served.get(f"{HISTORY}?task={TASK}&q=SECRET4", who)) == ["ada-4"]
    assert ids(served.get(f"{HISTORY}?task={TASK}", served.token("somebody new"))) == []
    assert ids(served.get(f"{HISTORY}?task={TASK}&id=ada-4", who)) == ["ada-4"]
    assert ids(served.get(f"{HISTORY}?task={TASK}&id=bela-4", who)) == []
    served.get(f"{HISTORY}?task=other", who, 404)


def test_records_are_added_once(served: Served) -> None:
    who, record = served.token("dora"), {"text": "dora wrote", "folder": "home", "date": "2026-01-01"}
    assert served.post(HISTORY, who, 201, task=TASK, records=[record]) == {"new": 1, "known": 0, "forgotten": 0}
    assert served.post(HISTORY, who, 201, task=TASK, records=[record]) == {"new": 0, "known": 1, "forgotten": 0}
    (found,) = served.get(f"{HISTORY}?task={TASK}", who)["records"]
    assert found["fields"] == {"text": "dora wrote", "folder": "home"} and found["time"] == "2026-01-01"
    assert len(served.home.history("dora", TASK)) == 1 and len(served.home.history("ada", TASK)) == 7


def test_bad_records_are_refused_whole_and_without_their_text(served: Served) -> None:
    who, good = served.token("dora"), {"text": "good", "folder": "bin"}
    for bad in (
        {"text": "my secret"},
        {"folder": "bin"},
        {"text": "x", "folder": "a secret folder"},
        good | {"user_id": "ada"},
        good | {"time": "soon"},
        good | {"colour": "secretly red"},
        {},
    ):
        refused = served.post(HISTORY, who, 400, task=TASK, records=[good, bad])["error"]["message"]
        assert "Record 2 of the request" in refused and "secret" not in refused and "Next: " in refused
    served.post(HISTORY, who, 400, task=TASK, records=[])
    served.post(HISTORY, who, 404, task="other", records=[good])
    changed = {"id": "ada-1", "text": "another secret", "folder": "bin"}
    assert "secret" not in json.dumps(served.post(HISTORY, served.token("ada"), 400, task=TASK, records=[changed]))
    assert served.get(f"{HISTORY}?task={TASK}", who)["total"] == 0


def test_a_person_has_so_many_records_and_no_more(home: Home) -> None:
    with TestClient(create_app(home, FakeEngine(), Limits(grace_s=0, records=8))) as client:
        served = Served(home, FakeEngine(), client)
        who, new = served.token("ada"), [{"text": f"letter {n}", "folder": "home"} for n in range(2)]
        refused = served.post(HISTORY, who, 400, task=TASK, records=new)["error"]["message"]
        assert "at most 8" in refused and served.get(f"{HISTORY}?task={TASK}", who)["total"] == 7
        assert served.post(HISTORY, who, 201, task=TASK, records=new[:1])["new"] == 1
        again = served.post(HISTORY, who, 201, task=TASK, records=new[:1])
        assert again["known"] == 1  # no more than before


def test_nobody_is_assembled_of_nothing(served: Served) -> None:
    who = served.token("ciro")
    assert "no pieces" in served.post("/v1/users/me/assemble", who, 404, task=TASK)["error"]["message"]
    assert served.get("/v1/users/me/jobs", who) == {"jobs": [], "next": None}


def test_one_record_is_forgotten_and_anothers_looks_like_none(served: Served) -> None:
    who = served.token("ada")
    answers = [served.client.delete(f"{HISTORY}/{one}?task={TASK}", headers=who) for one in ("bela-1", "nothing-1")]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert answers[0].text.replace("bela", "nothing") == answers[1].text
    done = served.client.delete(f"{HISTORY}/ada-2?task={TASK}", headers=who).json()
    assert (done["records"], done["marked"]) == (1, 1)
    assert "forgotten" in served.get(f"/v1/users/me/adapter?task={TASK}", who)["standing"]
    assert len(served.home.history("bela", TASK)) == 5


def test_a_path_that_leads_up_forgets_nobody(served: Served) -> None:
    who = served.token("ada")
    for path in (f"{HISTORY}/..", "/v1/users/me/", f"{HISTORY}/../"):  # clients shorten the first to the second
        assert served.client.delete(path, params={"task": TASK}, headers=who).status_code in (400, 404, 405)
    assert served.client.delete("/v1/users/me?confirm=bela", headers=who).status_code == 400
    assert len(served.home.history("ada", TASK)) == 7


def test_an_adapter_is_shown_and_downloaded(served: Served) -> None:
    who = served.token("ada")
    told = served.get(f"/v1/users/me/adapter?task={TASK}", who)
    assert told["adapter"] == told["versions"][0] and told["job"] is None
    assert told["adapter"]["records"] == 7 and told["adapter"]["behind"] == 0
    response = served.client.get(f"/v1/users/me/adapter/download?task={TASK}", headers=who)
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert {"adapter_config.json", WEIGHTS, "ownlm.json"} <= set(archive.namelist())
        assert json.loads(archive.read("adapter_config.json"))["base_model_name_or_path"] == "tiny"
        assert archive.read(WEIGHTS) == served.home.store.weights(served.home.latest_adapters()[TASK, "ada"])
    assert served.get(f"/v1/users/me/adapter?task={TASK}", served.token("ciro"))["adapter"] is None
    served.get(f"/v1/users/me/adapter/download?task={TASK}", served.token("ciro"), 404)
    served.get(f"/v1/users/me/adapter/pieces?task={TASK}", who, 404)


def test_what_a_killed_download_leaves_is_in_the_home_and_goes_with_the_next_server(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are written out nowhere else, such as in the system's temporary folder."""
    seen, export, who = list[Path](), Home.export, served.token("ada")

    def watched(self: Home, user: str, folder: Path, **how: Any) -> Any:
        sweep_ended(self.store)  # what a server that runs writes out stays
        seen.append(folder)
        return export(self, user, folder, **how)

    monkeypatch.setattr(Home, "export", watched)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as in a process that is killed
    assert served.client.get(f"/v1/users/me/adapter/download?task={TASK}", headers=who).status_code == 200
    monkeypatch.undo()
    (left,) = seen
    assert left.is_relative_to(served.home.store.folder) and (left / WEIGHTS).is_file()
    sweep_ended(served.home.store)
    assert list((served.home.store.folder / "served").iterdir()) == []


def test_consent_is_given_and_taken_back(served: Served) -> None:
    who, path = served.token("ada"), "/v1/users/me/consent"
    given = served.client.put(path, headers=who, json={"shares": True, "licence": "CC0-1.0"}).json()
    assert (given["shares"], given["licence"]) == (True, "CC0-1.0") and served.home.consent("ada").shares
    assert served.client.put(path, headers=who, json={"shares": False}).json()["shares"] is False
    assert served.get(path, who)["shares"] is False and not served.home.consent("ada").shares
    new = served.token("somebody new")
    assert served.get(path, new)["shares"] is False
    assert served.client.put(path, headers=new, json={"shares": True}).status_code == 404


def test_whoever_leaves_is_gone_with_all_their_tokens(served: Served) -> None:
    who, other = served.token("ada"), served.token("ada")
    done = served.client.delete("/v1/users/me", params={"confirm": "ada"}, headers=who).json()
    assert (done["records"], done["adapters"]) == (7, 1)
    for gone in (who, other):
        assert served.client.get("/v1/users/me", headers=gone).status_code == 401
    assert tokens(served.home.store, "ada") == [] and served.home.histories()[0].user == "bela"
    back = served.token("ada")  # a name may be given again; what was forgotten stays so
    answer = served.post(HISTORY, back, 201, task=TASK, records=[{"text": "ada again", "folder": "bin"}])
    assert answer == {"new": 0, "known": 0, "forgotten": 1}


def test_jobs_are_ones_own(served: Served) -> None:
    who, path = served.token("dora"), "/v1/users/me/train"
    served.post(path, who, 404, task=TASK)
    served.post(HISTORY, who, 201, task=TASK, records=[{"text": "dora wrote", "folder": "home"}])
    job = served.post(path, who, 202, task=TASK)
    assert job["kind"] == "train" and job["state"] in ("queued", "running")
    assert served.get("/v1/users/me/jobs", who)["jobs"][0]["id"] == job["id"]
    others = [served.client.get(f"/v1/users/me/jobs/{one}", headers=served.token("ada")) for one in (job["id"], "x")]
    assert [one.status_code for one in others] == [404, 404] and others[0].text == others[1].text


def test_a_job_is_cancelled_by_its_own_user_alone(served: Served) -> None:
    who, path = served.token("ciro"), "/v1/users/me/jobs"
    job = add_job(served.home.store, "train", "ciro", TASK)  # the server's thread is not woken: it stays queued
    others = [served.client.delete(f"{path}/{one}", headers=served.token("ada")) for one in (job.id, "x")]
    assert [one.status_code for one in others] == [404, 404] and others[0].text == others[1].text
    done = served.client.delete(f"{path}/{job.id}", headers=who)
    assert (done.status_code, done.json()["state"], done.json()["error"]) == (200, "cancelled", None)
    assert done.json()["ended"] and served.get(f"{path}/{job.id}", who) == done.json()
    again = served.client.delete(f"{path}/{job.id}", headers=who)
    assert again.status_code == 409 and "has ended" in again.text and again.headers["x-should-retry"] == "false"


def test_jobs_come_page_by_page_the_latest_first(served: Served) -> None:
    who, path, store = served.token("ciro"), "/v1/users/me/jobs?limit=2", served.home.store
    asked = []
    for _ in range(5):
        asked.append(add_job(store, "train", "ciro", TASK).id)
        end_job(store, asked[-1])
    add_job(store, "train", "ada", TASK)
    seen, page = [], served.get(path, who)
    while page["next"] is not None:
        seen += [job["id"] for job in page["jobs"]]
        page = served.get(f"{path}&before={page['next']}", who)
    assert seen + [job["id"] for job in page["jobs"]] == asked[::-1]


def test_headers_keep_pages_to_themselves(served: Served) -> None:
    for path in ("/healthz", "/v1/models", "/docs"):
        headers = served.client.get(path, headers=served.token("ada")).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers


def test_the_api_is_documented_without_another_host(served: Served) -> None:
    page = served.client.get("/docs").text
    assert "https://" not in page and "//cdn" not in page
    for file in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert served.client.get(f"/docs-files/{file}").status_code == 200
    paths = served.client.get("/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/users/me", "/healthz", "/metrics"} <= paths.keys()
    sent = {path: set(how["responses"]["200"]["content"]) for path, kinds in paths.items() for how in kinds.values()
            if "200" in how["responses"]}  # fmt: skip
    for path in ("/v1/chat/completions", "/v1/completions"):
        assert sent[path] == {"application/json", "text/event-stream"}
    assert sent["/v1/users/me/adapter/download"] == {"application/zip"} and sent["/metrics"] == {"text/plain"}


def test_every_result_in_json_has_a_schema_with_named_fields(served: Served) -> None:
    described = served.client.get("/openapi.json").json()
    for path, methods in described["paths"].items():
        for method, how in methods.items():
            kinds = next(one for status, one in how["responses"].items() if status.startswith("2"))["content"]
            assert kinds, (method, path)
            if "application/json" in kinds:
                name = kinds["application/json"]["schema"]["$ref"].rpartition("/")[2]
                assert described["components"]["schemas"][name]["properties"], (method, path)


def test_numbers_are_for_operators_and_name_nobody(served: Served) -> None:
    who = served.token("ada")
    served.post("/v1/chat/completions", who, model=TASK, messages=[{"role": "user", "content": "my secret"}])
    served.client.delete(f"{HISTORY}/ada-2?task={TASK}", headers=who)
    assert served.client.get("/metrics", headers=who).status_code == 403
    text = served.client.get("/metrics", headers=served.token(None)).text
    assert 'ownlm_requests_total{route="/v1/chat/completions",status="200"} 1.0' in text
    assert 'ownlm_tokens_total{kind="answer"} 4.0' in text and "ownlm_engine_live 1.0" in text
    assert "ada" not in text and "secret" not in text


def test_what_nobody_expected_tells_nothing(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise RuntimeError("a secret of ada")

    served.engine.meanwhile = broken
    asked = {"model": TASK, "messages": [{"role": "user", "content": "x"}]}
    response = served.client.post("/v1/chat/completions", headers=served.token("ada"), json=asked)
    assert response.status_code == 500 and "secret" not in response.text
    assert "RuntimeError" in caplog.text and "secret" not in caplog.text


def test_a_server_that_ends_stops_its_engine(home: Home) -> None:
    engine = FakeEngine()
    with TestClient(create_app(home, engine, Limits(grace_s=0))) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert not engine.stopped
    assert engine.stopped


def test_a_token_is_kept_as_a_hash_alone(home: Home) -> None:
    info, secret = give_token(home.store, "ada")
    home.store.database.vacuum()
    content = b"".join(path.read_bytes() for path in home.store.folder.glob("ownlm.db*"))
    assert info.id.encode() in content and secret.encode() not in content


def ended(client: TestClient, who: dict[str, str], job: str) -> Any:
    """The job, when it has ended."""
    until = time.monotonic() + PATIENCE_S
    while (made := client.get(f"/v1/users/me/jobs/{job}", headers=who).json())["ended"] is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    return made


def test_errors_say_what_to_do_next(served: Served) -> None:
    who = served.token("ciro")
    told = [
        served.get(f"/v1/users/me/adapter/download?task={TASK}", who, 404),
        served.get("/v1/users/me/jobs/none", who, 404),
        served.client.delete(f"{HISTORY}/none?task={TASK}", headers=who).json(),
        served.get("/v1/embeddings", who, 404),
        served.client.post(HISTORY, headers=who | {"Content-Type": "application/json"}).json(),
        served.post("/v1/users/me/train", who, 400, task=TASK, **{"learning-rate": 1}),
        served.post("/v1/completions", who, 400, model=TASK, prompt=["x" * 1_000_001]),
    ]
    expected = [
        "POST /v1/users/me/train", "GET /v1/users/me/jobs", "GET /v1/users/me/history", "/docs",
        "must be a JSON object", "at 'learning-rate': there is no such field", "at 'prompt",
    ]  # fmt: skip
    for one, next_step in zip(told, expected, strict=True):
        assert next_step in one["error"]["message"] and "constrained" not in json.dumps(one)
    assert served.client.head("/").status_code == 200


def test_nobody_hears_who_took_their_consent_back(shared: Home) -> None:
    shared.assemble(TASK, users=["kara"], top_k=2)
    shared.consent("hugo", False)
    with TestClient(create_app(shared, FakeEngine(), Limits(grace_s=0))) as client:
        who, new = ({"Authorization": f"Bearer {give_token(shared.store, one)[1]}"} for one in ("kara", "luca"))
        told = [client.get(f"/v1/users/me/adapter/{what}?task={TASK}", headers=who) for what in ("pieces", "download")]
        assert [one.status_code for one in told] == [409, 409]
        jobs = [
            client.post("/v1/users/me/assemble", headers=one, json={"task": TASK}).json()["id"] for one in (new, who)
        ]
        made = [ended(client, *one) for one in zip((new, who), jobs, strict=True)]  # nothing of one; the other's is old
    assert "hugo" not in json.dumps([made, *(one.json() for one in told)])
    assert [one["state"] for one in made] == ["failed", "failed"] and all(one["adapter"] is None for one in made)
    assert "cannot be used now" in made[0]["error"]["what"] and "withdrawal" in made[1]["error"]["what"]
