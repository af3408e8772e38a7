"""`ownlm pool`, and pictures of what is used, as they are typed."""

import shutil
from pathlib import Path

import pytest

from ownlm.home import Home
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
    assert list(done) == ["sharers", "pools", "affected", "untouched", "assembled", "stale", "skipped", "failed"]
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
    assert "is gone: nobody was left in it" in shared.run("pool", "withdraw", "dov")
    assert shared.json("pool", "ls") == []
    assert "has pieces of 'dov'" in shared.run("pool", "withdraw", "dov", code=1)


def test_pictures_of_a_person_and_a_pool(shared: QuickShell) -> None:
    folder = shared.folder
    told = shared.run("users", "show", "eva", "--plot", "eva.png")
    assert "eva.png: whose pieces" in told and (folder / "eva.png").read_bytes().startswith(PNG)
    assert shared.json("users", "show", "eva", "--plot", "eva.svg")["plot"] == "eva.svg"
    assert b"<svg" in (folder / "eva.svg").read_bytes()
    assert "pool.png: how often" in shared.run("pool", "show", "--plot", "pool.png")
    assert (folder / "pool.png").read_bytes().startswith(PNG)
    home_of(shared).train("sorting", users=["eva"], epochs=1)
    error = shared.run("users", "show", "eva", "--plot", "own.png", code=1)
    assert "was trained" in error and "`ownlm assemble --task sorting --user eva`" in error
    assert "no folder nowhere" in shared.run("users", "show", "finn", "--plot", "nowhere/a.png", code=1)
    assert "the suffix '.odd'" in shared.run("pool", "show", "--plot", "a.odd", code=1)
    assert "'nobody' has no adapter" in shared.run("users", "show", "nobody", "--plot", "own.png", code=1)
    home_of(shared).pools.withdraw("ana", again=False)
    home_of(shared).pools.withdraw("ben", again=False)
    home_of(shared).train("sorting", users=["finn"], epochs=1)
    assert "nothing to draw" in shared.run("pool", "show", "--plot", "none.png", code=1)
    assert sorted(path.name for path in folder.iterdir() if "png" in path.name) == ["eva.png", "pool.png"]
