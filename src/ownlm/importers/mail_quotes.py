"""A message's text without what others wrote in it, and without what it is signed with.

What mail programs write around a quotation is known by its words, in many languages; what people write that looks the
same is lost with it. A person's own closing, "Best regards", is theirs and stays.
"""

import re
from collections.abc import Iterable
from typing import Final

from ownlm.importers import mail_words as words


def _any(listed: Iterable[str]) -> str:
    return "(?:" + "|".join(map(re.escape, listed)) + ")"


_COLON: Final = "[:\uff1a]"
_ENDS: Final = ":\uff1a>])"  # of a line that says who wrote what follows
_LONGEST: Final = 400  # letters of the lines that say who wrote what follows
_MOST_LINES: Final = 5  # of them
_BLOCK: Final = 6  # lines of headers within which a quoted message tells its sender and subject

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
_ABBREVIATED: Final = re.compile(r"\b\w{1,5}\.\n(?![A-Z])")  # of a day, a month, a name
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

_SIGNATURE: Final = re.compile(
    r"--$|[_\u2014\u2500]{20,}$"
)  # "-- ", whose blank is often lost; or a rule across the page
_DEVICE: Final = re.compile(rf"(?!.*, .*\.$){_any(words.DEVICE)}.{{0,80}}$|.{{0,80}}{_any(words.DEVICE_END)}\.?$", re.I)
_RULE: Final = re.compile(r"[-_=*~#]{3,}$")

_PGP_HEAD: Final = re.compile(r"^-----BEGIN PGP SIGNED MESSAGE-----\n(?:.+\n)*", re.M)
_PGP_BLOCK: Final = re.compile(r"^-----BEGIN (PGP [A-Z ]{1,40})-----$.*?(?:^-----END \1-----$|\Z)", re.M | re.S)
_PICTURE: Final = re.compile(r"\[(?:cid|image|inline image)[: ][^\]\n]{0,200}\]", re.I)


def without_quotes(text: str) -> str:
    """The text, tidied before, without what it quotes, forwards or is signed with.

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
    """The lines; where one was broken before the '>' that closes an address, it is whole again."""
    whole: list[str] = []
    for line in lines:
        if (
            whole
            and line.startswith(">")
            and _CLOSED.match(_BIDIRECTIONAL.sub("", line))
            and not whole[-1].startswith(">")
        ):
            # The address may stand in a line of its own.
            pieces = [whole[-1]] if "<" in whole[-1] else whole[-2:]
            if _UNCLOSED.search(" ".join(pieces)) and "@" in " ".join(pieces):
                whole[-len(pieces) :] = ["".join(pieces) + line]
                continue
        whole.append(line)
    return whole


def _quoted(lines: list[str], at: int) -> bool:
    """Whether a quotation begins here, at most two empty lines below."""
    return "".join(lines[at : at + 3]).startswith(">")


def _ends(lines: list[str], at: int) -> bool:
    """Whether the person's words end here: with a signature, or with someone else's message or its headers."""
    line = lines[at]
    if _SIGNATURE.match(line) or _ORIGINAL.match(line):
        return True
    if _BETWEEN_DASHES.match(line):
        after = next((at + n for n, each in enumerate(lines[at + 1 : at + 4], 1) if each), len(lines))
        return after < len(lines) and _headers(lines, after, 2)
    return _headers(lines, at, 3)


def _headers(lines: list[str], at: int, fewest: int) -> bool:
    """Whether a quoted message's headers begin here; those that do not begin with the sender are `fewest` at least."""
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
    """How many lines here say who wrote what follows; and whether they must, even where no '>' follows."""
    if not _may_open(lines[at]):
        return 0, False
    told = ""
    for count, line in enumerate(lines[at : at + _MOST_LINES], 1):
        told = f"{told} {line}".lstrip(" -")
        if not line or line.startswith(">") or len(told) > _LONGEST:
            break
        if line[-1] in _ENDS and _begins_at(lines, at, at + count):
            certain = _is_certain(told, at == 0 or not lines[at - 1])
            if certain or (_quoted(lines, at + count) and _says(told)):
                return count, certain
        if _SENTENCE_END.search(line) and not _ABBREVIATED.search("\n".join(lines[at + count - 1 : at + count + 1])):
            break
    return 0, False


def _may_open(line: str) -> bool:
    """Whether a line may be the first that says who wrote what follows."""
    if not line or line.startswith(">") or len(line) > _LONGEST:
        return False
    line = line.lstrip("- ")
    return bool(
        _MAY_OPEN.match(line) or _SAID_THEN.match(line) or (line and line[-1] in _ENDS and _SAYING.search(line))
    )


def _begins_at(lines: list[str], at: int, end: int) -> bool:
    """Whether of all lines up to the end this is the first that belongs to them."""
    if any(_SAID_ON.match(lines[later].lstrip("- ")) for later in range(at + 1, end)):
        return False  # it begins there
    first = lines[at].lstrip("- ")
    if _SAID_ON.match(first) or _SAID_THEN.match(first) or end == at + 1:
        return True
    two = f"{first} {lines[at + 1]}"
    return bool(_SAID_ON.match(two) or _DAY_AND_NUMBER.match(two))


def _says(told: str) -> bool:
    """Whether lines say who wrote the quotation that follows them."""
    if (_SAID_ON.match(told) or _SAID_THEN.match(told)) and _CLOSING.search(told):
        return True
    return bool(_SAYING.search(told) or (told[-1] in ":\uff1a" and _TIME_AND_YEAR.match(told)))


def _is_certain(told: str, alone: bool) -> bool:
    """Whether lines can be nothing else; `alone` stand those with an empty line before them."""
    if (_SAID_ON.match(told) or _DAY_AND_NUMBER.match(told)) and _CLOSING.search(told):
        return bool(_DATED.search(told))
    return told[-1] in ":\uff1a" and bool(_SAYING_ALL.match(told)) and (alone or bool(re.search(_WROTE, told)))
