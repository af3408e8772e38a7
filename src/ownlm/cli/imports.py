"""`ownlm import`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ownlm.cli import options
from ownlm.cli.output import many, print_json, progress_bar, say

if TYPE_CHECKING:
    from ownlm.importers.imported import Imported

app = typer.Typer(no_args_is_help=True)

SHOWN = 8  # users told one by one

Out = Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="The history file to write.", show_default=False)]
KeepNames = Annotated[
    bool,
    typer.Option("--keep-names", help="Addresses as user ids, not hashes of them."),
]


@app.command("git")
def git(
    repo: Annotated[Path, typer.Argument(help="A git repository, bare or not.", show_default=False)],
    out: Out,
    keep_names: KeepNames = False,
    json: options.Json = False,
) -> None:
    """Commits: what each author changed, and the subject they gave it. Merges, bots and reverts are left out."""
    from ownlm.importers.git import import_git

    with progress_bar() as progress:
        imported = import_git(repo, out, keep_names=keep_names, progress=progress)
    _tell(imported, json)


@app.command("mbox")
def mbox(
    file: Annotated[Path, typer.Argument(help="A mailbox in mbox format.", show_default=False)],
    out: Out,
    me: Annotated[
        list[str] | None,
        typer.Option("--me", metavar="ADDRESS", help="Your address; may be given several times.", show_default=False),
    ] = None,
    replies: Annotated[
        bool, typer.Option("--replies", help="Take replies and forwards too, whose subjects are others' words.")
    ] = False,
    keep_names: KeepNames = False,
    json: options.Json = False,
) -> None:
    """Mail one person sent: what it says, and its subject. Quoted text, signatures and attachments are stripped."""
    from ownlm.importers.mbox import import_mbox

    with progress_bar() as progress:
        imported = import_mbox(
            file, out, me=me or [], replies=replies, keep_names=keep_names, progress=progress
        )  # fmt: skip
    _tell(imported, json)


@app.command("lamp")
def lamp(
    file: Annotated[Path, typer.Argument(help="LaMP's questions, or a user/profile/query JSON.", show_default=False)],
    out: Out,
    task: options.Task,
    labels: options.Labels = None,
    json: options.Json = False,
) -> None:
    """LaMP's JSON: histories, queries in a file beside them, and a task file with the data's own instruction."""
    from ownlm.importers.lamp import import_lamp

    _tell(import_lamp(file, out, task=task, labels=labels), json)


def _tell(imported: "Imported", json: bool) -> None:
    records, people = sum(imported.records.values()), len(imported.records)
    if json:
        print_json(
            {
                "task": imported.task,
                "users": people,
                "records": records,
                "left_out": imported.left_out,
                "files": [str(file) for file in imported.files],
            }
        )
        return
    say(f"{imported.files[0]}: {many(records, 'record')} of {many(people, 'user')}")
    for reason, count in imported.left_out.items():
        say(f"left out {count:,}: {reason}")
    for user, count in sorted(imported.records.items(), key=lambda item: -item[1])[:SHOWN]:
        say(f"  {user}: {many(count, 'record')}")
    if people > SHOWN:
        say(f"  and {many(people - SHOWN, 'more user')}")
    for file in imported.files[1:]:
        say(f"also written: {file}")
    say(f"Next: ownlm train {imported.files[0]} --task {imported.task}")
    for file in imported.files:
        if file.name.endswith(".queries.jsonl"):
            say(f"Then: ownlm ask --file {file} --task {imported.task}")
