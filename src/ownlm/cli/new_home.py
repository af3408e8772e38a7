"""Homes that commands make."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ownlm.home import Home


@contextmanager
def making_home(folder: Path, create: bool = True) -> "Iterator[Home]":
    """A home, made if it is missing; removed again where it was made, the command fails, and nothing came into it."""
    from ownlm.home import Home

    before = set(folder.iterdir()) if folder.is_dir() else None
    home = Home(folder, create=create)
    made = home.store.database.path not in (before or ())
    try:
        yield home
    except BaseException:
        if made and not (home.store.bases() or home.store.people()):
            home.store.database.close()
            for path in set(folder.iterdir()) - (before or set()):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if before is None:
                folder.rmdir()
        raise
