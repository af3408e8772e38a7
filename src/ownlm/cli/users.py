"""`ownlm users`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ownlm.cli import options
from ownlm.cli.output import fall, print_json, print_table, say, size, tell_forgotten
from ownlm.errors import NotFoundError

if TYPE_CHECKING:
    from ownlm.home import Home
    from ownlm.store.rows import AdapterInfo, Person

app = typer.Typer(no_args_is_help=True)


@app.command("ls")
def ls(task: options.AnyTask = None, home: options.Home = options.HOME, json: options.Json = False) -> None:
    """List people: their records, their newest adapter, and how far it is behind."""
    from ownlm.home import Home

    opened = Home(home, create=False)
    latest, rows = opened.latest_adapters(task), []
    for person in opened.people(task):
        adapter = latest.get((person.task, person.user))
        rows.append((person, adapter, _standing(opened, person, adapter)))
    if json:
        print_json([_document(*row) for row in rows])
        return
    print_table(
        "People",
        ["user", "task", "records#", "adapter", "base", "method", "size#", "behind"],
        [
            (p.user, p.task, p.records, *((a.id[:8], a.base, a.method, size(a.bytes)) if a else ("",) * 4), standing)
            for p, a, standing in rows
        ],
    )


def _document(person: "Person", adapter: "AdapterInfo | None", standing: str) -> dict[str, Any]:
    return {
        "user": person.user,
        "task": person.task,
        "records": person.records,
        "adapter": adapter.id if adapter else None,
        "base": adapter.base if adapter else None,
        "method": adapter.method if adapter else None,
        "bytes": adapter.bytes if adapter else 0,
        "stale": adapter is not None and not adapter.knows(person.history),
        "standing": standing,
    }


def _standing(home: "Home", person: "Person | None", adapter: "AdapterInfo | None") -> str:
    """How far a person's adapter is behind their history, in words; nothing where it is not."""
    if adapter is None or (person is not None and adapter.knows(person.history)):
        return ""
    counts = {"new": home.behind(adapter), "forgotten": adapter.forgotten}
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


@app.command("show")
def show(
    user: Annotated[str, typer.Argument(help="Whom.")],
    task: options.AnyTask = None,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Show a person: records of each task, profile, every version of their adapters, and how far each is behind."""
    from ownlm.home import Home

    opened = Home(home, create=False)
    people = {person.task: person for person in opened.people(task) if person.user == user}
    adapters = [(a, _standing(opened, people.get(a.task), a)) for a in opened.adapters(user, task)]
    if not people and not adapters:
        raise NotFoundError(f"The home has no user {user!r}", hint="`ownlm users ls`")
    profiles = {name: profile for name in people if (profile := opened.store.profile(name, user))}
    if json:
        print_json(
            {
                "user": user,
                "histories": [{"task": person.task, "records": person.records} for person in people.values()],
                "profiles": [
                    asdict(profile) | {"stale": profile.history != people[name].history}
                    for name, profile in profiles.items()
                ],
                "adapters": [asdict(adapter) | {"standing": standing} for adapter, standing in adapters],
            }
        )
        return
    for name, person in people.items():
        say(f"{user}: {person.records:,} records in {name}{_newest(adapters, name)}")
        if profile := profiles.get(name):
            old = "" if profile.history == person.history else ", before the history changed"
            say(f"profile ({profile.writer}{old}): {profile.text}")
    print_table(
        "Adapters, oldest first",
        ["adapter", "task", "base", "method", "from", "records#", "steps#", "loss#", "size#", "made (UTC)", "behind"],
        [
            (a.id[:8], a.task, a.base, a.method, (a.parent or "")[:8], a.records, a.steps,
             fall(a.loss_first, a.loss_last), size(a.bytes), a.created[:16].replace("T", " "), standing)
            for a, standing in adapters
        ],
    )  # fmt: skip


def _newest(adapters: "list[tuple[AdapterInfo, str]]", task: str) -> str:
    """What is to be said about a person's newest adapter in a task."""
    mine = [(adapter, standing) for adapter, standing in adapters if adapter.task == task]
    if not mine:
        return "; no adapter yet: `ownlm train`"
    adapter, standing = mine[-1]
    if not standing:
        return f"; the adapter {adapter.id[:8]} is up to date"
    go_on = f"`ownlm train --task {task}`, with the settings of last time, goes on from it"
    return f"; the adapter {adapter.id[:8]} is behind: {standing}. {go_on}"


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


@app.command("forget")
def forget(
    user: Annotated[str, typer.Argument(help="Whom.")],
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Remove a person for good: every record, profile and adapter. What was exported elsewhere is not touched."""
    from ownlm.home import Home

    tell_forgotten(Home(home, create=False).forget(user), json)
