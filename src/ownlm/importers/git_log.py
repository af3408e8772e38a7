"""A repository's commits as facts: who, when, the subject, what changed. Read from one `git log`, as it comes.

Each commit is a line that begins with NUL, then `--numstat`, then the patch. No other line of git's can begin with NUL:
in a patch, lines out of files have a '+', a '-' or a blank before them. Of a line, only the head is read.
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

FILES: Final = 10  # of a commit's files, how many are kept
LINES: Final = 10  # of a file's removed lines, and of its added ones, how many; and of how many files
_HEAD: Final = 8192  # bytes read of a line
_HASH: Final = re.compile(rb"^[0-9a-f]{40,64}$", re.MULTILINE)  # of a commit, on a line of its own
_TELLING: Final = re.compile(r"[^\W_].*?[^\W_]")
_PLATFORM: Final = "%(trailers:key=Translate-URL,valueonly,separator=%x20)"  # of Weblate, whatever its subject is
_FORMAT: Final = f"%x00%H%x00%P%x00%aN%x00%aE%x00%at%x00{_PLATFORM}%x00%s"
# Whatever a person's own settings ask for, the output is the same. Nothing of theirs is run. With git's own limit of 96
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
_KEPT_VARIABLES: Final = ("GIT_CONFIG", "GIT_EXEC_PATH", "GIT_CEILING_DIRECTORIES")  # the others point elsewhere


class Changed(NamedTuple):
    """A file that a commit changed, with how many lines were added and removed; None where it is binary."""

    path: str
    added: int | None
    removed: int | None


@dataclass(slots=True)
class Commit:
    """What `git log` says of a commit.

    Attributes:
        time: ISO 8601, in UTC; None where the commit's date is nonsense.
        translated: whether a translation platform signed the message.
        changed: how many files.
        files: the first of them.
        lines: the first telling lines removed from a file, and those added to it; then those of the next file.
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
    """Where a repository stands: its newest commit, how many lead to it, and at which of them a shallow clone ends."""

    hash: str
    commits: int
    ends: frozenset[str]


def find_head(repo: Path) -> Head:
    """Where the repository stands.

    Raises:
        DataError: there is no repository, git refuses it, or it has no commits.
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
    """The commits that lead to `head`, oldest first, one at a time. Where this block ends, git has ended too.

    Args:
        diffs: with the files that each commit changed, and lines of them; without, git is a hundred times as fast.

    Raises:
        DataError: git failed on its way; then what came before is not everything.
    """
    asked = (*_LOG, *(_DIFF if diffs else ("--no-patch",)), head.hash, "--")
    with TemporaryFile() as said, _started(repo, *asked, stderr=said) as git:
        try:
            yield _all_of(git, said, repo)
        except BaseException:
            git.kill()
            raise


def parse_log(stream: IO[bytes]) -> Iterator[Commit]:
    """The commits in the output of `git log`."""
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
    """Makes room for a file's lines, unless there are enough; a file without any that tell something leaves its own."""
    if not commit.lines or any(commit.lines[-2:]):
        if len(commit.lines) == 2 * LINES:
            return "rest"
        commit.lines += ([], [])
    return "names"


def readable(data: bytes, *, cut: bool = False) -> str:
    """Text from bytes that are UTF-8, or else cp1252 or latin-1. Control characters and line ends become blanks.

    Args:
        cut: the bytes may end within a character.

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
    """The lines, each cut to its head: a line may be as long as a file."""
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
    """ISO 8601; None before 1970 and from 2106 on: there a clock was wrong, or a converter of repositories."""
    number = int(seconds) if seconds.isdigit() and len(seconds) <= 10 else 0
    return datetime.fromtimestamp(number, UTC).isoformat() if 0 < number < 2**32 else None


def _changed(line: bytes) -> Changed:
    added, removed, path = line.rstrip(b"\n").split(b"\t", 2)
    whole = line.endswith(b"\n")
    return Changed(readable(path, cut=not whole), *(int(n) if n.isdigit() else None for n in (added, removed)))


def _keep(lines: list[list[str]], line: bytes) -> None:
    """Keeps a changed line of the last file, unless there are enough or it says nothing: a bracket, a rule, a blank."""
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
    """Git's exit code, and what it said on stdout and stderr."""
    with _started(repo, *args, stderr=PIPE) as git:
        out, err = git.communicate()
        return git.returncode, out, err


def _started(repo: Path, *args: str, stderr: int | IO[bytes]) -> "Popen[bytes]":
    ours = child_environment().items()
    env = {name: value for name, value in ours if name[:4] != "GIT_" or name.startswith(_KEPT_VARIABLES)}
    # No translated messages, no locks, no questions; and objects that a partial clone lacks are not fetched.
    env |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": ""}
    env["GIT_NO_LAZY_FETCH"] = "1"
    # Some only let bare repositories be read that are named, not found: this one is named. Its owner is still checked.
    trusted = ("-c", "safe.bareRepository=all") if _is_git_directory(repo) else ()
    try:
        return Popen(git_command(str(repo), *trusted, *args), stdin=DEVNULL, stdout=PIPE, stderr=stderr, env=env)
    except OSError as error:
        raise DataError("The program git cannot be run", got=error.strerror, hint="install git") from None


def _is_git_directory(repo: Path) -> bool:
    """Whether a folder is itself a bare repository, or the `.git` of one."""
    return (repo / "HEAD").is_file() and (repo / "objects").is_dir() and (repo / "refs").is_dir()


def _no_folder(repo: Path) -> DataError:
    """Why there is no folder: an address, a bundle, a `.git` file, or nothing."""
    what, hint = f"There is no folder {repo}", "check the path"
    source = _SCHEME.sub(lambda found: f"{found[1]}:/{'/' if found[1] == 'file' else ''}/", str(repo))
    if source != str(repo) or _HOST.match(source):
        what, hint = f"{source} is not on this machine", f"`git clone {quoted(source)} FOLDER`, then name the folder"
    elif repo.is_file():
        with open_regular(repo) as file:
            start = file.read(64)
        if start.startswith(b"# v") and b" git bundle" in start:
            what, hint = f"{repo} is a bundle", f"`git clone {quoted(source)} FOLDER`, then name the folder"
        else:
            what, hint = f"{repo} is a file", "name the folder that holds it"
    return DataError(what, expected="the folder of a git repository", hint=hint)


def _no_commits(repo: Path) -> DataError:
    """Why HEAD leads to no commit: the repository is empty, or its branch is not there while others are."""
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
        f"The HEAD of the repository {repo} is on a branch that is not there",
        got=f"HEAD names {readable(name).strip()}, which has no commit",
        expected=f"a branch with commits, such as {', '.join(branches[:5])}",
        hint=f"`git -C {quoted(repo)} {command}`",
    )


def _is_partial(repo: Path) -> bool:
    return not _ask(repo, "config", "--get-regexp", r"^(extensions\.partialclone|remote\..*\.promisor)$")[0]


def _refused(what: str, said: bytes, repo: Path) -> DataError:
    """An error with git's own first word on it, and what to do about it."""
    lines = [text for line in said.splitlines() if (text := readable(line).strip())]
    got = next((line for line in lines if line.startswith(("fatal: ", "error: "))), lines[0] if lines else None)
    trust = next((line for line in lines if line.startswith("git config --global --add safe.directory ")), None)
    if trust:
        hint = f"if you trust its owner, run `{trust}`"
    elif got and "not a git repository: " in got:
        hint = (
            "its .git names a folder that is not there: for a worktree, run `git worktree repair` in the main tree; "
            "for a submodule, `git submodule update --init`"
        )
    elif got and "not a git repository" in got:
        hint = "name the folder of a repository, bare or not, or one within it"
    elif got and "safe.bareRepository" in got:
        hint = "name the bare repository itself, not a folder in it"
    elif got and re.search("unknown repository extension|[Ee]xpected git repo version|unknown value for config", got):
        hint = "update git: the repository was written by a newer one"
    elif got and "Permission denied" in got:
        hint = "ask for permission to read the repository, or clone it"
    elif _is_partial(repo):
        hint = (
            f"a partial clone lacks objects, and nothing is fetched here: `git -C {quoted(repo)} fetch --refetch "
            "--no-filter` fetches them, or clone it whole"
        )
    else:
        hint = f"`git -C {quoted(repo)} fsck` says what is damaged"
    return DataError(what, got=got and got[:300], expected="a git repository that is whole and yours", hint=hint)
