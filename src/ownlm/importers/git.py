"""Importer of git repositories: a history of changes and commit subjects for each author."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from ownlm.errors import DataError, quoted
from ownlm.importers.git_log import LINES, Changed, Commit, Head, commit_log, find_head
from ownlm.importers.git_subjects import MACHINE, MERGES, TEMPLATES, TRANSLATIONS, Templates, known_kind, own_words
from ownlm.importers.imported import Imported, at_least_one, pseudonym, reasons, write_rows
from ownlm.progress import Progress, silent

_WIDTH: Final = 80  # characters of a path, or of a line of the diff, in a record
_CUT: Final = "where the shallow clone ends"

_BOT_NAMES: Final = re.compile(
    r".*( bot| BOT|[a-z]Bot)|.*[- ](?i:daemon script)|(?i:(\S+ )?(automation|automated|automatic|build|ci|crowdin"
    r"|deploy\w*"
    r"|github|gitlab|l10n|localization|merge|proposal|publish\w*|release|renovate|sync|test|transifex|translation"
    r"|update\w*"
    r"|updater|version|weblate) bot|buildbot|cursor agent|google-java-format|hudson|jenkins|(mozilla )?pontoon|zuul"
    r"|the gitter badger|(hosted )?weblate|crowdin|transifex(-integration)?|cvs2(svn|git)|svn2git)"
)
_BOTS: Final = re.compile(  # author names, or local parts of addresses
    r".*\[bot\]|.*-bot|.*-robot|allcontributors|appveyor|azure[ -]pipelines?|bors(-\w+)?|changesets?-release"
    r"|circleci|codecov"
    r"|copilot|copybara(-service|-worker)?|dependabot(-preview)?|depfu|dotnet-maestro|git(hub"
    r"|lab)[ -](actions?|ci)"
    r"|greenkeeper|homu|imgbot|k8s-ci-robot|libraryupgrader|mergify|openhands|pre-commit[-. ]ci|pyup\.io bot"
    r"|release-please"
    r"|((mend|whitesource) )?renovate( bot)?|restyled(\.io)?|scripty|semantic-release|snyk bot|sourcery-ai"
    r"|translatewiki(\.net)?|travis[ -]ci|web-flow",
    re.IGNORECASE,
)
_BOT_ADDRESSES: Final = re.compile(
    r"hosted@weblate\.org|(support|bot)@(greenkeeper|renovateapp|crowdin|mergify|pyup)\.(io|com)"
    r"|cursoragent@cursor\.com"
    r"|noreply@anthropic\.com|openhands@all-hands\.dev|(travis|builds)@travis-ci\.(org|com)"
)
_NOREPLY: Final = re.compile(r"(?:\d+\+|\d+-(?=[^@]+@users\.noreply\.gitlab\.))(?=[^@]+@(?:users\.)?noreply\.)")
_SHARED: Final = re.compile(  # default addresses, which several authors may share
    r"[^@]*|[^@]*@|@.*|.*@(none|unknown|nowhere|localhost|localhost\.localdomain|localdomain|\(none\)|.*\.\(none\)|-"
    r"|nil|null)"
    r"|(root|nobody|none|null|unknown|devnull|no-?reply|donotreply|\(no author\)|git|build|builder|vagrant|ubuntu"
    r"|ec2-user)@.*"
    r"|(you|your|me|user|username|name|email|your[-_.]?(name|email)|e?mail|someone|john\.?doe|test)@(e?mail"
    r"|(your[-_]?)?"
    r"(e?mail|domain|company|site)|example|test|domain|company|you|me)\.\w+"
)
_UNNAMED: Final = re.compile(
    r"|\W+|none|null|nil|unknown( author)?|root|nobody|user(name)?|\(no author\)|no author|anonymous"
    r"|your name( here)?|name"
    r"|first(name)? last(name)?|git|ubuntu|vagrant|ec2-user|github|gitlab|build(er)?"
)


def import_git(
    repo: Path, out: Path, *, keep_names: bool = False, keep_machine: bool = False, progress: Progress = silent
) -> Imported:
    """Writes the histories of all authors of the commits that lead to HEAD, for the task `git-commit`.

    Commits are left out if their subject is not the author's own words (merges, reverts, fixups, bots, generated
    subjects: see `git_subjects`), or if they have no subject, no changed files or, at the end of a shallow clone, no
    parents. The number of a pull request, which the host appends, is cut off.

    Args:
        repo: a repository, bare or not, or a folder in it.
        out: the history file to write.
        keep_names: use mail addresses as user ids, instead of their hashes.
        keep_machine: keep subjects that look generated; merges, reverts, fixups and bots are still left out.

    Returns:
        The result.

    Raises:
        DataError: the repository is missing or unreadable, or no commit can be used. Nothing is written then.

    Source: ours.
    """
    head = find_head(repo)
    imported, left_out, repeated = Imported("git-commit", files=[out]), Counter[str](), Counter[str]()
    templates = Templates(())
    if not keep_machine:
        with commit_log(repo, head, diffs=False) as commits:
            templates = Templates((_author(one), one.subject) for one in commits if not _why_not(one, looked=False))

    def why_not(commit: Commit) -> str | None:
        reason = _CUT if commit.hash in head.ends else _why_not(commit)
        if reason is None and (masked := templates.repeated(_author(commit), commit.subject)):
            repeated[masked] += 1
            return TEMPLATES
        return None if keep_machine and reason in MACHINE else reason

    def nothing() -> DataError:
        return DataError(
            f"The repository {repo} has no commit to learn from",
            got=reasons(left_out),
            expected="commits with a subject and changed files",
            hint="complete the shallow clone" if _CUT in left_out else None,
            command=f"git -C {quoted(repo)} fetch --unshallow" if _CUT in left_out else None,
        )

    with commit_log(repo, head) as commits:
        rows = _rows(_counted(commits, head, progress), why_not, keep_names, imported.records, left_out)
        write_rows(out, at_least_one(rows, nothing))
    imported.left_out, imported.templates = dict(left_out.most_common()), dict(repeated.most_common())
    return imported


def _rows(
    commits: Iterator[Commit],
    why_not: Callable[[Commit], str | None],
    keep_names: bool,
    records: dict[str, int],
    left_out: Counter[str],
) -> Iterator[dict[str, str]]:
    for commit in commits:
        if reason := why_not(commit):
            left_out[reason] += 1
            continue
        user = _author(commit) if keep_names else pseudonym(_author(commit))
        records[user] = records.get(user, 0) + 1
        row = {"user_id": user, "id": commit.hash, "time": commit.time, "files": _files(commit), "diff": _diff(commit)}
        yield {name: value for name, value in row.items() if value} | {"subject": own_words(commit.subject)}


def _why_not(commit: Commit, *, looked: bool = True) -> str | None:
    """The reason for leaving a commit out; None to keep it.

    Args:
        looked: whether the commit's files were read.
    """
    if commit.parents > 1:
        return MERGES
    if _is_bot(commit.name, commit.address):
        return "bots"
    if kind := known_kind(commit.subject, [changed.path for changed in commit.files]):
        return kind
    if commit.translated:
        return TRANSLATIONS
    if looked and not commit.changed:
        return "without changed files"
    return None if _author(commit) else "without an author"


def _author(commit: Commit) -> str:
    """The author of a commit in lower case: the address, or the name where the address is a default one.

    The two noreply forms of GitHub and GitLab are merged: `12+ada@users.noreply.github.com` becomes
    `ada@users.noreply.github.com`. Empty for an unknown author.
    """
    address, name = commit.address.lower(), " ".join(commit.name.lower().split())
    if not _SHARED.fullmatch(address):
        return _NOREPLY.sub("", address, count=1)
    if not _UNNAMED.fullmatch(name):
        return name
    login = address.partition("@")[0]
    return "" if _UNNAMED.fullmatch(login) or "@" in address else login


def _is_bot(name: str, address: str) -> bool:
    """Whether an author is a bot: by known names, or a name in "-bot" or "[bot]"; surnames such as "Talbot" are not.

    >>> _is_bot("semantic-release-bot", ""), _is_bot("", "49699333+dependabot[bot]@users.noreply.github.com")
    (True, True)
    >>> _is_bot("Ada Talbot", "talbot@example.org"), _is_bot("Jan Bot", "jan-bot@example.org")
    (False, False)
    """
    user, _, host = address.lower().partition("@")
    login = re.sub(r"^\d+\+", "", user)
    by_login = _BOTS.fullmatch(login) and ("noreply" in host or not login.endswith(("-bot", "-robot")))
    return any((_BOT_NAMES.fullmatch(name), _BOTS.fullmatch(name), by_login, _BOT_ADDRESSES.fullmatch(address.lower())))


def _files(commit: Commit) -> str:
    more = commit.changed - len(commit.files)
    return "\n".join([*map(_file, commit.files), *([f"and {more} more"] if more else [])])


def _file(changed: Changed) -> str:
    path = changed.path if len(changed.path) <= _WIDTH else "..." + changed.path[3 - _WIDTH :]
    return f"{path} (binary)" if changed.added is None else f"{path} +{changed.added} -{changed.removed}"


def _diff(commit: Commit) -> str:
    """The first changed lines, taken from removed and added lines of each file in turn."""
    turns = sorted((turn, source) for source, lines in enumerate(commit.lines) for turn in range(len(lines)))[:LINES]
    shown = ("-+"[source % 2] + commit.lines[source][turn] for source, turn in sorted((s, t) for t, s in turns))
    return "\n".join(line if len(line) <= _WIDTH else line[: _WIDTH - 3] + "..." for line in shown)


def _counted(commits: Iterator[Commit], head: Head, progress: Progress) -> Iterator[Commit]:
    for number, commit in enumerate(commits, 1):
        yield commit
        if number % 256 == 0 or number == head.commits:
            progress("commits", number, head.commits)
