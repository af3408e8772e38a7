"""Sources of base models: the embedded one, a folder, or the Hugging Face hub."""

import io
import logging
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ownlm.errors import BaseModelError, in_one_line, nearest
from ownlm.model.bases import smollm2
from ownlm.model.bases.files import CONFIG, INDEX, TOKENIZER_FILES
from ownlm.progress import Progress, silent

BUILT_IN = (smollm2.NAME, "random")  # sources that are neither a folder nor on the hub
HUB_FILES = (CONFIG, INDEX, "generation_config.json", "model*.safetensors", *TOKENIZER_FILES)  # no pickles, no code
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_REVISION = re.compile(r"[0-9a-f]{40}")


def resolve_source(
    source: str, progress: Progress = silent, check_config: Callable[[Path], None] = lambda folder: None
) -> Path:
    """Returns the folder of a base model, after a download if needed. `check_base_folder` checks it.

    Args:
        source: "smollm2-135m" (the embedded base), a folder, or a hub id such as "Qwen/Qwen2.5-0.5B".
        progress: a function that is called with the stage and its progress.
        check_config: a function of the folder of a hub model when only its config.json has come; an error ends the
            download.

    Returns:
        An absolute path.

    Raises:
        BaseModelError: there is no such folder, or the download failed.
    """
    if source == smollm2.NAME:
        return smollm2.fetch(progress)
    folder = Path(os.path.expanduser(source))  # as in a shell, an unknown ~user stays
    if source and folder.is_dir():
        return folder.resolve()
    meant = _meant(folder, source)
    if folder.exists() or not _HUB_ID.fullmatch(source):
        raise BaseModelError(
            "The source of a base is neither a folder nor a hub id" + meant,
            got=source,
            expected=f"{smollm2.NAME}, a folder, or an id such as Qwen/Qwen2.5-0.5B",
        )
    try:
        return _from_hub(source, progress, check_config)
    except BaseModelError as error:
        if not meant:
            raise
        raise BaseModelError(
            f"{error.what}, and there is no such folder{meant}",
            got=error.got,
            expected=error.expected,
            hint=error.hint,
            command=error.command,
        ) from None


def _meant(folder: Path, source: str) -> str:
    """A "did you mean" for a mistyped source; empty if no name is near."""
    with suppress(OSError):
        known = {one.name: str(one) for one in sorted(folder.parent.iterdir()) if one.is_dir()}
        known |= {name: name for name in BUILT_IN if "/" not in source}
        if (near := nearest(folder.name, known)) is not None:
            return f"; did you mean {known[near]!r}?"
    return "" if folder.parent.exists() else f"; there is no folder {str(folder.parent)!r}"


def hub_id(folder: Path) -> tuple[str, str] | None:
    """The hub id and revision of a folder in the hub's cache; None for other folders."""
    snapshots, model = folder.parent, folder.parent.parent
    if snapshots.name != "snapshots" or not model.name.startswith("models--") or not _REVISION.fullmatch(folder.name):
        return None
    return model.name.removeprefix("models--").replace("--", "/"), folder.name  # no hub id has "--" in it


def _from_hub(name: str, progress: Progress, check_config: Callable[[Path], None]) -> Path:
    """Downloads a model into the Hugging Face cache; a stopped download goes on where it was."""
    progress("download", 0, 1)
    folder = _download(name, None, (CONFIG,), silent)
    if not (folder / CONFIG).is_file():
        raise _not_downloaded(name, f"it has no {CONFIG}", "choose a model in transformers' format")
    check_config(folder)
    folder = _download(name, folder.name, HUB_FILES, progress)  # the rest of the same revision
    progress("download", 1, 1)
    return folder


def _download(name: str, revision: str | None, files: Sequence[str], progress: Progress) -> Path:
    """Downloads some files of a hub model; returns their folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its warnings are about what is checked here
    command = None
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files), tqdm_class=_bar(progress)))
    except GatedRepoError:
        got, hint = "its owner wants an agreement first", "accept it on the model's page, then log in to the hub"
        command = "hf auth login"
    except RepositoryNotFoundError:
        got, hint = "the hub knows no such model, or it is private", "check the id, or log in to the hub"
        command = "hf auth login"
    except LocalEntryNotFoundError:
        got = "the hub cannot be reached, and there is no whole copy in its cache"
        hint = f"check the network, unset HF_HUB_OFFLINE, or use {smollm2.NAME} or a folder"
    except Exception as error:  # also errors of the hub's HTTP library
        got, hint = in_one_line(error), "check the network, then try again"
    raise _not_downloaded(name, got, hint, command)


def _not_downloaded(name: str, got: str, hint: str, command: str | None = None) -> BaseModelError:
    return BaseModelError(f"The base {name!r} cannot be downloaded", got=got, hint=hint, command=command)


def _bar(progress: Progress) -> type[Any]:
    """A tqdm bar that draws nothing and calls `progress`."""

    class Bar(tqdm):  # type: ignore[type-arg, misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "file": io.StringIO()})

        def update(self, n: float | None = 1) -> bool | None:
            drawn: bool | None = super().update(n)
            if self.unit == "B" and self.total and self.n < self.total:  # bytes, not files; the caller reports the end
                progress("download", self.n, self.total)
            return drawn

    return Bar
