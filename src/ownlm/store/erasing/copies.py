"""Search for deleted texts in the files of a home: copies beside the home's own files, and proof that none is left."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from sqlalchemy import Connection, select

from ownlm.errors import CopyError, StoreError
from ownlm.store import tables
from ownlm.store.database import DATABASE, HOME_FILES
from ownlm.store.erasing import traces
from ownlm.store.erasing.traces import Needle
from ownlm.store.exports import FOLDER as SERVED
from ownlm.store.pools import FOLDER as POOLS
from ownlm.store.store import Store

SHORTEST, LONGEST = 8, 48  # letters of a text that are searched for; a shorter text may be another user's
BATCH = 20_000  # texts searched for at a time
_HINT = "end the other processes that use the home, then check it"
_WEIGHTS = {"bases", "blobs", SERVED}  # the home's own folders without text of records


def needles_of(texts: Iterable[str]) -> tuple[list[Needle], int]:
    """The beginnings of texts, as UTF-8 and as JSON escapes; and the number of texts too short to search for."""
    texts = set(texts)
    beginnings = sorted({text[:LONGEST] for text in texts if len(text) >= SHORTEST})
    short = sum(0 < len(text) < SHORTEST for text in texts)
    return [_needle(text) for text in beginnings], short


def _needle(text: str) -> Needle:
    return tuple(dict.fromkeys((text.encode(), json.dumps(text)[1:-1].encode())))


def other_files(store: Store) -> Iterator[Path]:
    """Files in a home's folder that do not belong to the home, also those in the folders of pools."""
    for name, folders, files in os.walk(store.folder):
        folder = Path(name)
        if folder == store.folder:
            folders[:] = [one for one in folders if one not in _WEIGHTS]
            files = [one for one in files if one not in HOME_FILES]
        elif folder.parent == store.folder / POOLS:
            files = [one for one in files if not one.endswith((".json", ".safetensors"))]
        yield from (path for one in sorted(files) if (path := folder / one).is_file())


def copies_of(store: Store, needles: list[Needle]) -> list[tuple[Path, set[Needle]]]:
    """The other files of a home that contain some of the texts.

    Raises:
        StoreError: they cannot be searched.
    """
    try:
        return traces.found(other_files(store), needles)
    except OSError as error:
        what = f"The files of the home {store.folder} cannot be searched; nothing was removed"
        raise StoreError(what, got=error.strerror, hint="make them readable, or remove them") from None


def check_no_copies(db: Connection, copies: list[tuple[Path, set[Needle]]]) -> None:
    """Raises a CopyError where another file contains a text that is in no row any more.

    Args:
        db: transaction that deleted the rows.
        copies: result of `copies_of`.
    """
    if left := _left(db, copies):
        raise CopyError(
            f"A copy of the text to delete lies in {left[0]}; nothing was removed",
            hint="move that file out of the home, or remove it, and give the same command again",
        )


def prove_gone(store: Store, needles: list[Needle]) -> None:
    """Searches all files of a home except weights, including the database.

    Raises:
        StoreError: a text is still found, even after the database was rewritten; or a file cannot be read.
    """
    own = [path for path in store.folder.glob(f"{DATABASE}*") if path.is_file()]
    for again in (True, False):
        try:
            hits = traces.found([*own, *other_files(store)], needles)
        except OSError as error:
            raise StoreError(f"The home {store.folder} cannot be searched", got=error.strerror) from None
        with store.database.reading() as db:
            left = _left(db, hits)
        if not left:
            return
        if again and set(left) & set(own):
            store.database.vacuum()
    raise StoreError(f"Deleted text is still found in {left[0]}", hint=_HINT, command="ownlm doctor")


def files_with_records(store: Store) -> dict[Path, int]:
    """The other files of a home that contain texts of records, each with their number; they prevent deletions."""
    counts = dict[Path, int]()
    if not any(True for _ in other_files(store)):
        return counts
    with store.database.reading() as db:
        specs = "".join(db.execute(select(tables.tasks.c.spec)).scalars())
        rows = db.execute(select(tables.records.c.fields)).scalars()
        longest = {max(fields.values(), key=len, default="")[:LONGEST] for fields in rows}
    texts = sorted(text for text in longest if len(text) >= SHORTEST and json.dumps(text)[1:-1] not in specs)
    for start in range(0, len(texts), BATCH):
        for path, needles in copies_of(store, [_needle(text) for text in texts[start : start + BATCH]]):
            counts[path] = counts.get(path, 0) + len(needles)
    return counts


def _left(db: Connection, hits: list[tuple[Path, set[Needle]]]) -> list[Path]:
    """The files with a text that is in no row of the database."""
    if not hits:
        return []
    left = set[Needle]().union(*(here for _, here in hits))
    for row in db.exec_driver_sql(_ALL_TEXT):
        left -= {needle for needle in left if any(form in row[0].encode() for form in needle)}
    return [path for path, here in hits if here & left]


_ALL_TEXT = " UNION ALL ".join(
    f"SELECT coalesce({column}, '') FROM {table}"
    for table, columns in {
        "records": ("fields", "user", "id"), "profiles": ("text",), "tasks": ("spec",), "outsiders": ("user",),
        "adapters": ("provenance", "shape", "stale"), "bases": ("provenance", "name", "folder", "source"),
        "pools": ("provenance", "folder"), "consents": ("user", "licence"), "sharers": ("user",),
        "drafts": ("user",), "tokens": ("user",), "jobs": ("user", "error"), "sqlite_master": ("sql",),
    }.items()
    for column in columns
)  # fmt: skip
