"""Plausibility checks of stated charsets for bytes that decode without an error in any case."""

import re
from typing import Final

_ASCII_LETTER: Final = re.compile("[A-Za-z]")
_WORD: Final = re.compile("[A-Za-z\xc0-\xd6\xd8-\xf6\xf8-\xff\u0152\u0153\u0160\u0161\u0178\u017d\u017e]+")
# Runs of characters outside ASCII, without the punctuation around words.
_EDGES: Final = "\xa1\xab\xbb\xbf"
_RUN: Final = re.compile("[^\x00-\x7f\xa0\u2013\u2014\u2018\u2019\u201c\u201d\u2022\u2026\u20ac]{2,}")
_LETTERS: Final = re.compile("[\xc0-\xff]")
# Adjacent accented letters of western words, or of lists of a language's letters.
_SETS: Final = tuple(
    frozenset(letters + letters.upper())
    for letters in (
        *("\xe4\xf6\xfc\xdf", "\xe5\xe4\xf6\xe9", "\xe6\xf8\xe5", "\xe1\xe9\xed\xf3\xfa\xf1\xfc"),
        *("\xe9\xe8\xe0\xe7\xf9", "\xe3\xf5\xe7", "\xe9\xea\xef"),
    )
)
_ICELANDIC: Final = frozenset(
    "\xe1\xe9\xed\xf3\xfa\xfd\xf0\xfe\xe6\xf6\xc1\xc9\xcd\xd3\xda\xdd\xd0\xde\xc6\xd6\xf8\xd8"
)
_PAIRS: Final = ("\xfe\xfa", "\xfe\xf3")  # Icelandic words
_FOREIGN: Final = re.compile(
    "[A-Za-z\xc0-\xff][\xa1-\xa3\xa5\xa6\xa8\xac\xaf\xb3\xb6\xb8\xb9\xbc-\xbf]+[a-z\xc0-\xff]"  # signs inside words
    "|[A-Za-z\xc0-\xff][\xaa\xae\xba\xbe\u2020\u2021\u2030\u0192\u201a\u201e\u02c6\u2039\u203a\u2122][a-z\xc0-\xff]"
    "|[A-Za-z\xc0-\xff]{2}\xb1[a-z\xc0-\xff]|[A-Za-z\xc0-\xff]\xb1[a-z\xc0-\xff]{2}"
    "|[a-z\xc0-\xff][\xb1\xb6\xbc\xbe\xbf](?!\\w)|(?<!\\w)[a-z\xc0-\xff]{1,2}(?<!m)[\xb3\xb9](?!\\w)"  # at their end
    "|\u0153(?:[rwmbkpz\xe6]|(?!\\w))"
    "|(?<![\\d\\w])[\xb1\xb3\xb6\xb9\xbc\xbe\xa3\xa5\xa6\xaf][a-z\xc0-\xff]{2}"  # signs at the beginning of words
    "|([\u201a\u0192])[^\\s]\\1[^\\s]"  # kana in Shift JIS
)
# Within one word: Czech and Slovak in cp1250, Hungarian, Turkish in cp1254, Lithuanian and Latvian in cp1257.
_FOREIGN_WORD: Final = re.compile(
    "(?=.*[\u0161\u017e\u0160\u017d])(?=.*[\xe8\xec\xf9\xf8\xf2\xef\xe6\xc8\xd8\xcc\xd9])"
    "|(?=.*[\xec\xf9\xcc\xd9])(?=.*[\xfd\xe1\xed\xdd\xc1\xcd])"
    "|(?=.*[\xf8\xd8])(?=.*[\xfd\xec\xdd\xcc])"
    "|(?=.*\xf5(?!e))(?=.*[\xe1\xe9\xed\xf3\xfa])"
    "|(?=.*[\xf0\xfe\xd0\xde])(?=.*[\xe7\xc7\xfc\xdc\xe0\xe8\xeb\xea\xfb])|(?=.*\xfe)(?=.*\xf8)"
    "|.*\xfe(?:$|[b-df-hk-np-tw-xz\xe7])"
)
_TYPOGRAPHY: Final = "\xa0-\xbf\u0300-\u036f"
_SCRIPTS: Final = tuple(
    re.compile(f"[{letters}{_TYPOGRAPHY}]+")
    for letters in (
        *("\xc0-\u017f\u0218-\u021b", "\u0386-\u03ce", "\u0401-\u040f\u0410-\u045f\u0490\u0491"),
        *("\u05b0-\u05ea", "\u060c\u061b\u061f\u0621-\u0652\u0660-\u0669\u067e\u0686\u0698\u06a9\u06af\u06cc"),
    )
)
_LATIN_WORD: Final = re.compile(
    "[A-Za-z]+[\xc0-\u017f]+[A-Za-z]|[A-Za-z]{3}\xe9|[a-z]{3}[\xc0-\u017f]|[\xc0-\u017f][a-z]{1,2}[\xc0-\u017f]|(?<!\\w)[\xc0-\u017f][a-z]{3}"
)

_GREEK_SIGN: Final = re.compile(rb"(?<![\xb6-\xfe])\xa2(?=[\xc1-\xfe])")
# Words before one that has lost its first vowel, such as "na 'nai".
_ELIDING: Final = re.compile(
    b"(?:%s) \xa2"
    % "|".join(
        (
            "\u03bd\u03b1",
            "\u03b8\u03b1",
            "\u03c0\u03bf\u03c5",
            "\u03bc\u03bf\u03c5",
            "\u03c3\u03bf\u03c5",
            "\u03ba\u03b1\u03b9",
            "\u03c4\u03b9",
        )
    ).encode("iso8859-7")
)


def is_western(text: str) -> bool:
    """Whether text decoded as cp1252 looks like a western language.

    The test is about letters, not words. Short Czech, Hungarian or Turkish texts may pass it, since most of their
    letters are western ones.

    >>> [is_western(text) for text in ("Gr\\u00fc\\u00dfe", "\\u00cf\\u00f0\\u00e8\\u00e2\\u00e5\\u00f2")]
    [True, False]
    """
    if _FOREIGN.search(text) or any(_FOREIGN_WORD.match(word) for word in _WORD.findall(text)):
        return False
    latin = bool(_ASCII_LETTER.search(text))
    pairs = 0
    for match in _RUN.finditer(text):
        run = match[0].strip(_EDGES)
        letters = _LETTERS.findall(run)
        listed = run == run.lower() or run == run.upper()
        sets = _SETS if latin else _SETS[:3]
        known = run.lower() in _PAIRS or any(set(run) <= each and (listed or each in _SETS[:3]) for each in sets)
        before, after = text[max(match.start() - 1, 0) : match.start()], text[match.end() : match.end() + 1]
        attached = bool(_ASCII_LETTER.match(before) or _ASCII_LETTER.match(after))
        if len(run) < 2 or not letters or known or (attached and len(run) < 6 and set(run) <= _ICELANDIC):
            continue
        if (len(run) > 2 and len(letters) > 1) or not latin:
            return False
        pairs += len(letters) == 2 and not attached
    return pairs < 2


def is_likely_utf8(data: bytes) -> bool:
    """Whether bytes stated to be in a double-byte charset are more likely UTF-8.

    Pairs of bytes may be characters in both. They are UTF-8 if there are longer sequences, which would be rare
    characters in double-byte charsets; if they are letters of one script of which some would be rare characters; or
    if they are Latin letters within ASCII words. A few short words are still decoded as stated, such as
    \\u8c22\\u8c22 in GB 2312, whose bytes could be Cyrillic letters.

    >>> is_likely_utf8("K\\u00f6ln".encode()), is_likely_utf8("\\u8c22\\u8c22".encode("gb2312"))
    (True, False)
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    outside = re.sub("[\x00-\x7f]+", "", text)
    if not outside or max(outside) >= "\u0800":
        return bool(outside)
    if _LATIN_WORD.search(text):
        return True
    rare = re.search(rb"[\xc3-\xdf][\x80-\xa0]", data) is not None
    return rare and len(outside) > 1 and any(script.fullmatch(outside) for script in _SCRIPTS)


def is_windows_greek(data: bytes) -> bool:
    """Whether bytes stated to be ISO 8859-7 are Windows Greek: by the letter in the place of an apostrophe.

    The letter, capital alpha with tonos, begins words; an apostrophe ends them, or replaces a lost first vowel.
    """
    if b"\xa1" in data or b"\xb6" in data:  # the opening quote, and the letter itself in ISO 8859-7
        return False
    return len(_GREEK_SIGN.findall(data)) > len(_ELIDING.findall(data))
