"""Which subjects a program wrote: known kinds, files named by web editors, and what a repository repeats."""

import pytest

from ownlm.importers.git_subjects import (
    AUTOMATIC,
    EDITORS,
    FIXUPS,
    MERGES,
    REPEATED,
    REVERTS,
    TRANSLATIONS,
    VERSIONS,
    WORDLESS,
    Templates,
    known_kind,
    own_words,
    template,
)

PATHS = ["README.md", "src/rain.py", "docs/{old.md => new.md}", "a.txt => b/c.txt", "Dockerfile"]
SUBJECTS = {
    MERGES: """
        Merge pull request #1 from ada/rain
        Merge pull request ada/rain#12 from bela/sun
        Merge branch 'rain' into 'main'
        Merge branch 'main' of https://example.org/ada/rain
        Merge branch main of example.org:ada/rain
        Merge remote-tracking branch 'origin/main'
        Merge remote branch 'upstream/main'
        Merge tag 'v1.2' into dev
        Merge commit 'abc1234' into rain
        Merged in rain (pull request #3)
        Merged rain into main (pull request #3)
        Merge #12
        Merge #12: Let it rain
        Merge PR #12 into main
        Merge upstream
        Merge master into develop
        merge with trunk
        Auto merge of #123 - ada:rain, r=bela
        Automatic merge from main
        Rollup merge of #12 - ada:rain, r=bela
        Merge "Let it rain" into stable
        Squashed commit of the following:
        Squashed 'lib/rain/' changes from abc1234..def5678
        WIP on main: abc1234 Let it rain
        Backport pull request #12 from ada/rain-1.2
        Automated cherry pick of #12: Let it rain
        """,
    REVERTS: """
        Revert "Let it rain"
        revert: let it rain
        Revert abc1234
        Revert commit abc1234def
        Reverts #12
        Reland "Let it rain"
        Backed out changeset abc1234def (bug 1)
        """,
    FIXUPS: """
        fixup! Let it rain
        squash! Let it rain
        amend! Let it rain
        fixup!
        """,
    WORDLESS: """
        .
        x
        ...
        -
        #123
        12
        """,
    TRANSLATIONS: """
        Translated using Weblate (German)
        Translated using Weblate (Chinese (Traditional)) Translation: Rain/App Translate-URL: https://example.org
        Added translation using Weblate (Filipino)
        Deleted translation using Weblate (Ido)
        Translations update from Hosted Weblate
        Translations update from Weblate (#123)
        Update translation files
        Update from Weblate
        New Crowdin updates (#12)
        New Crowdin translations
        New translations strings.xml (German)
        Update source file strings.xml
        Crowdin sync
        [tx-robot] updated from transifex
        fix(l10n): Update translations from Transifex
        Translate config/en.yml in de
        Apply translations in de
        Pontoon: Update German (de) localization of Rain
        Imported Translations from Zanata
        Localisation updates from https://translatewiki.net.
        Launchpad automatic translations update.
        Translated strings via POEditor
        Lokalise: translations update
        Automatic translation import
        SVN_SILENT made messages (.desktop file) - always resolve ours
        GIT_SILENT Sync po/docbooks with svn
        chore(i18n): sync translations from Crowdin
        """,
    EDITORS: """
        Update README.md
        Update README.md (#12)
        Create rain.py
        Update src/rain.py
        Delete Dockerfile
        Rename old.md to new.md
        Update a.txt
        Update file README.md
        Add files via upload
        Upload New File
        Add new file
        Update 3 files
        Initial commit
        Delete docs directory
        Apply suggestions from code review
        Apply suggestion(s) to 2 file(s)
        Apply 1 suggestion(s) to 1 file(s)
        rain.py edited online with Bitbucket
        Updated Home (markdown)
        Set up CI with Azure Pipelines
        Created using Colaboratory
        """,
    VERSIONS: """
        v1.2.3
        1.2.3
        1.2.3-rc.1
        v7.0.0-beta.32
        Release v1.2.3
        Release 0.18.0.rc0 (#2849)
        release: 1.2
        Releasing 0.19.2
        Version 1.2
        @scope/rain@1.2.3
        chore(release): 1.2.3 [skip ci]
        chore(release): Bump version to 4.11.0
        chore: release 1.2.1
        Bump rain from 1 to 2
        Bump rain from 1.0.1 to 1.0.2 in /docs
        build(deps): bump rain from 1 to 2
        Bump the actions group with 4 updates
        bump version
        Bump version to 1.2
        Bump version: 1.2 → 1.3
        Bump version number to 1.2
        Bump NPM version to 0.8.31 in preparation for publishing.
        version bump
        [maven-release-plugin] prepare release rain-1.2
        Prepare release 1.2
        Prepare for next development iteration
        Back to development: 1.3
        Version Packages
        Publish
        Update dependency rain to v1
        fix(deps): update dependency rain to v1
        chore(deps): update all non-major dependencies
        chore(package): update rain to version 1.2
        Lock file maintenance
        [Snyk] Security upgrade rain from 1 to 2
        Scheduled weekly dependency update for week 12
        Update actions/checkout action to v4
        Update rain Docker tag to v2
        Update submodules
        Updated from global requirements
        rain: update 1.2.3 bottle.
        """,
    AUTOMATIC: """
        [skip ci]
        [pre-commit.ci] auto fixes from pre-commit.com hooks
        [pre-commit.ci] pre-commit autoupdate
        pre-commit autoupdate
        [autofix.ci] apply automated fixes
        Auto-update
        Automatic update of the site
        auto commit
        Auto-generated documentation
        Automated commit by CI
        Deploy to GitHub pages
        Deploying to gh-pages from @ ada/rain@abc1234def 🚀
        docs: add ada as a contributor for code
        [ImgBot] Optimize images
        Restyled by black
        Sync with upstream @ abc1234def56
        Project import generated by Copybara.
        New repository initialized by cvs2svn.
        This commit was manufactured by cvs2svn to create tag
        *** empty log message ***
        no message
        Apply fixes from StyleCI
        Nightly build 2024-01-01
        """,
    None: """
        Merge duplicate code
        Merge branch prediction into the core
        Merged the two loops
        Remerge branch 'x'
        Revert to the old parser
        Reverting: no
        Back out of the room when it rains
        fixup
        fixup docs! now
        wip
        雨
        😅
        Fix #12
        Add Weblate to the list of tools
        Remove quotation marks added by weblate
        Fix the Crowdin config
        Translate the error messages
        Updated Italian and added Hungarian translation
        Update README.md and the docs
        Update elsewhere.md
        update the README
        Create a rain gauge
        Delete the old parser
        add test case
        Add py.typed
        Release the lock before waiting
        Release memory of large tensors
        Publish events in order
        Version the cache
        Prepare statements once
        Prepare the next step in the background
        Bump the heap when it is full
        Bump miow dependency to not assume a memory layout
        update dependency queue to consider the cost of each node
        Update min server version check
        Update to the latest parser API
        Set the version of the cache by its content
        Support Python 3.12
        Upgrade the kernel
        Automatic retries for uploads
        Automatically detect the encoding
        Auto-completion of names
        Add a contributor guide
        Sync the clocks before the test
        Import torch later
        Deploy the server in a container
        Add [skip ci] to the docs commits
        No messages are lost any more
        Initial support for rain
        Roll back the transaction on errors
        Make the release notes shorter
        Apply the patch of the upstream project
        """,
}


@pytest.mark.parametrize("kind", SUBJECTS)
def test_kinds_of_subjects(kind: str | None) -> None:
    subjects = [line.strip() for line in SUBJECTS[kind].strip().splitlines()]
    assert {subject: known_kind(subject, PATHS) for subject in subjects} == dict.fromkeys(subjects, kind)


def test_a_file_that_was_not_changed_is_not_named_by_an_editor() -> None:
    assert known_kind("Update rain.py", ["src/rain.py"]) == EDITORS
    assert known_kind("Update rain.py", ["src/brain.py", "rain.py.txt"]) is None


def test_own_words() -> None:
    assert [own_words(one) for one in ("Rain (#1)", "Rain (#1) (#2)", "Rain (!3)", "Merged PR 12: Rain", "(#1)")] == [
        "Rain", "Rain", "Rain", "Rain", "(#1)"]  # fmt: skip
    assert own_words("Rain (see #1)") == "Rain (see #1)" and own_words("Fix (#1) again") == "Fix (#1) again"


def repeated(*groups: tuple[str, list[str]]) -> dict[str, str | None]:
    """Each template that counts, by a subject of it."""
    written = [(author, subject) for author, subjects in groups for subject in subjects]
    templates = Templates(written)
    return {subject: templates.repeated(author, subject) for author, subject in written}


def test_what_a_repository_repeats() -> None:
    kernels = [f"Linux: Update kernel 5.4.{n} (#{n})" for n in range(REPEATED)]
    assert set(repeated(("ada", kernels)).values()) == {"linux: update kernel #"}
    assert set(repeated(("ada", kernels[1:])).values()) == {None}
    several = [(f"person {n}", [subject]) for n, subject in enumerate(kernels)]
    assert set(repeated(*several).values()) == {"linux: update kernel #"}


def test_what_people_repeat() -> None:
    own = [f"Something else {'x' * n}" for n in range(REPEATED + 1)]
    for text in ("Fix #{}", "Fix the issue #{} of the parser", "Add {}", "Fix typo"):
        subjects = [text.format(n) for n in range(REPEATED)]
        assert set(repeated(("ada", subjects + own)).values()) == {None}, text


def test_a_program_without_a_name() -> None:
    same = ["Localize the app"] * REPEATED
    assert repeated(("robo", same))[same[0]] == "localize the app"
    other = [f"Something else {'x' * n}" for n in range(REPEATED + 1)]
    assert repeated(("ada", same + other))[same[0]] is None
    assert repeated(("ada", same * 5 + other * 9))[same[0]] == "localize the app"
    by_many = [(f"person {n}", [*same[:1], *other]) for n in range(REPEATED)]
    assert repeated(*by_many)[same[0]] is None


def test_templates() -> None:
    assert template("Update @ada's rain to v1.2 (a, b), see https://example.org abc1234 (#7)") == (
        "update <name>'s rain to # (*), see <url> #"
    )


def test_a_long_subject_is_looked_at_in_little_time() -> None:
    assert known_kind("word " * 100_000) is None and len(template("1 " * 100_000)) < 1000
