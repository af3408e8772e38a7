"""Detection of generated commit subjects: known tools' texts, and templates that a repository repeats."""

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

REPEATED: Final = 20  # least subjects of one template; measured on 14 repositories, see benchmarks/LOG.md
SHARE: Final = 0.5  # least share of an author's subjects
OFTEN: Final = 100  # least subjects of one author with the same words
_READ: Final = 300  # most characters of a subject
MERGES, REVERTS, FIXUPS, WORDLESS = "merges", "reverts", "fixups", "without a subject"
TRANSLATIONS, EDITORS, VERSIONS, AUTOMATIC, TEMPLATES = (
    "translation platforms",
    "default subjects of web editors and hosts",
    "versions and dependencies",
    "automatic commits",
    "repeated templates",
)
MACHINE: Final = frozenset({TRANSLATIONS, EDITORS, VERSIONS, AUTOMATIC, TEMPLATES})  # kinds that `keep_machine` keeps

_NUMBER: Final = (
    r"v?\d+(\.(\d+|x))*([-_.+ ]?(a|b|c|rc|alpha|beta|dev|pre|post|final|snapshot|release|ga|m|p|preview"
    r"|canary|next|hotfix|build|sp)[-_.]?\d*)*(\.\d+)*([-+][\w.]+)?"
)
_VERSION: Final = rf"[\"'`(]?([\w@/.-]+@)?{_NUMBER}[\"'`)]?(?!\w)"
_PREFIX: Final = r"\W*(\w+(\([\w/ -]*\))?!?: ?)?"
_TO: Final = (
    rf"( (for|to|in|->|→|after|post) (the )?({_VERSION}( .*)?|next.*|dev\w*|release\w*|snapshot|publish\w*"
    rf"|prepar\w*|\S+\.\w+))?"
)
_PLATFORM: Final = (
    r"(hosted |libre )?(weblate|transifex|tx|crowdin|pontoon|zanata|translatewiki(\.net)?|lokalise|localazy|poeditor"
    r"|onesky"
    r"|phrase(app)?|gitlocalize|smartling|launchpad|rosetta|locize|tolgee|memsource|l10n\.kde\.org|damned lies"
    r"|accent|simplelocalize)"
)
_LANGUAGE: Final = r"[\w@.-]+( \([^)]*\))?"
_PULL: Final = r"( \((#|!|gh-|pull request #)\d+\))*"

# Patterns match at the beginning of a subject, in any case; one that ends in "$" matches the whole subject.
_KNOWN: Final[dict[str, tuple[str, ...]]] = {
    MERGES: (
        r"merged? (remote(-tracking)? )?branch(es)? ['\"`]",
        r"merged? (remote(-tracking)? )?branch(es)? \S+ (of|from) \S+[:/]\S+",
        r"merged? (remote(-tracking)? )?branch(es)? \S+ (in)?to \S+$",
        r"merged? (pull|merge) requests? ([\w./-]*[#!]\d|in \S)",
        r"merged? (pr|mr|pull|gh-?|bug|issue)? ?[#!]\d+( from \S+| into \S+|: |:? ?[#!]\d+|$)",
        r"merged? (tag|commit|changeset|revision|rev)s? ['\"`r]?[\w./-]*\d[\w./-]*['\"`]?",
        r"merged? tag ['\"`]",
        r"merged in \S+ \(pull request #",
        r"merged? \S+ (in)?to \S+ \(pull request #",
        r"merged? (from |with |in |branch )?(the )?(latest |changes? from )?(upstream|origin|master|main|trunk"
        r"|develop|default|head|tip)"
        r"([/ ](upstream|origin|master|main|trunk|develop|default|head|tip|branch))*( (branch )?(in)?to \S+)?[.!]?$",
        r"merged? (changes?|revisions?|revs?) (from topic|via svnmerge|r?\d)",
        r"merged? (refs/|['\"] ?\w)",
        r"merge: .* (in)?to \S+$",
        r"auto(matic|mated)?[- ]?merge\b",
        r"(rollup|roll-up) (merge )?of #\d|rollup merge of",
        r"try #\d+:",
        r"squashed (commit of the following|'[^']+' (changes|content) from)",
        r"squash merge (branch|pull)",
        r"(add|split) '[^']+' (from|into) commit ",
        r"(wip on|index on|on) \(?[\w./ -]+\)?: ([0-9a-f]{7,40}\b|autostash)",
        r"automated cherry[- ]?pick of #",
        r"(auto(matic|mated)? )?(backport|cherry[- ]?pick) (of )?(pull request|pr|mr)?s? ?[#!]\d",
    ),
    REVERTS: (
        r"(revert|reapply|reland|unrevert) ['\"“]",
        r"(revert|unrevert)(\(.*?\))?!?: ",
        r"(revert|reapply|reland)(s|ed|ing)? (this |the )?(commit|changeset|merge|pull request|pr|mr"
        r"|revision)?s? ?([0-9a-f]{7,40}\b|[#!]\d|r\d)",
        r"this reverts (commit|merge)",
        r"(backed|back|backing) out (of )?(\d+ )?(changeset|commit|revision|rev|[0-9a-f]{7,40}\b)",
        r"rollback of ",
    ),
    FIXUPS: (r"(fixup|squash|amend)!( |$)",),
    TRANSLATIONS: (
        rf"(translat|add|delet|remov|updat)(e|ed|ing|es)? (a |the )?(new )?(translations?|languages?"
        rf"|strings?)? ?(using|via|with|on|from|through|by) {_PLATFORM}\b",
        rf"(translated|added translation|deleted translation|update[ds]? translations?"
        rf"|translations? updates?) (using|via|with|from) \w+ \({_LANGUAGE}\)",
        rf"(.* )?(translat|locali[sz]|l10n|i18n|strings?|languages?|locales?)\w*( \w+)* (from|via|using|by|with|on"
        rf"|through) (the )?(https?://)?{_PLATFORM}\b",
        rf"(\S+: )?(auto(matic|matically|mated)?[- ])?(\w+ )?(updat|import|sync|pull|merg|fetch|download|export"
        rf"|push)\w*( \w+)? (from|via|with|to|using) (https?://)?{_PLATFORM}\b(?! (config|url|link|doc|badge))",
        rf"\[?{_PLATFORM}([ -]?(bot|robot))?[\]:]* ((auto(matic|matically|mated)? )?(translat\w*|strings?"
        rf"|locali[sz]\w*|l10n) )?(sync\w*|updat\w*|pull\w*|import\w*|merge\w*)\b.{{0,40}}$",
        rf"(new |latest |update )({_PLATFORM}) (updates?|translations?|strings?|changes)",
        r"new translations? \S+ \(.+\)",
        r"(update|updated) source file \S+\.\w+$",
        r"(translate ['\"]?[\w./-]+\.\w+['\"]? in|apply translations in) ['\"]?[\w@-]+['\"]?$",
        r"translations? (update|import|sync)s?( from| by|$)",
        r"update translation files$",
        r"(auto(matic|mated)?[- ])(\w+ )?(translations?|locali[sz]ation|l10n|i18n|strings?)( \w+)?( import| updates?"
        r"| sync\w*| export)",
        r"(launchpad|translatewiki|l10n) automatic ",
        r"(locali[sz]ation|translation)s? updates? (from|by) ",
        r"pontoon(/[\w -]+)?: ",
        r"\[(tx|l10n|i18n|translation)[- ]?(ro)?bot\]",
        r"(svn|git|cvs)[_ ]silent:? (made messages|sync po|made |update (translations|messages)|automatic|po/)",
    ),
    EDITORS: (
        r"(add|added) files? via upload$",
        r"upload(ed)? new file$|add new (file|directory)$",
        r"(update|create|delete|rename|edit|replace)d? \d+ files?$",
        r"(updated|created|destroyed|deleted) .+ \((markdown|mediawiki|asciidoc|org|rest|textile|rdoc|creole|pod"
        r"|restructuredtext)\)$",
        r".+ (edited|created|deleted) online with bitbucket$",
        r"initial commit$",
        r"delete \S+ directory$",
        r"apply (\d+ )?suggest(ed|ion)s?( change)?(\(s\)|s)?( from (@[\w-]+|code review)( \[.*\])?"
        r"| to \d+ file(\(s\)|s)?|$)",
        r"(update|create) issue templates?$|set theme jekyll-theme-\S+$|create cname$|delete cname$",
        r"(update|set up ci with) (\S+ for )?azure pipelines",
        r"creat(e|ed) (using|with) cola(b|boratory)",
        r"update \S+ (from|via) (netlify|forestry|prismic|decap|stackedit|overleaf|github web|hackmd|gitbook)",
        r"(create|update|delete)d? \S+ [“\"].+[”\"]$",
        r"gitbook: |forestry: |updates from overleaf|update on overleaf|overleaf \d",
    ),
    VERSIONS: (
        rf"(\S+: ?)?(cut |tag(ged|ging)? |mark |make )?(the )?(re-?)?(releas(e|ed|es|ing)|version|rel|publish(ed"
        rf"|ing)?|tag)?[:\s#\-_/]*{_VERSION}( \(.+\)| \[.+\])*( (is (out|here)|released?|release|version))?[.!]?$",
        rf"(\[?\w+\]?[:!]? )?(chore|build|ci|release|ops)?(\((release|main|master|[\w./@-]+)\))?!?:? ?(releas(e|ed"
        rf"|ing)|publish(ed|ing)?|bump(ed|ing|s)?|version bump)( \w+)?[: -]+{_VERSION}",
        rf"{_PREFIX}(bump(s|ed|ing)?|up(ped)?|increas(e|ed|ing)|increment(ed|ing)?|raise[ds]?)( \S+){{0,3}} "
        rf"(versions?|revision|versioncode|snapshot|build number)( number| code| string)?( from \S+)?{_TO}$",
        rf"{_PREFIX}(update|updated|set|setting|change)( the| our| package| project| app| library| module)? "
        rf"version( number| code| string)?( from \S+)? (to|for) (the )?(v?(next|dev\w*|release|snapshot)|{_VERSION})$",
        rf"{_PREFIX}bump(s|ed)?( version)?:? (\S+ ){{0,5}}(to|→|->) (v?\d|[\"'`(]+v?\d|(the )?latest"
        rf"|[0-9a-f]{{7,40}}\b)",
        rf"{_PREFIX}bump the \S+ group|{_PREFIX}bump \S+$",
        rf"{_PREFIX}bump( to)? {_VERSION}$",
        r"\W*(post[- ]?release )?version bump(s|ed)?( (for|to) .*)?$|bump(ed|s)?( the)? versions?$",
        rf"(\w+: )?prepar(e|es|ed|ing)( \w+)? (for )?(the )?(next )?(new )?(release|version|development iteration"
        rf"|snapshot)( of)?( \S+)?( {_VERSION}.*)?$",
        rf"(\w+: )?prepar(e|es|ed|ing)( \w+)?( for)? {_VERSION}( \w+)?( release)?$",
        rf"(start|begin|open|back to|setting|set)( of)? (development|next|version)( version| iteration| cycle| on"
        rf"| of| for| to|:)* {_VERSION}",
        r"\[(maven|gradle|ivy)[- ](release|scm)[- ]plugin\]|\[ci skip\] prepare|\[gradle release|\(cargo-release\)",
        r"version packages|publish( packages?| release)?$|v?release$|new version$",
        r"(\W*\w+(\((deps?|dependencies|deps[-_]?dev|dev[-_]?deps|devdeps|package|npm|actions"
        r"|docker)[\w-]*\))!?: )(bump|updat|upgrad|pin|replac|lock|roll|refresh|migrat|widen|renovate|swap)",
        r"\W*\[?(snyk|security|renovate|dependabot|greenkeeper|pyup|depfu|mergify|whitesource)\]?( fix| update"
        r"| upgrade|:|\])",
        r"(fix|chore|feat|build)(\(\w*\))?: (upgrade \S+ from \S+ to \S+$|\S+( & \S+)? to reduce vulnerabilities)",
        r"\W*(lock file maintenance|(update|pin|roll back|replace) (dependency \S+ (to v?\d|digest|requirement|\[)"
        r"|all non-major|(dev)?dependencies \(non-major\)))",
        r"\W*(update|upgrade) (module )?\S+( \S+)? (action|digest|docker tag|docker digest|monorepo|orb"
        r"|helm release)( (to|from) \S+| digest to \S+)",
        r"\W*(update|upgrade|pin|bump) \S+ (requirement )?from \S+ to \S+",
        r"(scheduled )?(weekly|daily|monthly|bi-?weekly) (dependency|package)s? updates?",
        r"pin \S+ to latest version \S+$",
        r"\S+: update \S+ bottle\.?$",
        r"updated? (git )?submodules?( (pointer|reference|commit|revision)s?)?( to .*)?$",
        r"updated from global requirements|update (master|\.gitreview|tox_constraints_file"
        r"|upper_constraints\w*) (for|to) stable/",
        r"roll (src|recipe|deps|\S+)[ /]\S+ .*(\.\.|from .+ to )",
    ),
    AUTOMATIC: (
        r"auto(matic|mated|matically|mat)?[- ]?(update|import|sync|commit|release|publish|push|deploy(ment)?|build"
        r"|backport|translation|changelog|version|format(ting)?|fix|fixes|fixup|generat(e|ed|ion)|save|backup|roll"
        r"|rebuild|checkin|linting|lint)(d|s)?( (of|from|for|by|to|with|via|at|on|in)\b|[:;,.(\[\d-]|\s*$)",
        r"\W*(\[(auto(mated|matic)?|bot|ci|automation|automerge|autofix(\.ci)?|pre-commit\.ci|restyled?|format"
        r"|imgbot|github-action[s]?|botpress|codegen)( \w+)?\]):? ",
        r"(\w+(\(.*?\))?: )?(\[pre-commit\.ci\]|pre-commit auto-?(update|fix)|apply (automat(ed|ic) (fixes|changes"
        r"|format\w*)|fixes from styleci|php-cs-fixer changes|isort and black|automatic changes"
        r"|auto(matic)? formatting))",
        r"(deploy(ed|ing|s)?|publish(ed|ing)?|push(ed|ing)?|update(d)?|rebuild|built?)( (site|docs?|documentation"
        r"|website|pages|book|storybook))?( to| the)?:? ?(gh-pages|github pages|pages)\b",
        r"(deploy|publish|build|rebuild)(ed|ing)?( \S+){0,4} [0-9a-f]{7,40}$",
        r"(docs|chore|doc|readme|\W+)(\(.*?\))?:? ?(add|update) .+ as (an? )?contributors?( for .+)?( \[skip ci\])?$",
        r"(docs|chore)(\(.*?\))?: update (\.all-contributorsrc|readme\.md \[skip ci\])",
        r"(\[?imgbot\]? )?optimi[sz]e(d)? images( with calibre/image-actions)?$|restyled by |prettified code!?$",
        r"(style: )?(format|fix) code (style issues )?with (black|yapf|autopep8|prettier|gofmt|isort|standardjs"
        r"|rubocop|ruff formatter)",
        r"(sync|synced|syncing|synchroni[sz]e\w*|mirror\w*|import\w*|export\w*|update\w*"
        r"|upstream)\b.*[ @:(][0-9a-f]{10,40}\)?$",
        r"(project import generated by|copybara import|internal (change|copybara)|copybara-service|piperorigin)",
        r"new repository initialized by cvs2svn|this commit was (manufactured|generated) by"
        r"|standard project directories initialized",
        r"\W*(empty log message|no (commit |log )?(message|comment)s?|none)\W*$|(created|creating) (tag"
        r"|branch) \S+ from ",
        r"svn path=|git-svn-id|r\d+@\S+: ",
        r"\[?(skip[ -]ci|ci[ -]skip|no[ -]ci)\]?$",
        r"\[?generated\]? |auto-?generated|(automated|nightly|hourly|daily|scheduled) (commit|update|build|snapshot"
        r"|backup|sync|run|data|export)\b",
        r".* has signed the cla|@[\w-]+ has signed",
        r"(update|updated|updating) (data|stats|cache|feed|feeds|snapshot|metrics|results)?( at| on"
        r"| for)? ?\d{4}-\d\d-\d\d([ t]\d\d:\d\d.*)?$",
        r"(latest data|data update|update)[: ]+\w{3} \w{3} +\d+ \d\d:\d\d",
        r"update (contributors|sponsors|backers|authors list|contributors list)( list)?( \[skip ci\])?$",
    ),
}
_PATTERNS: Final = {
    kind: re.compile("|".join(f"(?:{one})" for one in patterns), re.IGNORECASE) for kind, patterns in _KNOWN.items()
}
_FILE: Final = re.compile(rf"(?:Update|Create|Delete|Rename|Replace|Edit)(?: file)? (\S+?)(?: to \S+)?{_PULL}")
_SUFFIX: Final = re.compile(rf"{_PULL.replace('*', '+')}$|^Merged PR \d+: ", re.IGNORECASE)
_SLOTS: Final = (
    (re.compile(r"https?://\S+|\S+@\S+\.\w+"), "<url>"),
    (re.compile(r"@[\w-]+"), "<name>"),
    (re.compile(r"\([^()]*\)"), "(*)"),
    (re.compile(r"\b(?=\w*\d)[0-9a-f]{7,40}\b|[#!]?\bv?\d[\w.+-]*"), "#"),
)
_ISSUE: Final = re.compile(
    r"\W*(fix|clos|resolv|ref|see|address|bug|issue|ticket|task|pr|gh|test|step|part|day|chapter|exercise|#)"
)
_LETTERS: Final = re.compile(r"[^\W\d_]")
_WORDS: Final = re.compile(r"[^\W\d_]{2,}")


def known_kind(subject: str, paths: Sequence[str] = ()) -> str | None:
    """The kind of a subject that is not its author's own words (merge, revert, generated); None for an own one.

    Args:
        paths: the changed files: web editors write "Update a.py" for a commit that changes a.py.

    >>> known_kind("Translated using Weblate (German)"), known_kind("Add Weblate to the list of tools")
    ('translation platforms', None)
    """
    subject = subject[:_READ]
    if not _says_something(subject):
        return WORDLESS
    for kind, pattern in _PATTERNS.items():
        if pattern.match(subject):
            return kind
    named = _FILE.fullmatch(subject)
    return EDITORS if named and any(_is_named(path, named.group(1)) for path in paths) else None


def own_words(subject: str) -> str:
    """The subject without the pull request number, which the host adds.

    >>> own_words("Let it rain (#12)"), own_words("Merged PR 7: Let it rain"), own_words("Rain (see #12)")
    ('Let it rain', 'Let it rain', 'Rain (see #12)')
    """
    return _SUFFIX.sub("", subject).strip() or subject


def template(subject: str) -> str:
    """The subject with its numbers, versions, hashes, addresses and brackets masked.

    >>> template("Linux: Update kernel 5.4.20 (#549)")
    'linux: update kernel #'
    """
    masked = own_words(subject[:_READ]).lower()
    for slot, mask in _SLOTS:
        masked = slot.sub(mask, masked)
    return masked


class Templates:
    """Templates that a repository repeats so often that their subjects must be generated.

    A template counts if at least 20 subjects have it, and it has three words or more beside a number, version, hash,
    address or bracket; or if one author wrote 100 subjects of it, or 20 that are half of all their subjects. Templates
    that begin like a reference to an issue ("Fix #12") need the latter. The limits were measured: benchmarks/LOG.md.

    Args:
        written: author and subject of each commit that is kept otherwise.

    Source: ours.
    """

    def __init__(self, written: Iterable[tuple[str, str]]) -> None:
        authors, templates = array("q"), array("q")  # 16 bytes a commit
        for author, subject in written:
            authors.append(hash(author))
            templates.append(hash(template(subject)))
        counts, totals = Counter(templates), Counter(authors)
        self._often = frozenset(one for one, count in counts.items() if count >= REPEATED)
        pairs = Counter(pair for pair in zip(authors, templates, strict=True) if pair[1] in self._often)
        self._own = frozenset(
            (author, one)
            for (author, one), count in pairs.items()
            if count >= OFTEN or (count >= REPEATED and count >= SHARE * totals[author])
        )

    def repeated(self, author: str, subject: str) -> str | None:
        """The subject's template, if it counts."""
        masked = template(subject)
        if hash(masked) not in self._often:
            return None
        if (hash(author), hash(masked)) in self._own:
            return masked
        words = len(_WORDS.findall(re.sub(r"<\w+>", "", masked)))
        varies = any(mask in masked for mask in ("#", "(*)", "<url>", "<name>"))
        return masked if varies and words >= 3 and not _ISSUE.match(masked) else None


def _says_something(subject: str) -> bool:
    """Whether there is a word or a symbol such as an emoji, and not only punctuation, one letter or a number."""
    if _LETTERS.search(subject):
        return len(subject) > 1 or ord(subject) > 0x2E7F  # a single Chinese character is a word
    return any(ord(letter) > 0x2190 for letter in subject) or re.search(r"\d\.\d", subject) is not None


def _is_named(path: str, name: str) -> bool:
    """Whether a path in `--numstat` form is the named file, before or after a rename."""
    before, _, after = path.partition(" => ")
    return any(f"/{one.strip('{}').replace('{', '')}".endswith(f"/{name}") for one in (before, after or before))
