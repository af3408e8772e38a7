"""`ownlm base`."""

from typing import Annotated

import typer

from ownlm.cli import options
from ownlm.cli.new_home import making_home
from ownlm.cli.output import print_json, print_some, progress_bar, say

app = typer.Typer(no_args_is_help=True)


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
        print_json(
            {"name": base.name, "folder": base.folder, "fingerprint": base.fingerprint, "parameters": base.parameters}
        )
    else:
        say(f"{base.name}: {base.parameters / 1e6:,.1f} million parameters, in {base.folder}")


@app.command("ls")
def ls(home: options.Home = options.HOME, json: options.Json = False) -> None:
    """List base models, those adapted to a task included."""
    from ownlm.home import Home

    bases = Home(home, create=False).bases()
    if json:
        print_json(
            [
                {
                    "name": base.name,
                    "folder": base.folder,
                    "fingerprint": base.fingerprint,
                    "parameters": base.parameters,
                    "task": base.task,
                    "parent": base.parent,
                }
                for base in bases
            ]
        )
    else:
        rows = [(b.name, f"{b.parameters / 1e6:,.1f}M", b.fingerprint[:12], b.task, b.parent, b.folder) for b in bases]
        columns = ["name", "parameters#", "fingerprint", "adapted to", "from", "folder"]
        print_some("Bases, newest first", columns, rows[::-1], "--json lists them all")
