"""Removal of quotations, forwarded messages and signatures from a message's text.

Mail programs' lines around a quotation are recognised by their words, in many languages; a sender's own line of the
same form is lost. The sender's closing ("Best regards") stays.
"""

import re
from collections.abc import Iterable
from typing import Final

from ownlm.importers.mail import words


def _any(listed: Iterable[str]) -> str:
    return "(?:" + "|".join(map(re.escape, listed)) + ")"


_COLON: Final = "[:\uff1a]"
_ENDS: Final = ":\uff1a>])"  # most letters of a line of an attribution
_LONGEST: Final = 400  # most letters of an attribution
_MOST_LINES: Final = 5  # most lines of an attribution
_BLOCK: Final = 6  # lines in which a quoted message's headers have the sender and subject

_ON: Final = _any(words.ON)
_WROTE: Final = _any(words.WROTE)
_ADDRESS: Final = r"[<\[(](?:mailto:)?[^<>\s]{1,80}@[^<>\s]{1,80}[>\])]"
_DAY: Final = r"\w{2,12}[.,]|\w{2,3} \d|[(\[]?\d"
_TIME: Final = r"\d{1,2}[:.h]\d\d"
_SAID_ON: Final = re.compile(rf"{_ON}(?:\b|(?=\W))(?=.{{0,60}}\d)")
_DAY_AND_NUMBER: Final = re.compile(rf"(?:{_DAY})(?=.{{0,60}}\d)")
_SAID_THEN: Final = re.compile(rf"(?:{_DAY})(?=.{{0,60}}\d)|.*{_ADDRESS}|(?=.*{_TIME}).*\d{{4}}|.*{_WROTE}.*\d")
_MAY_OPEN: Final = re.compile(rf"(?:{_ON}(?:\b|(?=\W))|{_DAY})")
_CLOSING: Final = re.compile(rf"{_WROTE}\S*(?: \S+){{0,5}} ?{_COLON}$|{_ADDRESS} ?{_COLON}$")
_DATED: Final = re.compile(rf"{_TIME}|\b[12]\d{{3}}\b|{_ADDRESS}")
_SAYING: Final = re.compile(rf"(?:{_WROTE}|{_ADDRESS}).{{0,80}}{_COLON}$|{_ADDRESS}$")
_SAYING_ALL: Final = re.compile(
    rf"(?=.*{_ADDRESS})(?=.*{_TIME})(?:.*{_WROTE}|.*\b\d{{4}}\b)|(?=.*{_TIME})(?=.*\d{{4}}).*{_WROTE}"
)
_TIME_AND_YEAR: Final = re.compile(
    rf"(?=.*{_TIME})(?=.*{_ADDRESS}|.*{_WROTE}|(?:{_DAY})|.*\d\S* ?{_COLON}$).*\b\d{{4}}(?!\d)"
)
_SENTENCE_END: Final = re.compile(r"[.!?:;\u2026\u3002\uff01\uff1f\uff1a]['\")\]]*$")
_ABBREVIATED: Final = re.compile(r"\b\w{1,5}\.\n(?![A-Z])")  # abbreviation of a day, a month, a name
_UNCLOSED: Final = re.compile(r"[<(\[][^<>()\[\]]{0,80}$")
_CLOSED: Final = re.compile(rf">[)\]]?,? ?(?:\S.{{0,80}})?{_COLON}$")
_BIDIRECTIONAL: Final = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")

_ORIGINAL: Final = re.compile(
    rf"[-_*=]{{2,}} ?{_any(words.ORIGINAL_MESSAGE)} ?[-_*=]{{2,}}$|{_any(words.BEGIN_FORWARDED)} ?{_COLON}$"
    rf"|-{{2,}} ?.{{0,200}}{_WROTE} ?{_COLON}? ?-{{2,}}$",
    re.I,
)
_BETWEEN_DASHES: Final = re.compile(
    rf"[-_*=]{{3,}}.{{2,60}}?[-_*=]{{3,}}$|{_any(words.ORIGINAL_MESSAGE)}{_COLON}?$", re.I
)
_FROM: Final = re.compile(rf"\W{{0,3}}{_any(words.FROM)}\*{{0,2}} ?{_COLON}\*{{0,2}} ?.{{0,80}}[^\W\d_]")
_SENT_OR_SUBJECT: Final = re.compile(rf"\W{{0,3}}{_any(words.SENT_OR_SUBJECT)}\*{{0,2}} ?{_COLON}")
_OTHER: Final = re.compile(rf"\W{{0,3}}{_any(words.OTHER_HEADER)}\*{{0,2}} ?{_COLON}")

_SIGNATURE: Final = re.compile(r"--$|[_\u2014\u2500]{20,}$")  # "-- ", often without its blank; or a horizontal rule
_DEVICE: Final = re.compile(rf"(?!.*, .*\.$){_any(words.DEVICE)}.{{0,80}}$|.{{0,80}}{_any(words.DEVICE_END)}\.?$", re.I)
_RULE: Final = re.compile(r"[-_=*~#]{3,}$")

_PGP_HEAD: Final = re.compile(r"^-----BEGIN PGP SIGNED MESSAGE-----\n(?:.+\n)*", re.M)
_PGP_BLOCK: Final = re.compile(r"^-----BEGIN (PGP [A-Z ]{1,40})-----$.*?(?:^-----END \1-----$|\Z)", re.M | re.S)
_PICTURE: Final = re.compile(r"\[(?:cid|image|inline image)[: ][^\]\n]{0,200}\]", re.I)


def without_quotes(text: str) -> str:
    """Removes quotations, forwarded messages and signatures from a tidied text.

    >>> without_quotes("Yes.\\nOn 6 May 2024 at 10:00, Ada <ada@example.org> wrote:\\n> Rain?\\nAnd no.\\n--\\nBob")
    'Yes.\\nAnd no.'
    """
    signed = _PGP_HEAD.search(text)
    lines = _PICTURE.sub("", _PGP_BLOCK.sub("", _PGP_HEAD.sub("", text))).split("\n")
    if signed:
        lines = [line.removeprefix("- ") for line in lines]
    lines = _closed(lines)
    bare = [_BIDIRECTIONAL.sub("", line) for line in lines]
    kept: list[str] = []
    at = 0
    while at < len(lines) and not _ends(bare, at):
        count, certain = _attribution(bare, at)
        quoted = _quoted(bare, at + count)
        if certain and not quoted:
            break
        if count and quoted:
            at += count
            continue
        if not bare[at].startswith(">"):
            kept.append(lines[at])
        at += 1
    while kept and (not kept[-1] or _RULE.match(kept[-1]) or _DEVICE.match(kept[-1])):
        kept.pop()
    return "\n".join(kept)


def _closed(lines: list[str]) -> list[str]:
    """Rejoins lines broken before the '>' that closes an address."""
    whole: list[str] = []
    for line in lines:
        if (
            whole
            and line.startswith(">")
            and _CLOSED.match(_BIDIRECTIONAL.sub("", line))
            and not whole[-1].startswith(">")
        ):
            # The address may be on its own line.
            pieces = [whole[-1]] if "<" in whole[-1] else whole[-2:]
            if _UNCLOSED.search(" ".join(pieces)) and "@" in " ".join(pieces):
                whole[-len(pieces) :] = ["".join(pieces) + line]
                continue
        whole.append(line)
    return whole


def _quoted(lines: list[str], at: int) -> bool:
    """Whether a quotation begins at this line, or after at most two empty ones."""
    return "".join(lines[at : at + 3]).startswith(">")


def _ends(lines: list[str], at: int) -> bool:
    """Whether the sender's text ends here: at a signature, or another message or its headers."""
    line = lines[at]
    if _SIGNATURE.match(line) or _ORIGINAL.match(line):
        return True
    if _BETWEEN_DASHES.match(line):
        after = next((at + n for n, each in enumerate(lines[at + 1 : at + 4], 1) if each), len(lines))
        return after < len(lines) and _headers(lines, after, 2)
    return _headers(lines, at, 3)


def _headers(lines: list[str], at: int, fewest: int) -> bool:
    """Whether a quoted message's headers begin here; if not with the sender, there are at least `fewest`."""
    block = [line for line in lines[at : at + 2 * _BLOCK] if line][: _BLOCK + 1]
    if _FROM.match(lines[at]):
        named = "@" in lines[at] or sum(map(_is_header, block)) > 2
        return any(map(_SENT_OR_SUBJECT.match, block[1:])) and (named or fewest < 3)
    if not _is_header(lines[at]):
        return False
    known = 0
    for line in block:
        if not _is_header(line):
            break
        known += 1
    block = block[:known]
    return known >= fewest and any(map(_FROM.match, block)) and any(map(_SENT_OR_SUBJECT.match, block))


def _is_header(line: str) -> bool:
    return bool(_FROM.match(line) or _SENT_OR_SUBJECT.match(line) or _OTHER.match(line))


def _attribution(lines: list[str], at: int) -> tuple[int, bool]:
    """Finds an attribution ("... wrote:"): its number of lines, and whether it is certain without a following '>'."""
    if not _may_open(lines[at]):
        return 0, False
    joined = ""
    for count, line in enumerate(lines[at : at + _MOST_LINES], 1):
        joined = f"{joined} {line}".lstrip(" -")
        if not line or line.startswith(">") or len(joined) > _LONGEST:
            break
        if line[-1] in _ENDS and _begins_at(lines, at, at + count):
            certain = _is_certain(joined, at == 0 or not lines[at - 1])
            if certain or (_quoted(lines, at + count) and _says(joined)):
                return count, certain
        if _SENTENCE_END.search(line) and not _ABBREVIATED.search("\n".join(lines[at + count - 1 : at + count + 1])):
            break
    return 0, False


def _may_open(line: str) -> bool:
    """Whether a line may begin an attribution."""
    if not line or line.startswith(">") or len(line) > _LONGEST:
        return False
    line = line.lstrip("- ")
    return bool(
        _MAY_OPEN.match(line) or _SAID_THEN.match(line) or (line and line[-1] in _ENDS and _SAYING.search(line))
    )


def _begins_at(lines: list[str], at: int, end: int) -> bool:
    """Whether an attribution that ends here begins at this line."""
    if any(_SAID_ON.match(lines[later].lstrip("- ")) for later in range(at + 1, end)):
        return False  # it begins at the later line
    first = lines[at].lstrip("- ")
    if _SAID_ON.match(first) or _SAID_THEN.match(first) or end == at + 1:
        return True
    two = f"{first} {lines[at + 1]}"
    return bool(_SAID_ON.match(two) or _DAY_AND_NUMBER.match(two))


def _says(joined: str) -> bool:
    """Whether joined lines are the attribution of a quotation that follows."""
    if (_SAID_ON.match(joined) or _SAID_THEN.match(joined)) and _CLOSING.search(joined):
        return True
    return bool(_SAYING.search(joined) or (joined[-1] in ":\uff1a" and _TIME_AND_YEAR.match(joined)))


def _is_certain(joined: str, alone: bool) -> bool:
    """Whether joined lines are an attribution without doubt; `alone`: an empty line precedes them."""
    if (_SAID_ON.match(joined) or _DAY_AND_NUMBER.match(joined)) and _CLOSING.search(joined):
        return bool(_DATED.search(joined))
    return joined[-1] in ":\uff1a" and bool(_SAYING_ALL.match(joined)) and (alone or bool(re.search(_WROTE, joined)))
