"""The process that searches files for `traces`: `python search.py`, which imports little so that it starts quickly.

It reads a JSON document with paths and needles from stdin, and writes which files contain which needles.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from io import BufferedReader

WORD = 8  # bytes
FEW = 64  # forms that are searched for one by one; more are searched for together, by their first word
BLOCK = 2**20  # bytes read at a time: whole pages of any size
_TREES = {2: 12, 5: 12, 10: 8, 13: 8}  # header lengths by kind, of pages with cells


def _search(paths: list[bytes], needles: list[list[bytes]], unused: bool) -> list[tuple[int, list[int]]]:
    find, overlap = _finder(needles), max(len(form) for forms in needles for form in forms) - 1
    hits = []
    for place, path in enumerate(paths):
        numbers = set[int]()
        try:
            with open(path, "rb") as file:
                for block in _unused(file) if unused else _blocks(file, overlap):
                    numbers |= find(block)
        except FileNotFoundError:  # another process removed it
            continue
        except OSError as error:  # an error of read() has no path
            raise OSError(error.errno, error.strerror, path) from None
        if numbers:
            hits.append((place, sorted(numbers)))
    return hits


def _finder(needles: list[list[bytes]]) -> Callable[[bytes], set[int]]:
    """A function that returns the numbers of the needles in a block."""
    single = [(form, number) for number, forms in enumerate(needles) for form in dict.fromkeys(forms)]
    together: list[tuple[bytes, int]] = []
    if len(single) > FEW:
        together = [one for one in single if len(one[0]) >= WORD]
        single = [one for one in single if len(one[0]) < WORD]
    starts: dict[int, list[tuple[bytes, int]]] = {}
    for form, number in together:
        starts.setdefault(int.from_bytes(form[:WORD], sys.byteorder), []).append((form, number))

    def find(block: bytes) -> set[int]:
        numbers, view = {number for form, number in single if form in block}, memoryview(block)
        for shift in range(min(WORD, len(block)) if starts else 0):
            words = view[shift : shift + (len(block) - shift) // WORD * WORD].cast("Q")
            for place in [place for place, word in enumerate(words) if word in starts]:
                at = shift + WORD * place
                numbers |= {number for form, number in starts[words[place]] if block.startswith(form, at)}
        return numbers

    return find


def _blocks(file: BufferedReader, overlap: int) -> Iterator[bytes]:
    last = b""
    while content := file.read(BLOCK):
        yield last + content
        last = (last + content)[-overlap:]


def _unused(file: BufferedReader) -> Iterator[bytes]:
    """The bytes between cell pointers and cells in the pages of an SQLite database, a block at a time.

    The first byte of a page is its kind. Other pages (overflow, free list) begin with a page number, so with a 0.

    Source: https://www.sqlite.org/fileformat2.html, 1.6.
    """
    size = 0
    while content := file.read(BLOCK):
        head, gaps = (0 if size else 100), list[bytes]()  # the first page follows the file's header
        size = size or _page_size(content)
        for start in range(0, len(content) - size + 1, size):
            at = start + head
            if (length := _TREES.get(content[at])) is not None:
                cells = int.from_bytes(content[at + 3 : at + 5], "big")
                end = int.from_bytes(content[at + 5 : at + 7], "big") or 65536
                if gap := content[at + length + 2 * cells : start + end].strip(b"\0"):
                    gaps.append(gap)
            head = 0
        yield b"\0".join(gaps)


def _page_size(content: bytes) -> int:
    size = int.from_bytes(content[16:18], "big")
    return 65536 if size == 1 else max(size, 512)


if __name__ == "__main__":
    given = json.load(sys.stdin)
    forms_of = [[bytes.fromhex(form) for form in one] for one in given["needles"]]
    try:
        json.dump(_search([bytes.fromhex(path) for path in given["paths"]], forms_of, given["unused"]), sys.stdout)
    except OSError as error:
        sys.exit(f"{error.strerror}: {os.fsdecode(error.filename)}")
