"""Decoders of Windows' Japanese charsets that Python lacks: JIS with the vendor rows of cp932."""

import re
from typing import Final

_ESCAPE: Final = re.compile(rb"(\x1b\([BJHI]|\x1b\$[@B]|\x1b\$\(D|[\x0e\x0f])")
_EUC: Final = re.compile(rb"[\x00-\x7f]+|\x8e[\xa1-\xdf]|\x8f[\xa1-\xfe]{2}|[\xa1-\xfe]{2}")


def cp50221(data: bytes) -> str:
    """Decodes ISO-2022-JP with rows 13 and 89 to 92 of NEC and IBM, and half-width kana.

    Raises:
        ValueError: the bytes are not in this charset.

    >>> cp50221(b"\\x1b$B-!\\x1b(B 1")
    '① 1'
    """
    text, mode, before = "", b"B", b"B"
    for piece in _ESCAPE.split(data):
        if piece in (b"\x0e", b"\x0f"):
            mode, before = (b"I", mode) if piece == b"\x0e" else (before, mode)
        elif piece.startswith(b"\x1b"):
            mode = piece[1:] if piece == b"\x1b$(D" else b"$" if piece[1:2] == b"$" else piece[-1:]
        elif mode == b"$":
            text += _shifted(piece)
        elif mode == b"$(D":
            text += b"".join(b"\x8f" + _high(piece[at : at + 2]) for at in range(0, len(piece), 2)).decode("euc_jp")
        elif b"\x1b" in piece:
            raise ValueError("another escape sequence")
        else:
            text += _high(piece).decode("cp932") if mode == b"I" else _eight_bits(piece)
    return text


def _eight_bits(piece: bytes) -> str:
    """Decodes bytes between escape sequences, ideally ASCII: UTF-8, else Shift JIS if it cannot be EUC-JP."""
    for codec in ("utf-8", "euc_jp"):
        try:
            text = piece.decode(codec)
        except UnicodeDecodeError:
            continue
        if codec == "utf-8":
            return text
        raise ValueError("EUC-JP, or half-width kana")
    text = piece.decode("cp932")
    if re.search("[\ue000-\uf8ff]", text):
        raise ValueError("unknown vendor characters")
    return text


def cp51932(data: bytes) -> str:
    """Decodes EUC-JP with the same vendor rows.

    Raises:
        ValueError: the bytes are not in this charset.
    """
    pieces = _EUC.findall(data)
    if sum(map(len, pieces)) != len(data):
        raise ValueError("not EUC-JP")
    return "".join(map(_of_euc, pieces))


def _of_euc(piece: bytes) -> str:
    if piece[0] == 0x8E:
        return piece[1:].decode("cp932")
    return piece.decode("euc_jp") if piece[0] < 0x80 or piece[0] == 0x8F else _shifted(bytes(b & 0x7F for b in piece))


def _high(piece: bytes) -> bytes:
    return bytes(byte | 0x80 if byte > 0x20 else byte for byte in piece)


def _shifted(piece: bytes) -> str:
    """Decodes pairs of 7-bit JIS X 0208 with vendor rows, through Shift JIS; line ends may come between pairs."""
    shifted = bytearray()
    at = 0
    while at < len(piece):
        first, second = piece[at], piece[at + 1] if at + 1 < len(piece) else 0
        if first <= 0x20:
            shifted.append(first)
            at += 1
            continue
        if not (first < 0x7F and 0x21 <= second < 0x7F):
            raise ValueError("not a pair")
        shifted.append((first + 1) // 2 + (0x70 if first < 0x5F else 0xB0))
        low = second + (0x1F if first & 1 else 0x7E)
        shifted.append(low + 1 if first & 1 and low >= 0x7F else low)
        at += 2
    return shifted.decode("cp932")
