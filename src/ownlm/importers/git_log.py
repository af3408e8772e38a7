"""Streaming parser of `git log`: author, time, subject and changes of each commit.

Each commit is a line that begins with NUL, then `--numstat`, then the patch. No other line can begin with
NUL: in a patch, lines of files begin with '+', '-' or a blank. Only the head of a line is read.
"""

import codecs
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from tempfile import TemporaryFile
from typing import IO, Final, NamedTuple

from ownlm.errors import DataError, quoted
from ownlm.filesystem import open_regular, read_regular
from ownlm.programs import child_environment, git_command

FILES: Final = 10  # most files kept for a commit
LINES: Final = 10  # most removed, and most added, lines kept for a file; most files with lines
_HEAD: Final = 8192  # bytes read of a line
_HASH: Final = re.compile(rb"^[0-9a-f]{40,64}$", re.MULTILINE)  # begins a commit
_TELLING: Final = re.compile(r"[^\W_].*?[^\W_]")
_PLATFORM: Final = "%(trailers:key=Translate-URL,valueonly,separator=%x20)"  # of Weblate, with any subject
_FORMAT: Final = f"%x00%H%x00%P%x00%aN%x00%aE%x00%at%x00{_PLATFORM}%x00%s"
# The output does not depend on the user's git settings, and none of their programs is run. With git's own limit of 96
# MB on what it keeps unpacked, 50,000 commits took almost twice as long.
_LOG: Final = (
    *("-c", "core.quotePath=false", "-c", "log.showRoot=true", "-c", "diff.relative=false"),
    *("-c", "core.deltaBaseCacheLimit=192m"),
    *("log", "--reverse", f"--format={_FORMAT}", "--encoding=UTF-8", "--no-show-signature"),
)
_DIFF: Final = (
    *("--numstat", "--patch", "--unified=0", "--no-color", "--no-ext-diff", "--no-textconv", "-O/dev/null"),
    *("--diff-algorithm=myers", "--find-renames", "-l200", "--submodule=short", "--ignore-submodules=none"),
)
_SCHEME: Final = re.compile(r"^(https?|ssh|git|file|git\+ssh|ftps?):/+(?=[^/])")
_HOST: Final = re.compile(r"[\w.-]+@[\w.-]+:(?!/?$)")
_KEPT_VARIABLES: Final = (
    "GIT_CONFIG",
    "GIT_EXEC_PATH",
    "GIT_CEILING_DIRECTORIES",
)  # other variables point to other repositories


class Changed(NamedTuple):
    """A changed file, with the numbers of added and removed lines; None for a binary file."""

    path: str
    added: int | None
    removed: int | None


@dataclass(slots=True)
class Commit:
    """A commit of `git log`.

    Attributes:
        time: the author time in ISO 8601 and UTC; None for an impossible date.
        translated: whether a translation platform signed the message.
        changed: the number of changed files.
        files: the first changed files.
        lines: the first informative removed lines and added lines of each file in turn.
    """

    hash: str
    parents: int
    name: str
    address: str
    time: str | None
    subject: str
    translated: bool = False
    changed: int = 0
    files: list[Changed] = field(default_factory=list)
    lines: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Head:
    """The newest commit of a repository, the number of commits that lead to it, and the ends of a shallow clone."""

    hash: str
    commits: int
    ends: frozenset[str]


def find_head(repo: Path) -> Head:
    """Finds the HEAD of a repository.

    Raises:
        DataError: the repository is missing, refused by git, or has no commits.
    """
    if not repo.is_dir():
        raise _no_folder(repo)
    failed, path, said = _ask(repo, "rev-parse", "--git-path", "shallow")
    if failed:
        raise _refused(f"{repo} cannot be read as a git repository", said, repo)
    shallow = repo / os.fsdecode(path.rstrip(b"\r\n"))
    ends = _HASH.findall(read_regular(shallow)) if shallow.is_file() else ()
    failed, tip, _ = _ask(repo, "rev-parse", "--quiet", "--verify", "HEAD")
    if failed:
        raise _no_commits(repo)
    head = tip.decode("ascii").strip()
    failed, count, said = _ask(repo, "rev-list", "--count", head, "--")
    if failed:
        raise _refused(f"The history of the repository {repo} cannot be read", said, repo)
    return Head(head, int(count), frozenset(end.decode("ascii") for end in ends))


@contextmanager
def commit_log(repo: Path, head: Head, *, diffs: bool = True) -> Iterator[Iterator[Commit]]:
    """Context that yields the commits that lead to `head`, oldest first; git has ended when it is left.

    Args:
        diffs: read the changed files and lines of each commit; git is a hundred times as fast without.

    Raises:
        DataError: git failed; the commits so far are incomplete.
    """
    asked = (*_LOG, *(_DIFF if diffs else ("--no-patch",)), head.hash, "--")
    with TemporaryFile() as said, _started(repo, *asked, stderr=said) as git:
        try:
            yield _all_of(git, said, repo)
        except BaseException:
            git.kill()
            raise


def parse_log(stream: IO[bytes]) -> Iterator[Commit]:
    """Parses the output of `git log`."""
    commit: Commit | None = None
    place = ""  # "numbers", then for each file "names" and "lines", or "rest" where they are not wanted
    for line in _heads(stream):
        start = line[:1]
        if start == b"\0":
            if commit is not None:
                yield commit
            commit, place = _commit(line), "numbers"
        elif commit is None:
            continue
        elif place == "lines" and start in b"+-":
            _keep(commit.lines, line)
        elif line.startswith(b"diff "):
            place = _next_file(commit)
        elif start == b"@" and place == "names":
            place = "lines"
        elif place == "numbers" and line.strip():
            commit.changed += 1
            if commit.changed <= FILES:
                commit.files.append(_changed(line))
    if commit is not None:
        yield commit


def _next_file(commit: Commit) -> str:
    """Begins the lines of another file, reusing the entry of a file without informative lines."""
    if not commit.lines or any(commit.lines[-2:]):
        if len(commit.lines) == 2 * LINES:
            return "rest"
        commit.lines += ([], [])
    return "names"


def readable(data: bytes, *, cut: bool = False) -> str:
    """Decodes UTF-8, else cp1252 or latin-1. Control characters and line ends become blanks.

    Args:
        cut: whether the bytes may end within a character.

    >>> readable("Grüße".encode()), readable("Grüße".encode("latin-1")), readable("ü".encode()[:1], cut=True)
    ('Grüße', 'Grüße', '')
    """
    try:
        text = codecs.utf_8_decode(data, "strict", not cut)[0]
    except UnicodeDecodeError:
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
    return text if text.isprintable() else "".join(map(_shown, text))


@lru_cache(maxsize=4096)
def _shown(letter: str) -> str:
    return " " if unicodedata.category(letter) in ("Cc", "Zl", "Zp") else letter


def _heads(stream: IO[bytes]) -> Iterator[bytes]:
    """Yields the head of each line: a line may be as long as a file."""
    inside = False
    while piece := stream.readline(_HEAD):
        if not inside:
            yield piece
        inside = not piece.endswith(b"\n")


def _commit(line: bytes) -> Commit:
    parts = line.rstrip(b"\n").split(b"\0", 7)[1:]
    hash, parents, name, address, time, platform, subject = parts + [b""] * (7 - len(parts))
    return Commit(
        hash=hash.decode("ascii"),
        parents=len(parents.split()),
        name=readable(name).strip(),
        address=readable(address).strip(),
        time=_moment(time),
        subject=readable(subject, cut=not line.endswith(b"\n")).strip(),
        translated=bool(platform.strip()),
    )


def _moment(seconds: bytes) -> str | None:
    """A timestamp in ISO 8601; None before 1970 and from 2106 on, which come from wrong clocks and converters."""
    number = int(seconds) if seconds.isdigit() and len(seconds) <= 10 else 0
    return datetime.fromtimestamp(number, UTC).isoformat() if 0 < number < 2**32 else None


def _changed(line: bytes) -> Changed:
    added, removed, path = line.rstrip(b"\n").split(b"\t", 2)
    whole = line.endswith(b"\n")
    return Changed(readable(path, cut=not whole), *(int(n) if n.isdigit() else None for n in (added, removed)))


def _keep(lines: list[list[str]], line: bytes) -> None:
    """Keeps an informative changed line of the current file, if there is room."""
    kept = lines[-1 if line[:1] == b"+" else -2]
    if len(kept) < LINES:
        text = readable(b" ".join(line[1:].split()), cut=not line.endswith(b"\n")).strip()
        if _TELLING.search(text):
            kept.append(text)


def _all_of(git: "Popen[bytes]", said: IO[bytes], repo: Path) -> Iterator[Commit]:
    assert git.stdout is not None
    yield from parse_log(git.stdout)
    if git.wait():
        said.seek(0)
        raise _refused(f"git stopped while it read the repository {repo}", said.read(65536), repo)


def _ask(repo: Path, *args: str) -> tuple[int, bytes, bytes]:
    """Runs git; returns its exit code, stdout and stderr."""
    with _started(repo, *args, stderr=PIPE) as git:
        out, err = git.communicate()
        return git.returncode, out, err


def _started(repo: Path, *args: str, stderr: int | IO[bytes]) -> "Popen[bytes]":
    ours = child_environment().items()
    env = {name: value for name, value in ours if name[:4] != "GIT_" or name.startswith(_KEPT_VARIABLES)}
    # No translated messages, no locks, no prompts, and no fetching of objects that a partial clone lacks.
    env |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": ""}
    env["GIT_NO_LAZY_FETCH"] = "1"
    # With safe.bareRepository=explicit a bare repository must be named; its owner is still checked.
    trusted = ("-c", "safe.bareRepository=all") if _is_git_directory(repo) else ()
    try:
        return Popen(git_command(str(repo), *trusted, *args), stdin=DEVNULL, stdout=PIPE, stderr=stderr, env=env)
    except OSError as error:
        raise DataError("The program git cannot be run", got=error.strerror, hint="install git") from None


def _is_git_directory(repo: Path) -> bool:
    """Whether a folder is a bare repository or a `.git` folder."""
    return (repo / "HEAD").is_file() and (repo / "objects").is_dir() and (repo / "refs").is_dir()


def _no_folder(repo: Path) -> DataError:
    """The error for a path that is not a folder: a URL, a bundle, a `.git` file, or missing."""
    what, hint, command = f"There is no folder {repo}", "check the path", None
    source = _SCHEME.sub(lambda found: f"{found[1]}:/{'/' if found[1] == 'file' else ''}/", str(repo))
    clone = "clone it, then name the folder of the clone", f"git clone {quoted(source)} FOLDER"
    if source != str(repo) or _HOST.match(source):
        what, (hint, command) = f"{source} is not on this machine", clone
    elif repo.is_file():
        with open_regular(repo) as file:
            start = file.read(64)
        if start.startswith(b"# v") and b" git bundle" in start:
            what, (hint, command) = f"{repo} is a bundle", clone
        else:
            what, hint = f"{repo} is a file", "name the folder that holds it"
    return DataError(what, expected="the folder of a git repository", hint=hint, command=command)


def _no_commits(repo: Path) -> DataError:
    """The error for a HEAD without commits: an empty repository, or a missing branch beside others."""
    _, name, _ = _ask(repo, "symbolic-ref", "--quiet", "HEAD")
    order = ("--sort=-committerdate", "--format=%(refname)", "refs/heads", "refs/remotes")
    refs = [readable(line) for line in _ask(repo, "for-each-ref", *order)[1].splitlines()]
    own = [ref.removeprefix("refs/heads/") for ref in refs if ref.startswith("refs/heads/")]
    branches = own or [ref.split("/", 3)[3] for ref in refs if ref.count("/") > 2 and not ref.endswith("/HEAD")]
    if not branches:
        return DataError(f"The repository {repo} has no commits", hint="commit something, or check the path")
    bare = _ask(repo, "rev-parse", "--is-bare-repository")[1].strip() == b"true"
    command = f"symbolic-ref HEAD {quoted('refs/heads/' + branches[0])}" if bare else f"switch {quoted(branches[0])}"
    return DataError(
        f"The HEAD of the repository {repo} names a missing branch",
        got=f"HEAD names {readable(name).strip()}, which has no commit",
        expected=f"a branch with commits, such as {', '.join(branches[:5])}",
        hint="point HEAD at a branch with commits" if bare else "switch to a branch with commits",
        command=f"git -C {quoted(repo)} {command}",
    )


def _is_partial(repo: Path) -> bool:
    return not _ask(repo, "config", "--get-regexp", r"^(extensions\.partialclone|remote\..*\.promisor)$")[0]


def _refused(what: str, said: bytes, repo: Path) -> DataError:
    """The error for a refusal by git, with its first message and what to do about it."""
    lines = [text for line in said.splitlines() if (text := readable(line).strip())]
    got = next((line for line in lines if line.startswith(("fatal: ", "error: "))), lines[0] if lines else None)
    trust = next((line for line in lines if line.startswith("git config --global --add safe.directory ")), None)
    command = None
    if trust:
        hint, command = "if you trust its owner, mark the repository as safe", trust
    elif got and "not a git repository: " in got:
        is_submodule = "/modules/" in got
        mend = "initialise its submodules" if is_submodule else "repair its worktrees"
        hint = f"its .git names a folder that is not there: in the main repository, {mend}"
        command = "git submodule update --init" if is_submodule else "git worktree repair"
    elif got and "not a git repository" in got:
        hint = "name the folder of a repository, bare or not, or one within it"
    elif got and "safe.bareRepository" in got:
        hint = "name the bare repository itself, not a folder in it"
    elif got and re.search("unknown repository extension|[Ee]xpected git repo version|unknown value for config", got):
        hint = "update git: the repository was written by a newer one"
    elif got and "Permission denied" in got:
        hint = "ask for permission to read the repository, or clone it"
    elif _is_partial(repo):
        hint = "fetch the objects that this partial clone lacks, or clone it whole"
        command = f"git -C {quoted(repo)} fetch --refetch --no-filter"
    else:
        hint, command = "find out what is damaged", f"git -C {quoted(repo)} fsck"
    expected = "a git repository that is whole and yours"
    return DataError(what, got=got and got[:300], expected=expected, hint=hint, command=command)
