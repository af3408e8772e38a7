"""Bases of a home: added and selected."""

import re
import shutil
from functools import partial
from pathlib import Path

from ownlm.errors import BaseModelError, NotFoundError
from ownlm.model.bases.files import check_base_folder, check_config, fingerprint, parameter_count
from ownlm.model.bases.source import resolve_source
from ownlm.progress import Progress
from ownlm.store.rows import BaseInfo
from ownlm.store.store import Store

RANDOM = "random"  # the source of a tiny base with random weights


def add_base(store: Store, source: str, name: str | None, progress: Progress) -> BaseInfo:
    """Fetches, checks and registers a base; a known base stays as it is."""
    name = name or source.rstrip("/").rsplit("/", 1)[-1]
    check_name(name)
    if source == RANDOM and not Path(RANDOM).exists():
        return _add_random(store, name)
    folder = resolve_source(source, progress, partial(check_before_download, name=name))
    check_base_folder(folder)
    from ownlm.model.bases.architecture import check_architecture, check_tokenizer

    check_architecture(folder, name)
    check_tokenizer(folder)
    progress("fingerprint", 0, 1)
    base = BaseInfo(name, str(folder), fingerprint(folder), parameter_count(folder), source)
    progress("fingerprint", 1, 1)
    if any((known.name, known.fingerprint) == (base.name, base.fingerprint) for known in store.bases()):
        store.move_base(name, base.folder)  # the same base, perhaps in another folder
        return store.base(name)
    from ownlm.model.base import load_base
    from ownlm.model.bases.self_test import check_packed

    progress("trial run", 0, 1)
    check_packed(load_base(folder, name=name, fingerprint=base.fingerprint))
    progress("trial run", 1, 1)
    store.add_base(base)
    return base


def _add_random(store: Store, name: str) -> BaseInfo:
    """Registers a tiny base with random weights, which lies in the home."""
    from ownlm.model.bases.random_base import make_random_base

    if any((known.name, known.source) == (name, RANDOM) for known in store.bases()):
        return store.base(name)
    folder = store.new_base_folder(name)
    try:
        make_random_base(folder)
        base = BaseInfo(name, str(folder), fingerprint(folder), parameter_count(folder), RANDOM)
        store.add_base(base)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return store.base(name)


def check_before_download(folder: Path, name: str) -> None:
    """Checks a model by its config.json, before its weights are downloaded.

    Raises:
        BaseModelError: it cannot serve as a base.
    """
    check_config(folder)
    from ownlm.model.bases.architecture import check_architecture
    from ownlm.model.bases.self_test import check_small_copy

    check_small_copy(check_architecture(folder, name), name)


def pick_base(store: Store, task: str, name: str | None) -> BaseInfo:
    """The base of this name; by default the newest one adapted to the task, else the newest that is not adapted."""
    if name is not None:
        return store.base(name)
    bases = [base for base in store.bases() if base.task in (None, task)]
    if not bases:
        raise NotFoundError("The home has no base model yet", hint="add one", command="ownlm base add smollm2-135m")
    return max(enumerate(bases), key=lambda numbered: (numbered[1].task == task, numbered[0]))[1]


def pick_raw_base(store: Store, name: str | None) -> BaseInfo:
    """The base of this name; by default the newest that is not adapted to a task."""
    raw = [base for base in store.bases() if base.task is None]
    if name is not None or not raw:
        return pick_base(store, "", name)
    return raw[-1]


def check_name(name: str) -> None:
    """Raises a BaseModelError where a name is invalid: it becomes the name of a folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise BaseModelError(
            "Invalid name of a base",
            got=name,
            expected="letters, digits, '.', '_' and '-', at most 64, with a letter or digit first",
            hint="choose another name",
        )
