"""A few people on a tiny base, for tests of the whole flow."""

import json
import shutil
from functools import cache
from pathlib import Path

from ownlm.home import Home

TASK = """
name = "sorting"
instruction = "Sort the message into one of: {labels}."
input = "message: {text}"
answer = "folder: {folder}"
labels = ["home", "work", "bin"]
metrics = ["accuracy"]
max_new_tokens = 4
"""
FOLDERS = ("home", "work", "bin")


def write_task(folder: Path) -> Path:
    """The task file."""
    path = folder / "sorting.toml"
    path.write_text(TASK, "utf8")
    return path


def rows(user: str, count: int, first: int = 0) -> list[dict[str, str]]:
    """Records of one person, each with words that only they use."""
    return [
        {
            "user_id": user,
            "id": f"{user}-{n}",
            "time": str(1000 + n),
            "text": f"{user} secret{n} said",
            "folder": FOLDERS[n % 3],
        }
        for n in range(first, first + count)
    ]


def write_rows(path: Path, *groups: list[dict[str, str]]) -> Path:
    """A JSON Lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for group in groups for row in group), "utf8")
    return path


@cache
def _home_on(base: Path) -> Path:
    folder = base.with_name(f"{base.name}-home")
    home = Home(folder)
    home.add_base(str(base), "tiny")
    home.store.database.close()
    return folder


def home_on(base: Path, folder: Path) -> Home:
    """A home with the base "tiny", copied: checking a base takes longer than most tests."""
    return Home(shutil.copytree(_home_on(base), folder))


def small_home(folder: Path, base: Path, *groups: list[dict[str, str]]) -> Home:
    """A home on the base with these people's records; their file, and the task's, are beside it."""
    home = home_on(base, folder / "home")
    home.add_history(write_rows(folder / "people.jsonl", *groups), str(write_task(folder)))
    return home


def with_context(folder: Path, base: Path, tokens: int) -> Path:
    """A copy of a base that has a shorter context."""
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": tokens}))
    return folder
