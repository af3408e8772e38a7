"""Writes a benchmark's result down, with what it was measured on."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ownlm.bench.machine import commit, hardware, versions

RESULTS = Path(__file__).with_name("results")
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"  # real histories, kept outside the repository


def save(name: str, result: dict[str, Any]) -> Path:
    """Keeps `result` as results/NAME.json and says where."""
    where = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(RESULTS.parent),
        "hardware": hardware(),
        "versions": versions(),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"measured": where, **result}, indent=1) + "\n", "utf8")
    print(f"written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    return path


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints figures; columns whose name ends in '#' are numbers."""
    try:
        from ownlm.cli.output import print_table
    except ImportError:  # no rich
        print(title, columns, *rows, sep="\n")
    else:
        print_table(title, columns, rows)
