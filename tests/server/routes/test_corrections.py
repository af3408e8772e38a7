"""Records that a user corrects, and versions that a user goes back to, over HTTP."""

from tests.server.conftest import Served

TASK = "sorting"
HISTORY = "/v1/users/me/history"


def test_a_user_corrects_a_record_of_theirs(served: Served) -> None:
    who, one = served.token("ada"), f"{HISTORY}/ada-1?task={TASK}"
    told = served.client.patch(one, json={"changes": {"folder": "bin"}}, headers=who).json()
    assert told["record"]["fields"] == {"text": "ada secret1 said", "folder": "bin"}
    assert (told["record"]["id"], told["changed"], told["marked"], told["finished"]) == ("ada-1", ["folder"], 1, True)
    (shown,) = served.get(f"{HISTORY}?task={TASK}&id=ada-1", who)["records"]
    assert shown["fields"]["folder"] == "bin"
    for changes, what in (({"folder": "bim"}, "did you mean 'bin'"), ({"fold": "bin"}, "did you mean 'folder'")):
        refused = served.client.patch(one, json={"changes": changes}, headers=who)
        assert refused.status_code == 400 and what in refused.json()["error"]["message"], refused.text
    for path, token in ((f"{HISTORY}/no?task={TASK}", "ada"), (one, "bela")):
        refused = served.client.patch(path, json={"changes": {"folder": "bin"}}, headers=served.token(token))
        assert refused.status_code == 404 and "You have no such record" in refused.json()["error"]["message"]


def test_a_user_goes_back_to_an_earlier_version(served: Served) -> None:
    who = served.token("ada")
    served.home.train(TASK, users=["ada"], epochs=1, seed=5)
    now, before = served.get(f"/v1/users/me/adapter?task={TASK}", who)["versions"]
    told = served.client.put("/v1/users/me/adapter", json={"task": TASK, "version": before["id"]}, headers=who).json()
    assert told == {"adapter": before["id"], "task": TASK, "behind": 0}
    assert served.get(f"/v1/users/me/adapter?task={TASK}", who)["adapter"]["id"] == before["id"]
    refused = served.client.put(
        "/v1/users/me/adapter", json={"task": TASK, "version": now["id"]}, headers=served.token("bela")
    )
    assert refused.status_code == 404
