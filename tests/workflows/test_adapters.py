"""The command that assembles a person as they were."""

from pathlib import Path

import pytest

from ownlm.cli.assemble import assemble
from ownlm.home import Home
from ownlm.store.store import Store
from ownlm.workflows.adapters import assemble_command, sharers_now
from ownlm.workflows.options import HOW, AssembleOptions
from tests.sharing import TASK
from tests.store.rows import recipe


def command(how: dict[str, object], *users: str, sharers: int = 9, **more: object) -> str:
    made = recipe(Store(Path()), 1, "ada", "p1", provenance={"assembly": how, **more})
    return assemble_command(made, sharers, users)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_only_what_is_not_usual_is_given() -> None:
    usual = {"top_k": 3, "tau": 1.0, "combine": "product", "recent": 2000, "adapt_steps": 0, "residual_rank": None}
    assert command(usual, seed=0) == command({}) == "ownlm assemble --task LaMP_4"
    other = {"top_k": 2, "tau": 0.5, "combine": "factors", "recent": 9, "adapt_steps": 20, "residual_rank": 1}
    assert command(other, "ada", "zoe b", seed=7) == (
        "ownlm assemble --task LaMP_4 --top-k 2 --tau 0.5 --combine factors --recent 9 --adapt-steps 20 "
        "--residual-rank 1 --seed 7 --user ada --user 'zoe b'"
    )
    assert command({"top_k": 4}, sharers=3) == command({"top_k": 3}, sharers=0) == "ownlm assemble --task LaMP_4"
    assert command({"top_k": 4}, sharers=2).endswith(" --top-k 2")


def test_the_usual_settings_are_those_of_the_verb_and_of_the_command() -> None:
    typed = assemble.__defaults__ or ()
    names = assemble.__code__.co_varnames[: assemble.__code__.co_argcount]
    options = dict(zip(names[-len(typed) :], typed, strict=True))
    for name in (*HOW, "seed"):
        assert AssembleOptions.model_fields[name].default == options[name]


def test_the_doctor_advises_what_each_had(shared: Home) -> None:
    shared.assemble(TASK, users=["kara"], adapt_steps=2)
    shared.assemble(TASK, users=["luca", "mona"], top_k=2)
    shared.pools.withdraw("gina", again=False)
    for user in ("kara", "luca", "mona"):  # whether or not they used her pieces
        shared.forget_record(user, f"{user}-0")
    assert sharers_now(shared.store, TASK) == 3
    steps = [step for step in shared.doctor().next if "ownlm assemble" in step]
    assert steps == [
        "`ownlm assemble --task sorting --adapt-steps 2 --user kara`: recipes that are stale or behind 1",
        "`ownlm assemble --task sorting --top-k 2 --user luca --user mona`: recipes that are stale or behind 2",
    ]
    shared.assemble(TASK, users=["kara"], adapt_steps=2)
    shared.assemble(TASK, users=["luca", "mona"], top_k=2)
    assert not [step for step in shared.doctor().next if "ownlm assemble" in step]
