"""`ownlm users`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ownlm.cli import options
from ownlm.cli.output import fall, print_json, print_table, say, size
from ownlm.errors import NotFoundError

if TYPE_CHECKING:
    from ownlm.store.rows import AdapterInfo, Person

app = typer.Typer(no_args_is_help=True)


@app.command("ls")
def ls(task: options.AnyTask = None, home: options.Home = options.HOME, json: options.Json = False) -> None:
    """List people: their records, their newest adapter, and whether their history has changed since."""
    from ownlm.home import Home

    opened = Home(home, create=False)
    latest = opened.latest_adapters(task)
    people = opened.people(task)
    if json:
        print_json([_document(person, latest.get((person.task, person.user))) for person in people])
        return
    rows = []
    for person in people:
        adapter = latest.get((person.task, person.user))
        made = (adapter.id[:8], size(adapter.bytes), "stale" if _stale(person, adapter) else "") if adapter else ()
        rows.append((person.user, person.task, person.records, *made))
    print_table("People", ["user", "task", "records#", "adapter", "size#", ""], rows)


def _document(person: "Person", adapter: "AdapterInfo | None") -> dict[str, Any]:
    return {
        "user": person.user,
        "task": person.task,
        "records": person.records,
        "adapter": adapter.id if adapter else None,
        "bytes": adapter.bytes if adapter else 0,
        "stale": _stale(person, adapter),
    }


def _stale(person: "Person", adapter: "AdapterInfo | None") -> bool:
    """Whether the history has changed since the adapter was trained."""
    return adapter is not None and adapter.history != person.history


@app.command("show")
def show(
    user: Annotated[str, typer.Argument(help="Whom.")],
    task: options.AnyTask = None,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Show a person: records of each task, and every version of their adapters."""
    from ownlm.home import Home

    opened = Home(home, create=False)
    histories = [person for person in opened.people(task) if person.user == user]
    adapters = opened.adapters(user, task)
    if not histories and not adapters:
        raise NotFoundError(f"The home has no user {user!r}", hint="`ownlm users ls`")
    if json:
        print_json(
            {
                "user": user,
                "histories": [{"task": person.task, "records": person.records} for person in histories],
                "adapters": [asdict(adapter) for adapter in adapters],
            }
        )
        return
    for person in histories:
        say(f"{user}: {person.records:,} records in {person.task}")
    current = {person.history for person in histories}
    print_table(
        "Adapters, oldest first",
        ["adapter", "task", "base", "records#", "steps#", "loss#", "size#", "made (UTC)", ""],
        [
            (a.id[:8], a.task, a.base, a.records, a.steps, fall(a.loss_first, a.loss_last), size(a.bytes),
             a.created[:16].replace("T", " "), "" if a.history in current else "stale")
            for a in adapters
        ],
    )  # fmt: skip


@app.command("export")
def export(
    user: Annotated[str, typer.Argument(help="Whose adapter.")],
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    task: options.AnyTask = None,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Write a person's newest adapter as a PEFT folder, which `peft` and vLLM load unchanged."""
    from ownlm.home import Home

    opened = Home(home, create=False)
    adapter = opened.export(user, folder, task=task)
    base = opened.store.base(adapter.base)
    if json:
        print_json({"user": user, "adapter": adapter.id, "folder": str(folder), "base": base.folder})
    else:
        say(f"{folder}: the adapter {adapter.id[:8]} of {user}, {size(adapter.bytes)}, for the base in {base.folder}")
