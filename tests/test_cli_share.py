"""`ownlm share`, as it is typed."""

import json
from pathlib import Path

import pytest

from ownlm.home import Home
from tests.shared_home import SHARERS, community
from tests.shell import QuickShell

QUICK = ("--task", "sorting", "--select", "active", "--steps", "2", "--gate-steps", "3", "--lr", "0.01")


@pytest.fixture
def people(tmp_path: Path, tiny_base: Path) -> QuickShell:
    return community(tmp_path, tiny_base)


def test_a_pool_is_made_of_who_agrees(people: QuickShell) -> None:
    made = people.json("share", *QUICK, "--sharers", "3", "--gate-lr", "0.5", "--rank", "2", "--batch-size", "4")
    assert list(made) == [
        "pool", "task", "base", "version", "parent", "folder", "bytes", "candidates", "sharers", "adapters",
        "gates", "failed"]  # fmt: skip
    assert made["adapters"] == made["gates"] == {"trained": 3, "there": 0}
    assert made["sharers"] == ["dov", "cleo", "ben"] and made["candidates"] == 4  # the most records first
    assert (made["task"], made["base"], made["version"], made["parent"]) == ("sorting", "tiny", 1, None)
    folder = Path(made["folder"])
    assert made["bytes"] == sum(path.stat().st_size for path in folder.iterdir()) > 0
    manifest = json.loads((folder / "pool.json").read_text())
    assert (manifest["lora"]["r"], manifest["lora"]["lora_alpha"]) == (2, 2)
    config, gate = manifest["provenance"]["config"], manifest["provenance"]["gate"]
    assert (config["steps"], config["learning_rate"], config["batch_size"]) == (2, 0.01, 4)
    assert (gate["steps"], gate["learning_rate"], gate["batch_size"]) == (3, 0.5, 4)

    told = people.run("share", *QUICK, "--sharers", "2", "--ratio", "0.5", "--seed", "7")
    _, second = Home(people.folder / ".ownlm").pools.ls()
    assert "4 users agree to share; selected, by the number of records: dov, cleo\n" in told
    assert f"pool {second.digest[:12]}, version 1, of 2 sharers: " in told and second.folder in told
    assert "`ownlm assemble --task sorting --top-k 2`" in told  # three cannot be selected
    assert second.provenance["seed"] == 7 and second.provenance["sharing"]["ratio"] == 0.5


def test_nobody_is_trained_twice(people: QuickShell) -> None:
    people.run("share", *QUICK, "--sharers", "3")
    out, err = people.both("share", *QUICK, "--ratio", "0.5")
    assert "adapters: 1 trained, 3 were there; gates: 1 trained, 3 were there\n" in out
    assert "sharers' adapters: 3 of 4; were there\n" in err and "gates: 3 of 4; were there\n" in err
    assert "; 2 drafts, " in people.run("users", "show", "dov")
    kept = people.json("users", "show", "dov")["drafts"]
    assert [one["kind"] for one in kept] == ["adapter", "gates"] and people.json("users", "show", "eva")["drafts"] == []
    told = people.json("doctor")
    assert told["home"]["drafts"] == 8 and told["home"]["drafts_bytes"] == told["home"]["weights_bytes"] > 0
    people.run("users", "consent", "dov", "--no-share")
    assert "draft" not in people.run("users", "show", "dov")


def test_who_was_trained_and_is_in_no_pool_can_withdraw(people: QuickShell) -> None:
    home = Home(people.folder / ".ownlm")
    people.run("share", *QUICK, "--sharers", "2")
    people.run("pool", "rm", home.pools.ls()[0].digest)
    out, err = people.both("pool", "withdraw", "dov")
    assert "no pool of the home has pieces of dov" in out and "removed: 2 drafts of theirs" in out
    assert "still agrees" in err
    assert "No pool of the home" in people.run("pool", "withdraw", "dov", code=1)


def test_who_may_be_chosen_can_be_narrowed_down(people: QuickShell) -> None:
    made = people.json("share", *QUICK, "--user", "ana", "--user", "ben")
    assert made["sharers"] == ["ben", "ana"] and made["candidates"] == 2
    refused = people.json("share", *QUICK, "--user", "ana", "--user", "eva", code=1)["error"]
    assert refused["what"].endswith(": eva") and "users consent" in refused["hint"]


def test_nobody_shares_unasked(people: QuickShell) -> None:
    home = Home(people.folder / ".ownlm")
    for user in SHARERS:
        home.consent(user, False)
    error = people.run("share", *QUICK, code=1)
    assert "has agreed to share" in error and "`ownlm users consent USER --share`" in error and "Traceback" not in error
    assert home.pools.ls() == []


def test_wrong_usage_and_settings(people: QuickShell) -> None:
    assert "'ratio' is wrong" in people.run("share", *QUICK, "--ratio", "0", code=1)
    assert "no home in elsewhere" in people.run("share", *QUICK, "--home", "elsewhere", code=1)
    for wrong in (["--sharers", "0"], ["--select", "best"], ["--steps", "0"]):
        people.run("share", *QUICK, *wrong, code=2)
    assert Home(people.folder / ".ownlm").pools.ls() == []
