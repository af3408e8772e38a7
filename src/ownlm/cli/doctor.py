"""`ownlm doctor`."""

from dataclasses import asdict

import typer

from ownlm.cli import options
from ownlm.cli.output import print_json, print_table, progress_bar, say, size, warn
from ownlm.errors import NotFoundError


def doctor(home: options.Home = options.HOME, json: options.Json = False) -> None:
    """Look at the machine, check everything in the home, and say what to do next. Exit code 1 if something is wrong."""
    from ownlm.home import Home
    from ownlm.workflows.doctor import without_home

    with progress_bar() as progress:
        try:
            seen = Home(home, create=False).doctor(progress)
        except NotFoundError:
            seen = without_home(home)
    if json:
        print_json(asdict(seen))
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


def _shown(facts: dict[str, str | int]) -> list[tuple[str, str]]:
    return [
        (_row(name, facts), size(int(fact)) if name.endswith("_bytes") else f"{fact}") for name, fact in facts.items()
    ]


def _row(name: str, facts: dict[str, str | int]) -> str:
    """A fact's name in the table; where a count has the name already, it is the size of that."""
    plain = name.removesuffix("_bytes")
    return (f"size of {plain}" if plain != name and plain in facts else plain).replace("_", " ")
