"""Real git repositories, made for a test, and what importing them gives."""

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ownlm.errors import DataError
from ownlm.history.readers import read_dataset
from ownlm.history.task import load_task
from ownlm.importers.git import import_git
from ownlm.importers.imported import Imported

DAY = 86_400
START = 1_700_000_000  # 2023-11-14T22:13:20+00:00
ADA, BELA = "Ada <ada@example.org>", "Bela <bela@example.org>"


class Repository:
    """A repository in a new folder; its commits are a day apart."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.clock = START - DAY
        subprocess.run(["git", "init", "--quiet", "--initial-branch=main", *options, str(folder)], check=True)

    def git(self, *args: str, given: bytes = b"", committed: str | None = None) -> str:
        """What git says."""
        command = ["git", "-C", str(self.folder), "-c", "user.name=C", "-c", "user.email=c@example.org", *args]
        env = {**os.environ, **({"GIT_COMMITTER_DATE": committed} if committed else {})}
        done = subprocess.run(command, input=given, capture_output=True, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode("utf8", "replace").strip()

    def put(self, path: str | bytes, content: str | bytes) -> None:
        """Writes a file."""
        file = self.folder / os.fsdecode(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())

    def commit(self, subject: str | bytes, *, author: str = ADA, at: int | None = None, all: bool = True) -> str:
        """Commits what there is, or else what is staged; the commit's hash."""
        self.clock += DAY
        if all:
            self.git("add", "--all")
        command = ["commit", "--quiet", "--allow-empty", "--allow-empty-message", "--cleanup=verbatim", "--no-verify"]
        date = f"@{self.clock if at is None else at} +0200"
        message = subject if isinstance(subject, bytes) else subject.encode()
        self.git(*command, f"--author={author}", f"--date={date}", "--file=-", given=message, committed=date)
        return self.git("rev-parse", "HEAD")

    def change(self, subject: str | bytes, *, author: str = ADA, at: int | None = None) -> str:
        """A commit that adds a line to a file; its hash."""
        file = self.folder / "notes.txt"
        file.write_text((file.read_text() if file.exists() else "") + f"line {self.clock}\n")
        return self.commit(subject, author=author, at=at)

    def raw(self, author: bytes, message: bytes, *, header: bytes = b"") -> str:
        """A commit of a new file, as no git would write it; its hash."""
        self.put("raw.txt", message)
        self.git("add", "--all")
        tree, parent = self.git("write-tree"), self.git("rev-parse", "HEAD")
        content = f"tree {tree}\nparent {parent}\n".encode() + b"author %s\n" % author
        content += b"committer C <c@example.org> 1700000000 +0000\n%s\n%s" % (header, message)
        hash = self.git("hash-object", "-t", "commit", "-w", "--stdin", "--literally", given=content)
        self.git("update-ref", "HEAD", hash)
        return hash


def run(repo: Repository | Path, **how: Any) -> tuple[Imported, list[dict[str, Any]]]:
    """Imports; what is written can always be read as histories."""
    folder = repo.folder if isinstance(repo, Repository) else repo
    out = folder.parent / f"{folder.name}.jsonl"
    imported = import_git(folder, out, **how)
    rows = [json.loads(line) for line in out.read_text("utf8").split("\n")[:-1]]
    assert imported.task == "git-commit" and imported.files == [out]
    assert imported.records == dict(Counter(row["user_id"] for row in rows))
    dataset = read_dataset(out, load_task("git-commit"))
    assert {record.id for history in dataset.histories for record in history.records} == {row["id"] for row in rows}
    assert sum(map(len, dataset.histories)) == len(rows)
    return imported, rows


def refused(repo: Path) -> DataError:
    """Imports what cannot be imported; nothing is written."""
    out = repo.parent / "refused.jsonl"
    out.write_text('{"user_id": "as before"}\n')
    before = set(out.parent.iterdir())
    with pytest.raises(DataError) as caught:
        import_git(repo, out)
    assert out.read_text() == '{"user_id": "as before"}\n' and set(out.parent.iterdir()) == before
    return caught.value
