"""`ownlm bench run` and `show`: the whole main plan, at its smallest."""

from pathlib import Path

from ownlm.bench.plan import read_plan
from ownlm.bench.predictions import read_lamp
from ownlm.bench.results import FILE
from ownlm.bench.run import slug_of
from tests.shell import QuickShell

MAIN = Path(__file__).resolve().parents[1] / "plans" / "main.toml"


def answers(out: Path, method: str) -> dict[str, str]:
    """What a method answered, by query."""
    (file,) = (out / "predictions" / "triage").glob(f"{slug_of(method)}-seed-0-*.lamp.json")
    return read_lamp(file).outputs


def test_the_whole_main_plan_at_its_smallest(tmp_path: Path) -> None:
    quick = QuickShell(tmp_path)
    ran = quick.json("bench", "run", MAIN, "out", "--size", "tiny")
    names = [method.name for method in read_plan(MAIN, "tiny").methods]
    (one,) = ran["sets"]
    assert [method["name"] for method in one["methods"]] == names
    for method in one["methods"]:
        assert set(method["scores"]) == {"accuracy", "f1_macro"}
        assert (method["differences"] == {}) == (method["name"] == "adapted base")
    said = {name: answers(tmp_path / "out", name) for name in names}
    base = said["adapted base"]
    for name in ("own adapter, k=0", "own (IA)3", "nearest sharer's adapter", "averaged sharers", "Arrow routing"):
        assert said[name] != base, name  # a method that forgot its adapter would answer as the base does
    assert said["pieces, product, k=0"] != base != said["pieces, factors, k=0"]
    assert said["nearest sharer's adapter"] != said["averaged sharers"]  # each has another's
    costs = {method["name"]: method["costs"] for method in one["methods"]}
    assert costs["own adapter, k=0"]["train_tokens"] > 0 and costs["own adapter, k=0"]["assemble_seconds"] is None
    assert costs["pieces, product, k=0"]["assemble_seconds"] > 0
    assert costs["pieces, product, k=0"]["bytes_per_user"] < costs["own adapter, k=0"]["bytes_per_user"]
    assert quick.json("bench", "show", "out") == ran
    told = quick.run("bench", "show", "out")
    assert all(name in told for name in names) and "triage: quality" in told and "80% power" in told
    assert "random weights" in told and "by the users' number" not in told
    assert quick.run("bench", "show", "out", "--activity") == told  # all are about equally active
    again = quick.run("bench", "run", MAIN, "out", "--size", "tiny")
    assert "report.html" in again
    (tmp_path / "out" / FILE).write_text("{}", "utf8")
    assert "damaged" in quick.run("bench", "show", "out", code=1)


def test_clear_errors(tmp_path: Path) -> None:
    quick = QuickShell(tmp_path)
    assert "no file" in quick.run("bench", "run", "nothing.toml", "out", code=1)
    assert "no size 'huge'" in quick.run("bench", "run", MAIN, "out", "--size", "huge", code=1)
    assert "There are no results" in quick.run("bench", "show", "out", code=1)
    assert not (tmp_path / "out").exists()
