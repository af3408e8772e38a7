"""Consent, and people with recipes, as they are typed."""

import re
import shutil

from ownlm.home import Home
from ownlm.store.pools import replace_pool
from tests.sharing import put_pool, put_recipe, sharer_id
from tests.shell import QuickShell


def test_consent_is_recorded_and_told(shell: QuickShell) -> None:
    shell.run("history", "add", "people.jsonl", "--task", "sorting.toml")
    consent = ("users", "consent", "ada")
    assert shell.json(*consent) == {"user": "ada", "shares": False, "licence": None, "since": None, "pools": []}
    assert "does not share" in shell.run(*consent) and "does not share" in shell.run("users", "show", "ada")
    assert shell.json("users", "show", "ada")["consent"] is None
    given = shell.json(*consent, "--share")
    assert given["shares"] is True and given["licence"] == "CC-BY-4.0" and given == shell.json(*consent)
    assert shell.json("users", "show", "ada")["consent"] == {"licence": "CC-BY-4.0", "since": given["since"]}
    told = shell.run(*consent, "--share", "--licence", "for my [b]team[/b] only")
    assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d \(UTC\), under this licence: for my \[b\]team\[/b\] only", told)
    assert "for my [b]team[/b] only" in shell.run("users", "show", "ada")
    for _ in range(2):
        assert "does not share" in shell.run(*consent, "--no-share")
    assert shell.json("users", "forget", "ada")["records"] == 7


def test_wrong_usage_and_clear_errors(shell: QuickShell) -> None:
    shell.run("history", "add", "people.jsonl", "--task", "sorting.toml")
    consent = ("users", "consent", "ada")
    for wrong in (["--licence", "CC0"], ["--no-share", "--licence", "CC0"], ["--share", "--licence"], ["bela"]):
        shell.run(*consent, *wrong, code=2)
    assert "no user 'nobody'" in shell.run("users", "consent", "nobody", "--share", code=1)
    assert shell.json("users", "consent", "nobody", code=1)["error"]["error"] == "NotFoundError"
    assert "licence is empty" in shell.run(*consent, "--share", "--licence", " ", code=1)
    assert not shell.json(*consent)["shares"]


def test_a_person_with_a_recipe_is_listed_shown_and_trained(shell: QuickShell) -> None:
    shell.run("history", "add", "people.jsonl", "--task", "sorting.toml")
    home = Home(shell.folder / ".ownlm")
    pool = put_pool(home, "bela", "ciro")
    made = put_recipe(home, "ada", pool)
    assert "recipe" in shell.run("users", "ls")
    (row,) = [row for row in shell.json("users", "ls") if row["user"] == "ada"]
    assert (row["method"], row["bytes"], row["stale"]) == ("recipe", len(b"recipe 1 of ada"), False)
    for options, expected in ((["--adapter"], ["ada"]), (["--up-to-date"], ["ada"]), (["--stale"], []),
                              (["--no-adapter"], ["bela", "ciro"]), (["--sort", "adapter", "--limit", "1"], ["ada"]),
                              (["--consent"], ["bela", "ciro"])):  # fmt: skip
        assert [row["user"] for row in shell.json("users", "ls", *options)] == expected
    assert "the recipe a1 is up to date" in shell.run("users", "show", "ada")
    (shown,) = shell.json("users", "show", "ada")["adapters"]
    assert "recipe" not in shown and shown["recipe_bytes"] == len(made.recipe or b"") and shown["pool"] == pool.digest
    assert "recipe is damaged" in shell.run("users", "export", "ada", "out", code=1)
    assert "recipe is damaged" in shell.run("ask", "ada", "thing", "--task", "sorting", code=1)

    replace_pool(
        home.store,
        pool.digest,
        None,
        {},
        {made.id: "too few sharers"},
        withdrawn=[sharer_id("bela"), sharer_id("ciro")],
    )
    shutil.rmtree(pool.folder)
    told = shell.run("users", "show", "ada")
    assert "recipe a1 is behind: stale: too few sharers. `ownlm assemble --task sorting --user ada`" in told
    assert [row["standing"] for row in shell.json("users", "ls")] == ["stale: too few sharers", "", ""]
    assert [row["user"] for row in shell.json("users", "ls", "--stale")] == ["ada"]
    assert shell.json("users", "ls", "--up-to-date") == []
    assert "`ownlm assemble --task sorting`" in shell.run("doctor")
    report = shell.json("train", "--task", "sorting", "--epochs", "1", "--user", "ada")
    assert [row["parent"] for row in report["trained"]] == [None] and report["anew"] == []
    (adapter,) = shell.json("users", "show", "ada")["adapters"]  # what was stale made room
    assert adapter["method"] == "lora" and adapter["recipe_bytes"] is None


def test_pieces_that_lie_in_a_pool_are_told_of_and_go_with_the_person(shell: QuickShell) -> None:
    shell.run("history", "add", "people.jsonl", "--task", "sorting.toml")
    pool = put_pool(Home(shell.folder / ".ownlm"), "bela")
    out, err = shell.both("users", "consent", "bela", "--no-share")
    assert "bela does not share" in out and f"remain in 1 pool of this home: {pool.digest[:12]}. Until" in err
    assert "Until `ownlm pool withdraw bela` removes them, no user is assembled from there" in err
    out, err = shell.both("history", "forget", "bela", "--record", "bela-0")
    assert "removed: 1 record" in out
    assert "pieces in 1 pool may have learnt from it: `ownlm pool withdraw bela` removes them" in err
    assert len(shell.json("history", "forget", "bela", "--record", "bela-1")["pools"]) == 1
    assert shell.json("users", "forget", "bela")["records"] == 2  # and the pool, of which nobody is left
    assert len(shell.json("users", "ls")) == 2 and not list((shell.folder / ".ownlm" / "pools").iterdir())
