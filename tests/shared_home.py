"""A home in which some share, and others are assembled."""

from pathlib import Path

from ownlm.home import Home
from ownlm.workflows.pools.report import Shared
from tests.community import home_on, rows, write_rows, write_task
from tests.shell import QuickShell

SHARERS, OTHERS = ("ana", "ben", "cleo", "dov"), ("eva", "finn")
QUICK = {"select": "active", "steps": 2, "gate_steps": 2, "batch_size": 4, "learning_rate": 1e-2}


def community(folder: Path, base: Path) -> QuickShell:
    """A folder with a home on the base; six people, of whom four agree to share."""
    folder.mkdir(exist_ok=True)
    write_task(folder)
    people = [rows(user, 11 + n) for n, user in enumerate((*SHARERS, *OTHERS))]
    home = home_on(base, folder / ".ownlm")
    home.add_history(write_rows(folder / "people.jsonl", *people), str(folder / "sorting.toml"))
    home.keep_task(str(folder / "sorting.toml"))
    for user in SHARERS:
        home.consent(user, True)
    return QuickShell(folder)


def share(shell: QuickShell, sharers: int = 4) -> Shared:
    """A pool of some of them."""
    return Home(shell.folder / ".ownlm").pools.share("sorting", sharers=sharers, **QUICK)
