"""A repository's commits as histories: what each author changed, and the subject they gave it."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ownlm.errors import DataError
from ownlm.importers.git_log import LINES, Changed, Commit, Head, commit_log, find_head
from ownlm.importers.imported import Imported, pseudonym, write_rows
from ownlm.progress import Progress, silent

_WIDTH: Final = 80  # characters of a path, or of a line of the diff, in a record
_CUT: Final = "where the shallow clone ends"

_MERGE: Final = re.compile(
    r"Merge (branch(es)? '|remote-tracking branch|pull request #|tag '|commit ')"
    r"|Merged in .* \(pull request #"
)
_REVERT: Final = re.compile(r"""(Revert|Reapply|Reland) ["']|(?i:revert)(\(.*?\))?!?: """)
_FIXUP: Final = re.compile(r"(fixup|squash|amend)! ")
_BOTS: Final = re.compile(
    r".*\[bot\]|allcontributors|circleci|codecov|copilot|dependabot(-preview)?|depfu|git(hub|lab)[ -](actions?|ci)"
    r"|greenkeeper|imgbot|k8s-ci-robot|mergify|pre-commit[-. ]ci|pyup\.io bot|((mend|whitesource) )?renovate( bot)?"
    r"|snyk bot|travis[ -]ci",
    re.IGNORECASE,
)


def import_git(repo: Path, out: Path, *, keep_names: bool = False, progress: Progress = silent) -> Imported:
    """Writes a history of each author out of the commits that lead to HEAD, oldest first, for the task `git-commit`.

    What is nobody's own words is left out: merges, reverts, fixups and what bots did. So is a commit without a subject,
    without changed files, or without its parents, where a shallow clone ends.

    Args:
        repo: a repository, bare or not, or a folder within it.
        out: the file to write.
        keep_names: mail addresses as user ids, instead of hashes of them.

    Returns:
        An account of it.

    Raises:
        DataError: there is no such repository, git cannot read it, or nothing was left. Then nothing was written.

    Source: ours.
    """
    head = find_head(repo)
    imported, left_out = Imported("git-commit", files=[out]), Counter[str]()
    with commit_log(repo, head) as commits:
        rows = _rows(_counted(commits, head, progress), head, keep_names, imported.records, left_out)
        write_rows(out, _at_least_one(rows, repo, left_out))
    imported.left_out = dict(left_out.most_common())
    return imported


def _rows(
    commits: Iterator[Commit], head: Head, keep_names: bool, records: dict[str, int], left_out: Counter[str]
) -> Iterator[dict[str, str]]:
    for commit in commits:
        reason = _CUT if commit.hash in head.ends else _why_not(commit)
        if reason:
            left_out[reason] += 1
            continue
        person = commit.address or commit.name
        user = person.lower() if keep_names else pseudonym(person)
        records[user] = records.get(user, 0) + 1
        row = {"user_id": user, "id": commit.hash, "time": commit.time, "files": _files(commit), "diff": _diff(commit)}
        yield {name: value for name, value in row.items() if value} | {"subject": commit.subject}


def _why_not(commit: Commit) -> str | None:
    """Why a commit is left out; None if it is not."""
    reasons = {
        "merges": commit.parents > 1 or _MERGE.match(commit.subject),
        "bots": _is_bot(commit.name, commit.address),
        "without a subject": not commit.subject,
        "reverts": _REVERT.match(commit.subject),
        "fixups": _FIXUP.match(commit.subject),
        "without changed files": not commit.changed,
        "without an author": not (commit.address or commit.name),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _is_bot(name: str, address: str) -> bool:
    """Whether an author is a program. A name may end in "bot", as people's do, but not in "-bot".

    >>> _is_bot("semantic-release-bot", ""), _is_bot("", "49699333+dependabot[bot]@users.noreply.github.com")
    (True, True)
    >>> _is_bot("Ada Talbot", "talbot@example.org"), _is_bot("Jan Bot", "jan-bot@example.org")
    (False, False)
    """
    user = address.partition("@")[0].rpartition("+")[2]
    return name.endswith("-bot") or any(_BOTS.fullmatch(who) for who in (name, user))


def _files(commit: Commit) -> str:
    more = commit.changed - len(commit.files)
    return "\n".join([*map(_file, commit.files), *([f"and {more} more"] if more else [])])


def _file(changed: Changed) -> str:
    path = changed.path if len(changed.path) <= _WIDTH else "..." + changed.path[3 - _WIDTH :]
    return f"{path} (binary)" if changed.added is None else f"{path} +{changed.added} -{changed.removed}"


def _diff(commit: Commit) -> str:
    """The first changed lines, taken from what each file lost and gained in turn."""
    turns = sorted((turn, source) for source, lines in enumerate(commit.lines) for turn in range(len(lines)))[:LINES]
    shown = ("-+"[source % 2] + commit.lines[source][turn] for source, turn in sorted((s, t) for t, s in turns))
    return "\n".join(line if len(line) <= _WIDTH else line[: _WIDTH - 3] + "..." for line in shown)


def _counted(commits: Iterator[Commit], head: Head, progress: Progress) -> Iterator[Commit]:
    for number, commit in enumerate(commits, 1):
        yield commit
        if number % 256 == 0 or number == head.commits:
            progress("commits", number, head.commits)


def _at_least_one(rows: Iterator[dict[str, str]], repo: Path, left_out: Counter[str]) -> Iterator[dict[str, str]]:
    """The rows; without any, nothing is to be written."""
    first = next(rows, None)
    if first is None:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise DataError(
            f"The repository {repo} has no commit to learn from",
            got=f"left out: {why}",
            expected="commits with a subject and changed files",
            hint="`git fetch --unshallow` completes a shallow clone" if _CUT in left_out else None,
        )
    yield first
    yield from rows
