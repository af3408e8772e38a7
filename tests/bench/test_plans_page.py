"""docs/plans.md names every key of a plan, every method and every setting of one."""

import inspect
from pathlib import Path

from pydantic import BaseModel

from ownlm.bench.methods import METHODS
from ownlm.bench.plan import Plan, ProfilePlan, SetPlan, read_plan

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "plans.md").read_text("utf8")
ROWS = {line.split("|")[1].strip(): line for line in PAGE.splitlines() if line.startswith("| `")}


def test_every_key() -> None:
    tables: tuple[type[BaseModel], ...] = (Plan, SetPlan, ProfilePlan)
    keys = {key for table in tables for key in table.model_fields}
    assert not {key for key in keys if not any(f"{mark}{key}" in PAGE for mark in ("`", "[", "[[", "`["))}


def test_every_method_and_setting() -> None:
    for name, method in METHODS.items():
        (row,) = [row for head, row in ROWS.items() if f"`{name}`" in head]
        for one in inspect.signature(method).parameters.values():
            if one.kind is inspect.Parameter.KEYWORD_ONLY:
                assert f"`{one.name}`" in row, (name, one.name)


def test_its_example_is_a_plan(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(PAGE.split("```toml\n")[1].split("```")[0], "utf8")
    assert [one.name for one in read_plan(tmp_path / "plan.toml").methods] == ["adapted base", "own adapter, k=1"]
