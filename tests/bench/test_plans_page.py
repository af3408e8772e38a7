"""docs/plans.md has a row for every key of a plan and every method, and names every setting of one."""

import re
from inspect import Parameter, signature
from pathlib import Path

from pydantic import BaseModel

from ownlm.bench.methods import METHODS
from ownlm.bench.methods.pool import make_pool
from ownlm.bench.plan import Plan, SetPlan, read_plan

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "plans.md").read_text("utf8")


def rows(section: str) -> dict[str, str]:
    """A section's rows, by each of the names in their first cell."""
    table = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| `")]
    return {name: line for line in lines for name in re.findall(r"`\[*(\w+)\]*`", line.split("|")[1])}


def settings(function: object) -> set[str]:
    """What can be set of a function."""
    assert callable(function)
    return {one.name for one in signature(function).parameters.values() if one.kind is Parameter.KEYWORD_ONLY}


def test_every_key() -> None:
    tables: dict[str, type[BaseModel]] = {"The plan": Plan, "A set": SetPlan}
    for section, table in tables.items():
        assert set(table.model_fields) <= rows(section).keys()
    assert {"from", "suffix", "without"} <= rows("A set").keys() and "sizes" in rows("The plan")


def test_every_method_and_setting() -> None:
    assert rows("Methods").keys() == METHODS.keys()
    for name, method in METHODS.items():
        for one in settings(method.make):
            assert f"`{one}`" in rows("Methods")[name], (name, one)
    for one in settings(make_pool):
        assert f"`{one}`" in rows("The plan")["share"], one


def test_its_example_is_a_plan(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(PAGE.split("```toml\n")[1].split("```")[0], "utf8")
    assert [one.name for one in read_plan(tmp_path / "plan.toml").methods] == ["adapted base", "own adapter, k=1"]
