"""A log of commits, replayed into a git repository: real people's subjects, dates and file names, made-up contents.

    python benchmarks/replay_commits.py LOG.jsonl NEW_REPOSITORY

The log is JSON Lines, newest first: author, date, subject, and files with how many lines were added and removed. Names
and addresses are made up; so is every line of every file, each of them once, so that git counts what the log says
wherever the log itself says that a file has so many lines to lose.
"""

import argparse
import json
import re
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

_RENAME: Final = re.compile(r"\{(.*?) => (.*?)\}|^(.*) => (.*)$")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("repository", type=Path)
    asked = parser.parse_args()
    print(f"{replay(asked.log, asked.repository)} commits in {asked.repository}")


def replay(log: Path, repository: Path) -> int:
    """Makes a bare repository out of a log, oldest commit first.

    Returns:
        How many commits.
    """
    rows = [json.loads(line) for line in log.read_text("utf8").splitlines()][::-1]
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(repository)], check=True)
    importer = ["git", "-C", str(repository), "fast-import", "--quiet"]
    with subprocess.Popen(importer, stdin=subprocess.PIPE) as git:
        assert git.stdin is not None
        for piece in fast_import(rows):
            git.stdin.write(piece)
    if git.returncode:
        raise subprocess.CalledProcessError(git.returncode, importer)
    return len(rows)


def fast_import(rows: list[dict[str, Any]]) -> Iterator[bytes]:
    """What `git fast-import` reads, for commits from the oldest to the newest."""
    contents: dict[str, list[str]] = {}
    for number, row in enumerate(rows):
        author, date = row["author"], datetime.fromisoformat(row["date"])
        who = f"Person {author} <{author}@users.invalid> {int(date.timestamp())} {date:%z}"
        yield f"commit refs/heads/main\nauthor {who}\ncommitter {who}\n".encode() + _data(row["subject"])
        for file in row["files"]:
            yield from _change(contents, file, number)
        yield b"\n"


def _change(contents: dict[str, list[str]], file: dict[str, Any], number: int) -> Iterator[bytes]:
    """The commands for one file; `contents` keeps the lines of every file."""
    old, path = _paths(file["path"])
    if old != path and old in contents:
        contents[path] = contents.pop(old)
        yield f"R {_quoted(old)} {_quoted(path)}\n".encode()
    if file["added"] is None:  # binary
        yield f"M 100644 inline {_quoted(path)}\n".encode() + _data(f"\0{number}")
        return
    mode = 100755 if path in contents and not file["added"] and not file["removed"] and old == path else 100644
    lines = contents.setdefault(path, [])
    place = number % (max(len(lines) - file["removed"], 0) + 1)
    lines[place : place + file["removed"]] = [_line(path, number, place + n) for n in range(file["added"])]
    if lines or not file["removed"]:
        yield f"M {mode} inline {_quoted(path)}\n".encode() + _data("".join(lines))
    else:
        del contents[path]
        yield f"D {_quoted(path)}\n".encode()


def _paths(name: str) -> tuple[str, str]:
    """The old and the new path in git's short way of writing both.

    >>> _paths("a/{b => c}/d"), _paths("a/{ => c}/d"), _paths("a/d")
    (('a/b/d', 'a/c/d'), ('a/d', 'a/c/d'), ('a/d', 'a/d'))
    """
    old, new = (_RENAME.sub(lambda m, g=group: m[g] or m[g + 2] or "", name) for group in (1, 2))
    return old.replace("//", "/"), new.replace("//", "/")


def _line(path: str, number: int, place: int) -> str:
    stem = re.sub(r"\W+", "_", Path(path).stem)
    return f"    {stem}_{place} = compute({number}, step={place})\n"


def _quoted(path: str) -> str:
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _data(text: str) -> bytes:
    content = text.encode()
    return b"data %d\n%s\n" % (len(content), content)


if __name__ == "__main__":
    main()
