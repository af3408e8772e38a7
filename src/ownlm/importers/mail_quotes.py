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
_BLOCK: Final = 6  # lines of headers within which a quoted message tells its sender and subject

_ON: Final = _any(words.ON)
_WROTE: Final = _any(words.WROTE)
_ADDRESS: Final = r"[<\[(][^<>\s]{1,80}@[^<>\s]{1,80}[>\])]"
_DAY: Final = r"\w{2,12}[.,]|\w{2,3} \d|[(\[]?\d"
_TIME: Final = r"\d{1,2}[:.h]\d\d"
_OPENING: Final = re.compile(rf"(?:{_ON}\b|{_DAY})(?=.{{0,60}}\d)")
_CLOSING: Final = re.compile(rf"{_WROTE}\S*(?: \S+){{0,5}} ?{_COLON}$|{_ADDRESS} ?{_COLON}$")
_DATED: Final = re.compile(rf"{_TIME}|\b[12]\d{{3}}\b|{_ADDRESS}")
_SAYING: Final = re.compile(rf"(?:{_WROTE}|{_ADDRESS}).{{0,80}}{_COLON}$|{_ADDRESS}$")
_SAYING_ALL: Final = re.compile(rf"(?=.*{_ADDRESS})(?=.*{_TIME}).*{_WROTE}")

_ORIGINAL: Final = re.compile(
    rf"[-_*=]{{2,}} ?{_any(words.ORIGINAL_MESSAGE)} ?[-_*=]{{2,}}$|{_any(words.BEGIN_FORWARDED)} ?{_COLON}$"
    rf"|-{{2,}} ?{_ON} .{{0,200}}{_WROTE} ?-{{2,}}$",
    re.I,
)
_FROM: Final = re.compile(rf"\W{{0,3}}{_any(words.FROM)}\*? ?{_COLON}\*? ?\S")
_SENT_OR_SUBJECT: Final = re.compile(rf"\W{{0,3}}{_any(words.SENT_OR_SUBJECT)}\*? ?{_COLON}")

_SIGNATURE: Final = re.compile(
    r"--$|[_\u2014\u2500]{20,}$"
)  # "-- ", whose blank is often lost; or a rule across the page
_DEVICE: Final = re.compile(rf"{_any(words.DEVICE)}.{{0,80}}$|.{{0,80}}{_any(words.DEVICE_END)}\.?$", re.I)
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
    kept: list[str] = []
    at = 0
    while at < len(lines) and not _ends(lines, at):
        count, certain = _attribution(lines, at)
        quoted = "".join(lines[at + count : at + count + 2]).startswith(">")
        if certain and not quoted:
            break
        if count and quoted:
            at += count
            continue
        if not lines[at].startswith(">"):
            kept.append(lines[at])
        at += 1
    while kept and (not kept[-1] or _RULE.match(kept[-1]) or _DEVICE.match(kept[-1])):
        kept.pop()
    return "\n".join(kept)


def _ends(lines: list[str], at: int) -> bool:
    """Whether the person's words end here: with a signature, or with someone else's message or its headers."""
    line = lines[at]
    if _SIGNATURE.match(line) or _ORIGINAL.match(line):
        return True
    if not _FROM.match(line):
        return False
    block = [line for line in lines[at + 1 : at + 2 * _BLOCK] if line][:_BLOCK]
    return any(map(_SENT_OR_SUBJECT.match, block))


def _attribution(lines: list[str], at: int) -> tuple[int, bool]:
    """How many lines here say who wrote what follows; and whether they must, even where no '>' follows."""
    first = lines[at]
    if not first or first.startswith(">") or len(first) > _LONGEST:
        return 0, False
    if _OPENING.match(first):  # it may be broken into lines
        told = ""
        for count, line in enumerate(lines[at : at + 4], 1):
            told = f"{told} {line}"
            if not line or line.startswith(">") or len(told) > _LONGEST:
                break
            if line[-1] in _ENDS and _CLOSING.search(told):
                return count, bool(_DATED.search(told))
    if first[-1] in _ENDS and _SAYING.search(first):
        return 1, bool(_SAYING_ALL.match(first))
    return 0, False
