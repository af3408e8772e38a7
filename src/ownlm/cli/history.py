"""`ownlm history`: add, list, show, edit and delete records."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ownlm.cli import options
from ownlm.cli.home import making_home, open_home
from ownlm.cli.output import many, print_json, print_table, say, say_more, tell_added, tell_forgotten, warn_some
from ownlm.cli.users import lists_users
from ownlm.errors import quoted, shown
from ownlm.store.database import DATABASE

if TYPE_CHECKING:
    from ownlm.workflows.users import ListOptions

app = typer.Typer(no_args_is_help=True)

CELL = 2000  # characters of a field in a table


@app.command("add")
def add(
    data: Annotated[
        Path,
        typer.Argument(help="JSON Lines, JSON, CSV, Parquet, or LaMP's JSON; gzip, zstd and so on."),
    ],
    task: options.Task,
    labels: options.Labels = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad rows out, and say how many.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also take records and users that were forgotten; else they stay out.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the file and count; add nothing.")] = False,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Add users' records. Adding the same file again changes nothing."""
    if dry_run and not (home / DATABASE).exists():
        from ownlm.workflows.histories import check_history_file

        added = check_history_file(data, task, labels, skip_bad)
    else:
        with making_home(home, create=not dry_run) as opened:
            added = opened.add_history(data, task, labels=labels, skip_bad=skip_bad, again=again, dry_run=dry_run)
    if json:
        print_json(added.as_dict())
        return
    tell_added(added, dry_run)
    if given_away := added.dataset.given_away:
        say(f"left out {given_away:,}: records that are the answer to a query of the same user")
    if queries := added.dataset.queries:
        golds = sum(query.gold is not None for query in queries)
        answers = f"{golds:,} of them" if golds else "none of them"
        say(f"The file also holds {many(len(queries), 'query')}, {answers} with the right answer.")
        say(f"Next: ownlm ask --task {task} --file={quoted(data)}")
    bad = added.dataset.bad
    warn_some("left out", bad, f"more rows, {len(bad):,} in all; --json lists them")


@app.command("ls")
@lists_users
def ls(home: Path, json: bool, wanted: "ListOptions") -> None:
    """List users and how many records they have."""
    rows, total = open_home(home).list_users(wanted)
    if json:
        print_json([one.model_dump(include={"user", "task", "records"}) for one in rows])
        return
    print_table("Histories", ["user", "task", "records#"], [(shown(one.user), one.task, one.records) for one in rows])
    say_more(len(rows), total)


@app.command("show")
def show(
    user: options.User,
    task: options.Task,
    last: Annotated[int, typer.Option("--last", help="How many of the latest records; 0 for all.", min=0)] = 20,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Show a user's records, oldest first."""
    history = open_home(home).history(user, task)
    records = history.records[-last:]
    if json:
        print_json([{"id": r.id, "time": r.time, **r.fields} for r in records])
    else:
        names = list(dict.fromkeys(name for record in records for name in record.fields))
        rows = [(shown(r.id), r.time, *(_cut(r.fields.get(name)) for name in names)) for r in records]
        print_table(f"{shown(user)}: {len(records):,} of {many(len(history), 'record')}", ["id", "time", *names], rows)


def _cut(text: str | None) -> str | None:
    """A text, cut where it is too long for a table."""
    if text is None or len(text) <= CELL:
        return text
    return f"{text[:CELL]}… ({len(text):,} characters; --json shows all)"


@app.command("forget")
def forget(
    user: options.User,
    record: Annotated[str, typer.Option("--record", metavar="ID", help="The record's id; see `ownlm history show`.")],
    task: options.AnyTask = None,
    verify: options.Verify = False,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Remove one record for good. Adapters that have learnt from it are marked, and trained again by `ownlm train`."""
    tell_forgotten(open_home(home).forget_record(user, record, task, verify=verify), json, user)


@app.command("edit")
def edit(
    user: options.User,
    record: Annotated[str, typer.Argument(metavar="ID", help="The record's id; see `ownlm history show`.")],
    changes: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="A field's new value, or the time's; nothing after = removes it. "
            "May be given several times.",
        ),
    ],
    task: options.AnyTask = None,
    verify: options.Verify = False,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:  # fmt: skip
    """Correct one record. The old text is erased; the next `ownlm train` makes adapters that learnt it again."""
    pairs = [one.partition("=") for one in changes]
    if wrong := [name for name, sign, _ in pairs if not sign or not name]:
        raise typer.BadParameter(f"{wrong[0]!r} is no FIELD=VALUE", param_hint="'--set'")
    values = {name.strip(): value.strip() or None for name, _, value in pairs}
    edited = open_home(home).edit_record(user, record, values, task, verify=verify)
    if json:
        print_json(edited.as_dict())
        return
    if not edited.changed:
        say(f"{shown(user)}, record {shown(record)}: nothing changed; it has these values already")
        return
    say(f"{shown(user)}, record {shown(record)}: changed {', '.join(edited.changed)}")
    tell_forgotten(edited.removed.model_copy(update={"records": 0}), False, user, edited=True)
