"""The demo runs from start to end on a tiny base, and its tables have the users and their scores."""

import sys
from collections import Counter
from pathlib import Path

import pytest

from ownlm.home import Home

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))  # the examples are scripts beside each other, not a package

import community  # noqa: E402
import demo  # noqa: E402


@pytest.fixture
def short(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo with a tiny base and next to no training; its own settings are for SmolLM2."""
    monkeypatch.setattr(demo, "HOME", tmp_path / "home")
    monkeypatch.setattr(demo, "SOURCE", str(tiny_base))
    monkeypatch.setattr(demo, "STAGE_1", {"epochs": 1, "batch_size": 64, "learning_rate": 1e-3})
    monkeypatch.setattr(demo, "STAGE_2", {"epochs": 1, "batch_size": 40, "learning_rate": 1e-3})
    monkeypatch.setattr(demo, "SHARING", {"steps": 1, "batch_size": 4, "learning_rate": 1e-3, "gate_steps": 1})


def test_the_demo_runs_from_start_to_end(short: None, capsys: pytest.CaptureFixture[str]) -> None:
    demo.main()
    out = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.replace("┃", "│").split("│")] for line in out.splitlines()]
    by_name = {line[0]: line for line in lines if len(line) == 8}
    assert list(by_name)[:2] == ["user", "iris"] and len(by_name) == 1 + 8 + 1 + 3 + 1
    assert by_name["iris"][2] == "40" and by_name["iris"][6] == "" and by_name["iris"][7].endswith("%")
    assert by_name["quin"][2] == "20" and by_name["quin"][6].endswith("%") and by_name["quin"][7] == ""
    chosen = {line[0]: line for line in lines if len(line) == 6 and line[0] in ("quin", "rosa", "sami", "by chance")}
    assert chosen["by chance"][2:] == ["25%"] * 4 and [chosen[who][1] for who in list(chosen)[:3]] == [
        "clock", "people", "purse"]  # fmt: skip
    home = Home(demo.HOME)
    first = next(iter(home.store.digests("triage", "iris")))
    assert not home.doctor().wrong and home.forget_record("iris", first).records == 1
    latest = home.latest_adapters("triage")
    assert Counter(adapter.is_recipe for adapter in latest.values()) == {False: 8, True: 3}
    people = community.make_community(19)[8:16]
    weights = demo.weight_by_archetype(home, "quin", people)
    assert sum(weights.values()) == pytest.approx(1, abs=1e-3)
