"""`ownlm base` and `ownlm doctor`, and homes that commands create."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ownlm.cli import options
from ownlm.cli.output import print_json, print_some, print_table, progress_bar, say, size, warn
from ownlm.errors import NotFoundError
from ownlm.model.bases.placement import DEFAULT, Placement

if TYPE_CHECKING:
    from ownlm.home import Home
    from ownlm.store.rows import BaseInfo

app = typer.Typer(no_args_is_help=True)


def open_home(folder: Path, placement: Placement = DEFAULT) -> "Home":
    """The home in a folder; a NotFoundError where there is none, a ConfigError where there is no such device."""
    return _home(folder, False, placement)


def _home(folder: Path, create: bool, placement: Placement) -> "Home":
    """A home; warns where models would be slow in the type that the user asked for."""
    from ownlm.home import Home

    if placement.device is not None:
        placement.find_device()
    if placement.dtype == "bfloat16" and placement.choose().slow:
        warn("bfloat16 may be a hundred times slower: there are no instructions for it here; --dtype auto is faster")
    return Home(folder, device=placement.device, dtype=placement.dtype, create=create)


@contextmanager
def making_home(folder: Path, placement: Placement = DEFAULT, create: bool = True) -> "Iterator[Home]":
    """A home, created if it is missing. If the command fails, a new home with nothing in it is removed again."""
    before = set(folder.iterdir()) if folder.is_dir() else None
    home = _home(folder, create, placement)
    made = home.store.database.path not in (before or ())
    try:
        yield home
    except BaseException:
        if made and not (home.store.bases() or home.store.histories()):
            home.store.database.close()
            for path in set(folder.iterdir()) - (before or set()):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if before is None:
                folder.rmdir()
        raise


@app.command("add")
def add(
    source: Annotated[
        str,
        typer.Argument(help="smollm2-135m, a hub id, a folder with safetensors weights; or random, to try commands."),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="What to call it; by default the source's last part.")
    ] = None,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Add a base model. Nothing is copied from a folder: it is used where it lies."""
    with making_home(home) as opened, progress_bar() as progress:
        base = opened.add_base(source, name, progress)
    if json:
        print_json(_document(base, "name", "folder", "fingerprint", "parameters"))
    else:
        say(f"{base.name}: {base.parameters / 1e6:,.1f} million parameters, in {base.folder}")


@app.command("ls")
def ls(home: options.Home = options.HOME, json: options.Json = False) -> None:
    """List base models, those adapted to a task included."""
    bases = open_home(home).bases()
    if json:
        names = "name", "folder", "fingerprint", "parameters", "task", "parent"
        print_json([_document(base, *names) for base in bases])
    else:
        rows = [(b.name, f"{b.parameters / 1e6:,.1f}M", b.fingerprint[:12], b.task, b.parent, b.folder) for b in bases]
        columns = ["name", "parameters#", "fingerprint", "adapted to", "from", "folder"]
        print_some("Bases, newest first", columns, rows[::-1], "--json lists them all")


def _document(base: "BaseInfo", *names: str) -> dict[str, object]:
    return {name: getattr(base, name) for name in names}


def doctor(
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Check the machine and everything in the home, and say what to do next. Exit code 1 if something is wrong."""
    from ownlm.doctor import without_home

    placement = Placement(device, dtype)
    with progress_bar() as progress:
        try:
            seen = open_home(home, placement).doctor(progress)
        except NotFoundError:
            seen = without_home(home, placement)
    if json:
        print_json(seen.model_dump())
    else:
        print_table("Machine", ["", ""], _shown(seen.machine))
        if seen.home:
            print_table("Home", ["", ""], _shown(seen.home))
        for finding in seen.wrong:
            warn(f"wrong: {finding.what}. Next: {finding.hint}")
        if seen.home and not seen.wrong:
            say("The home is whole: every record and blob is what it was, every reference leads somewhere.")
        for step in [] if seen.wrong else seen.next:
            say(f"Next: {step}")
    if seen.wrong:
        raise typer.Exit(1)


_ROWS = {
    "people": "users",
    "people_with_adapter": "users with an adapter",
    "people_who_share": "users who share",
    "at_work": "process that trains",
}


def _shown(facts: dict[str, str | int]) -> list[tuple[str, str]]:
    return [
        (_row(name, facts), size(int(fact)) if name.endswith("_bytes") else f"{fact}")
        for name, fact in facts.items()
        if fact != 0
    ]


def _row(name: str, facts: dict[str, str | int]) -> str:
    """A fact's name in the table."""
    if name in _ROWS:
        return _ROWS[name]
    plain = name.removesuffix("_bytes")
    return (f"size of {plain}" if plain != name and plain in facts else plain).replace("_", " ")
