"""A repository's commits as histories: what each author changed, and the subject they gave it."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ownlm.errors import DataError
from ownlm.importers.git_log import FILES, LINES, Changed, Commit, Head, commit_log, find_head
from ownlm.importers.imported import Imported, pseudonym, write_rows
from ownlm.progress import Progress, silent

_WIDTH: Final = 80  # characters of a path, or of a line of the diff, in a record

_MERGE: Final = re.compile(
    r"Merge (branch(es)? '|branch \S+ (of|into) |remote-tracking branch|pull request #|tag '|commit ')"
    r"|Merged in .* \(pull request #"
)
_REVERT: Final = re.compile(r"""(Revert|Reapply|Reland) ["']|(?i:revert)(\(.*?\))?!?: """)
_FIXUP: Final = re.compile(r"(fixup|squash|amend)! ")
_BOT: Final = re.compile(r"\[bot\]$|[a-z0-9][-_]bot$")  # not: Abbot, Jan Bot
_BOTS: Final = frozenset(
    {
        *(
            "allcontributors",
            "circleci",
            "codecov",
            "copilot",
            "dependabot",
            "dependabot-preview",
            "depfu",
            "depfu bot",
        ),
        *("github action", "github actions", "github-actions", "gitlab ci", "greenkeeper", "imgbot", "jenkins"),
        *("k8s-ci-robot", "mend renovate", "mergify", "netlify", "pre-commit", "pre-commit-ci", "pre-commit.ci"),
        *("pyup.io bot", "renovate", "renovate bot", "restyled.io", "snyk bot", "sonarcloud", "travis ci", "vercel"),
        *("whitesource renovate",),
    }
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
        reason = "where the shallow clone ends" if commit.hash in head.ends else _why_not(commit)
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
        "bots": _is_bot(commit.name) or _is_bot(commit.address.partition("@")[0]),
        "without a subject": not commit.subject,
        "reverts": _REVERT.match(commit.subject),
        "fixups": _FIXUP.match(commit.subject),
        "without changed files": not commit.changed,
        "without an author": not (commit.address or commit.name),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _is_bot(name: str) -> bool:
    """Whether a name, or what stands before the @ of an address, is a program's.

    >>> [_is_bot(name) for name in ("49699333+dependabot[bot]", "semantic-release-bot", "Ada Talbot", "Jan Bot")]
    [True, True, False, False]
    """
    return bool(_BOT.search(name)) or name.rpartition("+")[2].lower() in _BOTS


def _files(commit: Commit) -> str:
    named = [_file(changed) for changed in commit.files[:FILES]]
    more = commit.changed - len(named)
    return "\n".join([*named, f"and {more} more files"] if more else named)


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
    none = True
    for row in rows:
        none = False
        yield row
    if none:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise DataError(
            f"The repository {repo} has no commit to learn from",
            got=f"left out: {why}",
            expected="commits with a subject and changed files",
            hint="`git fetch --unshallow` completes a shallow clone"
            if "where the shallow clone ends" in left_out
            else None,
        )
