"""Where benchmark scripts keep their results, and the table they print."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ownlm.bench.machine import commit, hardware, versions

RESULTS = Path(__file__).with_name("results")
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"  # real histories, kept outside the repository


def save(name: str, result: dict[str, Any], folder: Path | None = None) -> Path:
    """Writes `result` with date, commit, hardware and versions to FOLDER/NAME.json (by default in RESULTS)."""
    folder = folder or RESULTS
    where = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(folder.parent),
        "hardware": hardware(),
        "versions": versions(),
    }
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"measured": where, **result}, indent=1) + "\n", "utf8")
    print(f"written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    return path


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table. Columns with a name that ends in '#' are numbers."""
    try:
        from ownlm.cli.output import print_table
    except ImportError:  # no rich
        print(title, columns, *rows, sep="\n")
    else:
        print_table(title, columns, rows)
