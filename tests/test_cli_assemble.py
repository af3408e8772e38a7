"""`ownlm assemble`, and what comes after it, as it is typed."""

import json
import shutil
from pathlib import Path

import pytest

from ownlm.home import Home
from tests.community import rows, write_rows
from tests.shared_home import OTHERS, SHARERS, community, share
from tests.shell import QuickShell

SORTING = ("--task", "sorting")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    shell = community(tmp_path_factory.mktemp("made"), tiny_base)
    share(shell)
    return shell.folder


@pytest.fixture
def shared(made: Path, tmp_path: Path) -> QuickShell:
    """A home with a pool of four; what is done in it stays there."""
    return QuickShell(Path(shutil.copytree(made, tmp_path / "home")))


def test_assembling_in_json_and_again(shared: QuickShell) -> None:
    report = shared.json("assemble", *SORTING)
    assert list(report) == ["assembled", "stale", "skipped", "failed"]
    assert [row["user"] for row in report["assembled"]] == list(OTHERS)
    row = report["assembled"][0]
    assert list(row) == ["user", "recipe", "bytes", "records", "seconds", "top_sharers", "kept"]
    (adapter,) = Home(shared.folder / ".ownlm").adapters("eva")
    assert (row["recipe"], row["bytes"], row["records"], row["kept"]) == (adapter.id, adapter.bytes, 15, None)
    assert len(row["top_sharers"]) == 3 and 0.5 < sum(one["share"] for one in row["top_sharers"]) <= 1.001
    assert {len(one["sharer"]) for one in row["top_sharers"]} == {16}
    assert sorted(one["user"] for one in report["skipped"]) == list(SHARERS)
    again = shared.json("assemble", *SORTING)
    assert again["assembled"] == [] and len(again["skipped"]) == 6
    assert shared.json("ask", "eva", "thing", *SORTING, "--choose")["adapter"] == adapter.id


def test_assembling_for_people(shared: QuickShell) -> None:
    write_rows(shared.folder / "more.jsonl", rows("gus", 3), rows("eva", 16))
    out = shared.run("assemble", "more.jsonl", *SORTING, "--adapt-steps", "2", "--user", "eva", "--user", "gus")
    assert "sorting: 19 records of 2 users, 4 of them new" in out and "2 recipes\n" in "\n".join(
        line.strip() for line in out.splitlines()) + "\n"  # fmt: skip
    assert "sharers that weigh most" in out and "kept" in out and "%" in out
    kept = {one.user: one.provenance.get("kept") for one in Home(shared.folder / ".ownlm").adapters()}
    assert kept["gus"] is None and kept["eva"] in ("base", "assembled", "adapted")  # of three records none is held back
    assert "skipped 4: is a sharer of this pool" in shared.run("assemble", *SORTING, "--top-k", "2")
    shown = shared.run("users", "show", "gus")
    (pool,) = Home(shared.folder / ".ownlm").pools.ls()
    assert f"pool {pool.digest[:12]}" in shown and "`ownlm users show --plot FILE.png gus`" in shown


def test_one_persons_failure_stops_nobody(shared: QuickShell) -> None:
    broken = [{"user_id": "long", "id": "r", "text": "x" * 5000, "folder": "bin"}]
    write_rows(shared.folder / "broken.jsonl", broken, rows("gus", 3))
    out, err = shared.both("assemble", "broken.jsonl", *SORTING, code=1)
    assert "gus" in out and "failed: long: " in err
    report = shared.json("assemble", *SORTING, code=1)
    assert [row["user"] for row in report["failed"]] == ["long"] and report["assembled"] == []


def test_settings_that_cannot_be(shared: QuickShell) -> None:
    error = shared.json("assemble", *SORTING, "--pool", "abc", code=1)["error"]
    assert error["error"] == "NotFoundError" and "no pool abc" in error["what"] and "pool ls" in error["hint"]
    assert "4 sharers, top_k 5" in shared.run("assemble", *SORTING, "--top-k", "5", code=1)
    assert "'tau' is wrong" in shared.run("assemble", *SORTING, "--tau", "0", code=1)
    assert "adapt_steps" in shared.run("assemble", *SORTING, "--residual-rank", "1", code=1)
    for wrong in (["--top-k", "0"], ["--combine", "sum"], ["--recent", "0"]):
        shared.run("assemble", *SORTING, *wrong, code=2)
    assert Home(shared.folder / ".ownlm").adapters() == []


def test_without_a_pool(tmp_path: Path, tiny_base: Path) -> None:
    error = community(tmp_path, tiny_base).run("assemble", *SORTING, code=1)
    assert "no pool of task 'sorting'" in error and "make one: `ownlm share --task sorting`" in error


def test_a_stale_assembly_is_told_once_a_person(shared: QuickShell) -> None:
    home = Home(shared.folder / ".ownlm")
    home.assemble("sorting", top_k=4)
    home.pools.withdraw("ana", again=False)
    queries = [{"user_id": user, "id": f"{user}{n}", "text": "thing"} for user in OTHERS for n in range(2)]
    write_rows(shared.folder / "queries.jsonl", queries)
    out, err = shared.both("ask", "--file", "queries.jsonl", *SORTING, "--choose", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == 4 and all("is stale" in line["warning"] and line["adapter"] is None for line in lines)
    assert [line.split("'")[1] for line in err.splitlines() if line.startswith("warning: ")] == list(OTHERS)
    out, err = shared.both("ask", "eva", "thing", *SORTING, "--choose")
    assert out.strip() in ("home", "work", "bin") and "`ownlm assemble --task sorting --user eva`" in err
    shared.run("assemble", *SORTING)
    out, err = shared.both("ask", "eva", "thing", *SORTING, "--choose", "--json")
    assert "warning" not in json.loads(out) and "warning" not in err


def test_a_recipe_is_exported_whole_or_smaller(shared: QuickShell) -> None:
    Home(shared.folder / ".ownlm").assemble("sorting")
    whole = shared.json("users", "export", "eva", "whole")
    assert (whole["rank"], whole["relative_error"]) == (None, 0)
    shape = json.loads((shared.folder / "whole" / "adapter_config.json").read_text())
    assert shape["r"] == 24
    small = shared.json("users", "export", "eva", "small", "--rank", "2")
    assert json.loads((shared.folder / "small" / "adapter_config.json").read_text())["r"] == 2
    assert small["rank"] == 2 and 0 < small["relative_error"] < 1
    told = shared.run("users", "export", "eva", "words", "--rank", "2")
    assert f"relative error of its updates: {small['relative_error']:.2%}" in told and "the recipe" in told
