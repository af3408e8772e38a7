"""`ownlm`: the command line. Each command opens a home, calls one method, and prints the result."""

import sys
from typing import Any

import typer

from ownlm import __version__
from ownlm.cli import ask, assemble, bench, history, home, imports, pool, serve, train, users
from ownlm.cli.output import print_json, warn
from ownlm.errors import OwnlmError, nearest
from ownlm.programs import protect_children

INTERRUPTED = 130  # what typer makes of Ctrl-C


class Commands(typer.core.TyperGroup):
    """The group of all commands; suggests near names for a mistyped one, in subgroups too."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As in typer, with other suggestions."""
        self.suggest_commands = False
        name = args[0] if args else ""
        if not name or name.startswith("-") or self.get_command(ctx, name):
            return super().resolve_command(ctx, args)
        known = {one: one for one in self.commands}
        for group, command in self.commands.items():
            for one in getattr(command, "commands", {}):
                known.setdefault(one, f"{group} {one}")
        exact = [f"{group} {name}" for group, one in self.commands.items() if name in getattr(one, "commands", {})]
        near = nearest(name, known)
        meant = exact or ([known[near]] if near else [])
        hint = f" Did you mean {' or '.join(f'`ownlm {one}`' for one in meant)}?" if meant else ""
        ctx.fail(f"No such command {name!r}.{hint}")


app = typer.Typer(
    name="ownlm",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version, and end.")) -> None:
    """Own your language model: an adapter for each user, on one shared frozen base."""
    if version:
        typer.echo(f"ownlm {__version__}")
        raise typer.Exit


app.add_typer(home.app, name="base", help="Base models: add one, list them.")
app.add_typer(imports.app, name="import", help="Histories from repositories, mailboxes and LaMP's files.")
app.add_typer(history.app, name="history", help="Histories: add records, list and show them, forget one.")
app.command("adapt")(train.adapt)
app.command("train")(train.train)
app.command("share")(assemble.share)
app.command("assemble")(assemble.assemble)
app.add_typer(
    pool.app, name="pool", help="Pools of shared pieces: list, show and check them, take one in, remove one, withdraw."
)
app.command("profile")(train.profile)
app.command("ask")(ask.ask)
app.add_typer(users.app, name="users", help="Users: list them, show one, export an adapter, forget one.")
app.add_typer(bench.app, name="bench", help="Benchmarks: run a plan, show its tables, score predictions.")
app.command("serve")(serve.serve)
app.command("doctor")(home.doctor)


def main() -> None:
    """Runs the command line; exit code 1 after an error with its message, 2 after wrong usage."""
    protect_children()
    try:
        app()
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
        what = "Interrupted; checkpoints of unfinished training are kept"
        fail(OwnlmError(what, hint="run the same command again"))
    except BrokenPipeError:  # the reader closed the pipe
        sys.stderr.close()
        sys.exit(1)
    except (OwnlmError, OSError) as error:
        fail(error if isinstance(error, OwnlmError) else OwnlmError(f"The operating system reported an error: {error}"))


def fail(error: OwnlmError) -> None:
    """Prints an error and exits with code 1."""
    if "--json" in sys.argv:
        print_json({"error": error.as_dict()})
    warn(f"error: {error.with_command}")
    sys.exit(1)
