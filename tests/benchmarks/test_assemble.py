"""The benchmark of assembling: the same people for all methods, sane pools, figures that follow from measured ones."""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import assemble as benchmark
import charts
import record
from bases import open_base
from timing import run_child

from ownlm.model.base import BaseLM
from ownlm.model.targets import target_modules
from ownlm.perpcs.admission import admit
from ownlm.perpcs.pool import open_pool
from ownlm.presets import SHARED

OWN, PEER = benchmark.TRAINED


def asked_for(**changes: Any) -> Namespace:
    """Options of a very small run."""
    options = {
        "set": "huffpost_category", "users": 3, "sharers": 4, "records": 2, "epochs": 1, "peer_users": None, "slots": 2,
        "tokens": None, "base": "tiny", "device": "cpu", "fill": False, "pool": None,
    }  # fmt: skip
    return Namespace(**options | changes)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where results go; turns are taken in this process."""

    def here(asked: Namespace, name: str, **changes: Any) -> dict[str, Any]:
        turn = benchmark.take_turn(Namespace(**vars(asked) | changes | {"only": name}))
        return json.loads(json.dumps(turn))

    monkeypatch.setattr(benchmark, "in_child", here)
    for module in (record, charts):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def base() -> BaseLM:
    return open_base("tiny", "cpu")[0]


def test_a_random_pool_is_fit_for_its_base(base: BaseLM) -> None:
    with benchmark.random_pool(asked_for(), SHARED, sharers=4) as folder:
        pool, modules = open_pool(folder), dict(target_modules(base.model, SHARED))
        admit(pool, modules, base.fingerprint)
        assert pool.modules == tuple(modules)
        for name, module in modules.items():
            A_NRD, B_NOR, gate_ND = pool.whole(name)
            assert A_NRD.shape[0] == 4 and A_NRD.abs().max() <= module.in_features**-0.5
            assert (B_NOR.flatten(1).norm(dim=1) > 0).all() and B_NOR.abs().max() < 0.1
            assert len(torch.unique(gate_ND, dim=0)) == 4
    assert not folder.exists()


def test_methods_get_the_same_people_and_the_peer_some_of_them(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft")
    benchmark.compare(asked_for(peer_users=1))
    (path,) = results.iterdir()
    assert path.name == "assemble_huffpost_category_tiny.json"
    kept = json.loads(path.read_text())
    turns = kept["methods"]
    assert {name: turn["users"] for name, turn in turns.items()} == {
        "assembled": 3, "assembled, q and v": 3, OWN: 3, PEER: 1
    }  # fmt: skip
    assert turns["assembled"]["tokens"] == turns["assembled, q and v"]["tokens"] == turns[OWN]["tokens"]
    assert turns[PEER]["tokens"] < turns[OWN]["tokens"]
    assert [(turns[name]["sharers"], turns[name]["modules"]) for name in benchmark.ASSEMBLED] == [(4, 8), (4, 4)]
    assert 8 * 3 * 4 < turns["assembled"]["bytes_a_user"] < 8 * 3 * 4 + 16  # modules, pieces, a place and a weight
    numbers = 8 * 2 * (64 + 64 + 64 + 32)  # rank, layers, D and O of q and of v
    for name in (OWN, PEER):
        assert 4 * numbers < turns[name]["bytes_a_user"] < 4 * numbers + 2000
    assert "1 of the users, scaled by tokens" in capsys.readouterr().out


def test_epochs_that_were_not_measured_are_multiples_of_the_training() -> None:
    done = {
        "assembled": {
            "tokens": 100,
            "users": 4,
            "seconds": {"load": 50.0, "open": 9.0, "assemble": 1.5, "export": 0.5},
        },
        OWN: {"tokens": 100, "users": 4, "epochs": 2, "seconds": {"train": 8.0, "export": 1.0}},
        PEER: {"tokens": 25, "users": 1, "epochs": 1, "seconds": {"wrap": 1.0, "train": 10.0, "export": 1.0}},
    }
    rows = {(row["method"], row["epochs"]): row for row in benchmark.faster_by(done)}
    assert {key: row["seconds"] for key, row in rows.items()} == {
        (OWN, 1): 4 + 1, (OWN, 2): 8 + 1, (OWN, 4): 16 + 1,
        (PEER, 1): 4 * (1 + 10 + 1), (PEER, 2): 4 * (1 + 20 + 1), (PEER, 4): 4 * (1 + 40 + 1),
    }  # fmt: skip
    assert rows[OWN, 2]["faster by"] == {"assembled": 9 / 2}
    assert (rows[OWN, 2]["basis"], rows[OWN, 4]["basis"]) == ("measured", "2 times the training")
    assert rows[PEER, 1]["basis"] == "measured, 1 of the users, scaled by tokens"
    assert benchmark.rates(done[OWN]) == {"users_per_hour": 3600 * 4 / 9, "tokens_per_s": 200 / 9}


def test_what_is_left_out_is_said(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "HAS_PEFT", False)
    benchmark.compare(asked_for(users=1))
    assert f"{PEER} is left out: peft is not installed" in capsys.readouterr().out
    kept = json.loads(next(results.glob("*.json")).read_text())
    assert {row["method"] for row in kept["assembling is faster by"]} == {OWN}


@pytest.mark.parametrize(("what", "steps"), [("sharers", (3, 6)), ("records", (2, 60))])
def test_a_sweep_changes_one_thing(
    what: str, steps: tuple[int, int], results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(benchmark, what.upper(), steps)
    getattr(benchmark, f"sweep_{what}")(asked_for(users=2))
    assert {path.name for path in results.iterdir()} == {f"assemble_{what}_tiny.{end}" for end in ("json", "png")}
    kept = json.loads((results / f"assemble_{what}_tiny.json").read_text())
    found = [(turn["sharers"], turn["records"]) for turn in kept["turns"].values()]
    # Nobody has 60 records: they begin again.
    assert found == ([(3, 2 * 2), (6, 2 * 2)] if what == "sharers" else [(4, 2 * 2), (4, 2 * 60)])


def test_a_turn_in_a_process_of_its_own() -> None:
    asked = asked_for(users=1)
    with benchmark.random_pool(asked, SHARED, sharers=3) as pool:
        turn = benchmark.in_child(asked, "assembled", pool=pool)
    assert turn["sharers"] == 3 and turn["users"] == 1 and turn["seconds"]["assemble"] > 0


def test_a_child_is_told_what_was_asked_and_a_lost_one_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys\n"
        "*told, report = sys.argv[1:]\n"
        "if '--only=lost' in told: sys.exit(3)\n"
        "told.append(os.environ.get('THP_MEM_ALLOC_ENABLE'))\n"
        "json.dump(told, open(report.partition('=')[2], 'w'))\n"
    )
    options = {"users": 2, "peer_users": 1, "fill": True, "pool": None}
    told = ["--users=2", "--peer-users=1", "--fill", "--only=a method"]
    assert run_child(str(script), "a method", options, ours=True) == [*told, "1"]
    assert run_child(str(script), "a method", options, ours=False) == [*told, None]
    assert run_child(str(script), "lost", options, ours=True) == {"left out": "it ended with status 3"}
