"""A log of commits, replayed into a git repository: real people's subjects, dates and file names, made-up contents.

    python studies/replay_commits.py LOG.jsonl NEW_REPOSITORY

The log is JSON Lines, newest first: author, date, subject, and files with how many lines were added and removed. Names,
addresses and contents are made up. No line stands twice, so that git counts what the log says. What the log's commits
take away without having put it there is in a first commit by a bot, which importers leave out.
"""

import argparse
import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zlib import crc32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("repository", type=Path)
    asked = parser.parse_args()
    replay(asked.log, asked.repository)


def replay(log: Path, repository: Path) -> None:
    """Makes a bare repository out of a log, oldest commit first."""
    rows = [json.loads(line) for line in log.read_text("utf8").splitlines()][::-1]
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(repository)], check=True)
    importer = ["git", "-C", str(repository), "fast-import", "--quiet"]
    with subprocess.Popen(importer, stdin=subprocess.PIPE) as git:
        assert git.stdin is not None
        for piece in fast_import(rows):
            git.stdin.write(piece)
    if git.returncode:
        raise subprocess.CalledProcessError(git.returncode, importer)


def fast_import(rows: Sequence[dict[str, Any]]) -> Iterator[bytes]:
    """What `git fast-import` reads, for commits from the oldest to the newest."""
    contents = {path: [_line(path, 0, place) for place in range(count)] for path, count in _before(rows).items()}
    yield _commit("before[bot]", datetime.fromisoformat(rows[0]["date"]), "Everything before the log")
    yield from (_file(path, "".join(lines)) for path, lines in contents.items())
    for number, row in enumerate(rows, 1):
        yield _commit(row["author"], datetime.fromisoformat(row["date"]), row["subject"])
        for file in row["files"]:
            yield from _change(contents, number, file)


def _before(rows: Sequence[dict[str, Any]]) -> Counter[str]:
    """How many lines files have before the first commit, so that every commit finds what it takes away.

    A file that is renamed is more than twice as long as what is changed in it: else git sees no rename.
    """
    before, now, first_names = Counter[str](), Counter[str](), dict[str, str]()
    for file in (file for row in rows for file in row["files"] if file["added"] is not None):
        old, path = _paths(file["path"])
        needed = file["removed"]
        if old != path:
            needed = 2 * max(file["added"], file["removed"]) + 2
            now[path], first_names[path] = now.pop(old, 0), first_names.pop(old, old)
        lacking = max(needed - now[path], 0)
        if lacking:
            before[first_names.setdefault(path, path)] += lacking
        now[path] += lacking + file["added"] - file["removed"]
    return before


def _change(contents: dict[str, list[str]], number: int, file: dict[str, Any]) -> Iterator[bytes]:
    """The commands for one file; `contents` holds the lines of every file."""
    old, path = _paths(file["path"])
    added, removed = file["added"], file["removed"]
    renamed = old != path and old in contents
    if renamed:
        contents[path] = contents.pop(old)
        yield f"R {_quoted(old)} {_quoted(path)}\n".encode()
    if added is None:
        yield _file(path, f"\0binary {number}")
        return
    neither = path in contents and not (renamed or added or removed)  # then its mode changed
    lines = contents.setdefault(path, [])
    place = number % (len(lines) - removed + 1)
    lines[place : place + removed] = [_line(path, number, place) for place in range(added)]
    if lines or not removed:
        yield _file(path, "".join(lines), mode=100755 if neither else 100644)
    else:
        del contents[path]
        yield f"D {_quoted(path)}\n".encode()


def _paths(name: str) -> tuple[str, str]:
    """The old and the new path, in git's short way of writing both.

    >>> _paths("a/{b => c}/d"), _paths("a/{ => c}/d"), _paths("a => b"), _paths("a")
    (('a/b/d', 'a/c/d'), ('a/d', 'a/c/d'), ('a', 'b'), ('a', 'a'))
    """
    found = re.search(r"\{(.*?) => (.*?)\}", name) or re.search(r"(.*) => (.*)", name)
    if not found:
        return name, name
    old, new = (name[: found.start()] + part + name[found.end() :] for part in found.groups())
    return old.replace("//", "/"), new.replace("//", "/")


def _line(path: str, number: int, place: int) -> str:
    name = re.sub(r"[^a-z]+", "_", Path(path).stem.lower())
    word = "".join(chr(ord("a") + crc32(path.encode()) // 26**power % 26) for power in range(6))
    return f"    {name}_{place} = {word}({number})\n"


def _commit(author: str, date: datetime, subject: str) -> bytes:
    who = f"Person {author} <{author}@users.invalid> {int(date.timestamp())} {date:%z}"
    return f"commit refs/heads/main\nauthor {who}\ncommitter {who}\n".encode() + _data(subject)


def _file(path: str, content: str, mode: int = 100644) -> bytes:
    return f"M {mode} inline {_quoted(path)}\n".encode() + _data(content)


def _quoted(path: str) -> str:
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _data(text: str) -> bytes:
    return b"data %d\n%s\n" % (len(text.encode()), text.encode())


if __name__ == "__main__":
    main()
