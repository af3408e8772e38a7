"""`ownlm pool`, and pictures of what is used, as they are typed."""

import shutil
from pathlib import Path

import pytest

from ownlm.home import Home
from ownlm.perpcs.signing import fingerprint, new_key
from ownlm.perpcs.version import without
from tests.community import home_on, rows, write_rows, write_task
from tests.shared_home import OTHERS, community, share
from tests.shell import QuickShell

PNG = b"\x89PNG\r\n\x1a\n"
MODULES = 2 * 4  # of the tiny base


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    shell = community(tmp_path_factory.mktemp("made"), tiny_base)
    share(shell)
    Home(shell.folder / ".ownlm").assemble("sorting", top_k=2)
    return shell.folder


@pytest.fixture
def shared(made: Path, tmp_path: Path) -> QuickShell:
    """A home with a pool of four, and two people assembled."""
    return QuickShell(Path(shutil.copytree(made, tmp_path / "home")))


def home_of(shell: QuickShell) -> Home:
    return Home(shell.folder / ".ownlm")


def test_pools_are_listed_and_shown(shared: QuickShell) -> None:
    (row,) = shared.json("pool", "ls")
    assert (row["version"], row["sharers"], row["own"], row["task"]) == (1, 4, True, "sorting") and row["bytes"] > 0
    assert row["pool"][:12] in shared.run("pool", "ls", "--task", "sorting")
    shown = shared.json("pool", "show", row["pool"][:6])
    assert (shown["rank"], shown["layers"], shown["licence"], shown["recipes"]) == (8, 2, "CC-BY-4.0", 2)
    assert shown["modules"] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert [one["pieces"] for one in shown["sharers"]] == [MODULES] * 4
    uses = [one["uses"] for one in shown["sharers"]]
    assert sum(uses) == 2 * MODULES * 2 and uses == sorted(uses, reverse=True)  # two recipes of two pieces a module
    told = shared.run("pool", "show")
    assert "32 pieces of 4 sharers" in told and "rank 8, q_proj, k_proj, v_proj, o_proj of 2 layers" in told
    assert all(one["sharer"] in told for one in shown["sharers"]) and "in 2 recipes of this home" in told
    assert "no pool abc" in shared.run("pool", "show", "abc", code=1)


def test_there_is_no_pool_yet(tmp_path: Path, tiny_base: Path) -> None:
    empty = community(tmp_path, tiny_base)
    assert empty.json("pool", "ls") == [] and "no pool yet: `ownlm share --task T`" in empty.run("pool", "ls")
    assert "`ownlm share" in empty.run("pool", "show", code=1)


def test_a_pool_is_checked_before_and_after_it_is_taken_in(shared: QuickShell, tmp_path: Path, tiny_base: Path) -> None:
    (pool,) = home_of(shared).pools.ls()
    assert shared.json("pool", "verify", pool.digest[:8])["base"] == "tiny"
    published = Path(shutil.copytree(pool.folder, tmp_path / "published"))
    out, err = shared.both("pool", "verify", published, "--home", "elsewhere")
    assert "whole" in out and "not checked against their base" in err

    Home(tmp_path / "other" / ".ownlm").add_base(str(tiny_base), "small")
    shutil.copy(shared.folder / "sorting.toml", tmp_path / "other")
    other = QuickShell(tmp_path / "other")
    taken = other.run("pool", "add", published, "--task", "sorting.toml")
    assert pool.digest[:12] in taken and "on the base small" in taken
    (row,) = other.json("pool", "ls")
    assert row["pool"] == pool.digest and not row["own"] and row["folder"] != str(published)
    assert "already" in other.run("pool", "add", published, "--task", "sorting", code=1)

    path = next(published.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for command in (["verify", published], ["add", published, "--task", "sorting"]):
        error = other.run("pool", *command, code=1)
        assert "are damaged" in error and "Traceback" not in error


def test_who_withdraws_is_gone_and_others_are_assembled_anew(shared: QuickShell) -> None:
    home = home_of(shared)
    home.assemble("sorting", top_k=3)
    (old,) = home.pools.ls()
    done = shared.json("pool", "withdraw", "ana")
    assert list(done) == [
        "sharers", "drafts", "pools", "affected", "untouched", "assembled", "stale", "skipped", "failed",
        "unfinished"]  # fmt: skip
    assert done["drafts"] == 2 and done["unfinished"] is None
    (new,) = home.pools.ls()
    assert done["pools"] == [{"old": old.digest, "new": new.digest, "version": 2}] and not Path(old.folder).exists()
    assert len(done["sharers"]) == 1 and done["stale"] == done["failed"] == []
    assert sorted(row["user"] for row in done["assembled"]) == sorted(done["affected"])

    home.assemble("sorting", users=OTHERS, top_k=3)  # of three that are left
    out, err = shared.both("pool", "withdraw", "ben", "--leave-stale")
    assert "version 3" in out and "their bytes are removed" in out and "ben still agrees to share" in err
    assert "stale: eva, finn: a sharer withdrew pieces that it uses; the base answers" in err

    home.assemble("sorting", users=OTHERS, top_k=2)
    done = shared.json("pool", "withdraw", "cleo")  # dov alone is left: two cannot be selected
    assert [row["user"] for row in done["stale"]] == list(OTHERS) and done["assembled"] == done["failed"] == []
    assert "is gone: no sharer was left" in shared.run("pool", "withdraw", "dov")
    assert shared.json("pool", "ls") == []
    assert "has pieces of 'dov'" in shared.run("pool", "withdraw", "dov", code=1)


def test_pictures_of_a_person_and_a_pool(shared: QuickShell) -> None:
    folder = shared.folder
    told = shared.run("users", "show", "eva", "--plot", "eva.png")
    assert "eva.png: the pieces" in told and (folder / "eva.png").read_bytes().startswith(PNG)
    assert shared.json("users", "show", "eva", "--plot", "eva.svg")["plot"] == "eva.svg"
    assert b"<svg" in (folder / "eva.svg").read_bytes()
    assert "pool.png: how often" in shared.run("pool", "show", "--plot", "pool.png")
    assert (folder / "pool.png").read_bytes().startswith(PNG)
    home_of(shared).train("sorting", users=["eva"], epochs=1)
    error = shared.run("users", "show", "eva", "--plot", "own.png", code=1)
    assert "was trained" in error and "`ownlm assemble --task sorting --user eva`" in error
    assert "no folder nowhere" in shared.run("users", "show", "finn", "--plot", "nowhere/a.png", code=1)
    assert "the suffix '.odd'" in shared.run("pool", "show", "--plot", "a.odd", code=1)
    assert "no user 'nobody'" in shared.run("users", "show", "nobody", "--plot", "own.png", code=1)
    home_of(shared).pools.withdraw("ana", again=False)
    home_of(shared).pools.withdraw("ben", again=False)
    home_of(shared).train("sorting", users=["finn"], epochs=1)
    assert "nothing to draw" in shared.run("pool", "show", "--plot", "none.png", code=1)
    assert sorted(path.name for path in folder.iterdir() if "png" in path.name) == ["eva.png", "pool.png"]


def test_the_newest_is_checked_and_a_place_where_there_is_none_is_told(shared: QuickShell, tmp_path: Path) -> None:
    (pool,) = home_of(shared).pools.ls()
    assert shared.json("pool", "verify")["pool"] == pool.digest
    assert "nor such a folder" in shared.run("pool", "verify", "./nowhere", code=1)
    neither = shared.run("pool", "verify", "./nowhere", "--home", "elsewhere", code=1)
    assert "neither a folder ./nowhere nor a home in elsewhere" in neither
    assert "no home in elsewhere" in shared.run("pool", "verify", "--home", "elsewhere", code=1)
    empty = community(tmp_path / "empty", Path(home_of(shared).bases()[0].folder))
    assert "The home has no pool. Next: make one: `ownlm share" in empty.run("pool", "verify", code=1)


def test_every_id_that_is_shown_short_is_taken_short(shared: QuickShell) -> None:
    (pool,) = home_of(shared).pools.ls()
    short = pool.digest[:12]
    assert short in shared.run("pool", "ls") and short in shared.run("users", "show", "eva")
    assert shared.json("pool", "show", short)["pool"] == shared.json("pool", "verify", short)["pool"] == pool.digest
    assert shared.json("assemble", "--task", "sorting", "--pool", short)["failed"] == []
    ladder = ("train", "--task", "sorting", "--ladder", "--pool", short, "--epochs", "1")
    assert {row["rung"] for row in shared.json(*ladder, "--dry-run")["ladder"]} == {"own", "adapted"}
    (row,) = [row for row in shared.json("assemble", "--task", "sorting", "--user", "eva", "--seed", "1")["assembled"]]
    sharer = row["top_sharers"][0]["sharer"]
    assert shared.json("pool", "withdraw", sharer[:6], "--leave-stale")["sharers"] == [sharer]


def test_a_pool_is_removed_when_nobody_uses_it(shared: QuickShell) -> None:
    (pool,) = home_of(shared).pools.ls()
    error = shared.json("pool", "rm", pool.digest[:12], code=1)["error"]
    assert "recipes of 2 users" in error["what"] and error["got"] == "eva, finn"
    assert "train these users" in error["hint"]
    for user in OTHERS:
        shared.json("users", "forget", user)
    assert f"pool {pool.digest[:12]}, version 1, of 4 sharers" in shared.run("pool", "rm", pool.digest[:12])
    assert shared.json("pool", "ls") == [] and not Path(pool.folder).exists()
    assert "no pool" in shared.run("pool", "rm", pool.digest[:12], code=1)


def test_consent_taken_back_is_seen_wherever_somebody_waits(shared: QuickShell) -> None:
    (pool,) = home_of(shared).pools.ls()
    assert [row["standing"] for row in shared.json("users", "ls") if row["method"]] == ["", ""]
    assert shared.run("users", "ls").count("up to date") == 2
    _, err = shared.both("users", "consent", "ana", "--no-share")
    assert f"1 pool of this home: {pool.digest[:12]}. Until `ownlm pool withdraw ana`" in err
    waits = "waits for a withdrawal: a sharer took their consent back"
    assert "waits for a withdrawal" in shared.run("users", "ls")
    assert [row["standing"] for row in shared.json("users", "ls") if row["method"]] == [waits] * 2
    shown = shared.run("users", "show", "eva")
    assert f"{waits}; the base answers. `ownlm doctor` says whose" in shown and "--plot" not in shown
    told = shared.run("assemble", "--task", "sorting", "--top-k", "2", "--user", "eva", "--user", "finn")
    assert f"skipped 2: {waits}" in told and "up to date" not in told
    assert not any("ana" in text for text in (told, shown))
    assert "`ownlm pool withdraw ana`" in shared.run("doctor")
    shared.run("pool", "withdraw", "ana")
    assert [row["standing"] for row in shared.json("users", "ls") if row["method"]] == ["", ""]


def test_who_has_no_adapter_is_told_how_to_get_one(shared: QuickShell, tmp_path: Path) -> None:
    shown = shared.run("users", "show", "ana")
    one = "--task sorting --user ana"
    assert f"no adapter yet: `ownlm train {one}`, or `ownlm assemble {one}`, makes one" in shown
    assert "Adapters" not in shown and "Adapters, newest first" in shared.run("users", "show", "eva")
    empty = community(tmp_path / "empty", Path(home_of(shared).bases()[0].folder))
    assert f"no adapter yet: `ownlm train {one}` makes one" in empty.run("users", "show", "ana")
    assert "none" in empty.run("users", "ls")


def test_what_was_best_of_an_adapted_recipe_is_listed(shared: QuickShell) -> None:
    home_of(shared).assemble("sorting", users=["eva"], adapt_steps=8)
    kept = home_of(shared).adapters("eva")[-1].provenance["kept"]
    told = {"adapted": "recipe, adapted", "base": "recipe, but the base answers", "assembled": "recipe "}[kept]
    assert told in shared.run("users", "ls") and told in shared.run("users", "show", "eva")


@pytest.mark.parametrize("command", ["assemble", "train", "train --ladder"])
def test_what_was_added_before_a_failure_is_told(shared: QuickShell, command: str) -> None:
    write_rows(shared.folder / "new.jsonl", rows("gus", 3))
    line = (*command.split(), "new.jsonl", "--task", "sorting", "--user", "nowhere")
    _, err = shared.both(*line, code=1)
    assert "3 records of 1 user stay in the home" in err and "user 'nowhere'" in err
    assert [row["user"] for row in shared.json("history", "ls")][-1] == "gus"
    error = shared.json(*line, code=1)["error"]
    assert "nowhere" in error["what"]
    _, err = shared.both(*command.split(), "none.jsonl", "--task", "sorting", code=1)
    assert "all the same" not in err


def test_who_made_a_pool_is_shown_wherever_it_is(shared: QuickShell, tmp_path: Path, tiny_base: Path) -> None:
    (pool,) = home_of(shared).pools.ls()
    key, digest = fingerprint(pool.publisher), pool.digest
    assert shared.json("pool", "ls")[0]["signed_by"] == key and str(key) in shared.run("pool", "ls")
    assert shared.json("pool", "show")["signed_by"] == key == shared.json("pool", "verify")["signed_by"]
    assert f"signed with the key {key}, which shows who made it; SHA-256 {digest}" in shared.run("pool", "show")
    assert f"signed with the key {key}" in shared.run("pool", "verify")
    other = QuickShell(tmp_path / "other")
    other.folder.mkdir()
    home_on(tiny_base, other.folder / ".ownlm")
    write_task(other.folder)
    line = ("pool", "add", pool.folder, "--task", "sorting.toml")
    assert "Invalid digest" in other.run(*line, "--digest", "abc", code=1)
    assert "has another digest" in other.run(*line, "--digest", "0" * 64, code=1)
    assert "has another digest" in other.run("pool", "verify", pool.folder, "--digest", "0" * 64, code=1)
    assert f"signed with the key {key}, seen here for the first time" in other.run(*line, "--digest", digest)
    taken = other.json("pool", "ls")[0]
    assert (taken["signed_by"], taken["publisher"]) == (key, pool.publisher)


def test_another_key_is_refused_and_can_be_trusted(shared: QuickShell, tmp_path: Path) -> None:
    home = home_of(shared)
    (pool,) = home.pools.ls()
    opened = home.pools.open()[1]
    forged = without(opened, opened.manifest.sharers[:1], tmp_path / "my pool", new_key(), opened.manifest.line)
    key = fingerprint(forged.manifest.publisher)
    error = shared.json("pool", "add", forged.folder, "--task", "sorting", code=1)["error"]
    assert error["got"] == f"the key {key}" and error["expected"] == f"the key {fingerprint(pool.publisher)}"
    assert f"`ownlm pool trust --key {key} '{forged.folder}'`" in error["hint"]
    assert shared.json("pool", "trust", forged.folder, "--key", key)["before"] == [fingerprint(pool.publisher)]
    assert "which this home knows" in shared.run("pool", "add", forged.folder, "--task", "sorting")
