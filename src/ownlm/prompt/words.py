"""Splits text of any script into words, for retrieval and for ROUGE."""

import re
from functools import cache
from typing import Final
from unicodedata import category, normalize

_WORD: Final = re.compile(r"\w+")
_SIMPLE: Final = re.compile("[\x00-\u02ff\u2000-\u200c\u200e-\u2bff]*")  # no combining marks, none of the following
# Scripts that put no blanks between words: Han, kana, bopomofo, Yi, Thai, Lao, Burmese, Khmer, Tai, Balinese, Javanese.
_UNSPACED: Final = (
    "\u3005-\u3007\u3040-\u3096\u3099-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf"
    "\uf900-\ufaff\U0001aff0-\U0001b16f\U00020000-\U0003ffff\u0e00-\u0eff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"
    "\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\ua9df\uaa80-\uaadf"
)
_INVISIBLE: Final = re.compile("[\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef]")  # joiner, variants of a letter's shape
_WIDE: Final = re.compile("[\uff00-\uffef]+")  # full-width Latin, half-width kana


def segmented(text: str) -> list[list[str]]:
    """The words of a text in lower case, each as a list of its parts.

    A word is a run of letters, digits and `_` with their combining marks; it has one part. In scripts without blanks
    between words, the run counts as one word, and its parts are its characters with their marks.

    >>> segmented("It's हिन्दी, 東京 2024!")
    [['it'], ['s'], ['हिन्दी'], ['東', '京'], ['2024']]
    """
    text = text.lower()
    if _SIMPLE.fullmatch(text):
        return [[word] for word in _WORD.findall(text)]
    text = _WIDE.sub(lambda run: normalize("NFKC", run[0]).lower(), _INVISIBLE.sub("", text))
    runs, character = _patterns()
    found = runs.finditer(normalize("NFC", text))
    return [character.findall(run[0]) if run["unspaced"] else [run[0]] for run in found]


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns of words, and of the characters of an unspaced run."""
    marks = "".join(char for char in map(chr, range(0x300, 0x1E950)) if category(char)[0] == "M")
    character = rf"(?=\w)[{_UNSPACED}][{marks}]*"
    spaced = rf"(?![{_UNSPACED}])"
    return re.compile(rf"(?P<unspaced>(?:{character})+)|{spaced}\w(?:{spaced}[\w{marks}])*"), re.compile(character)
