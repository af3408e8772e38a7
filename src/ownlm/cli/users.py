"""`ownlm users`: list and show users, choose, export and delete their adapters and data."""

import inspect
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ownlm.cli import access, options
from ownlm.cli.home import open_home
from ownlm.cli.output import (
    ROWS,
    fall,
    many,
    minute,
    print_json,
    print_some,
    print_table,
    progress_bar,
    say,
    say_more,
    size,
    tell_forgotten,
    warn,
)
from ownlm.errors import argument, quoted, shown
from ownlm.filesystem import folder_bytes

if TYPE_CHECKING:
    from ownlm.home import Home
    from ownlm.store.rows import AdapterInfo, HistoryInfo
    from ownlm.workflows.users import ListOptions

app = typer.Typer(no_args_is_help=True)


def _filters(
    task: options.AnyTask = None,
    min_records: Annotated[
        int | None, typer.Option("--min-records", metavar="N", help="Only users with so many records or more.", min=0)
    ] = None,
    max_records: Annotated[
        int | None, typer.Option("--max-records", metavar="N", help="Only users with so many records or fewer.", min=0)
    ] = None,
    starts_with: Annotated[str, typer.Option("--starts-with", metavar="TEXT", help="Only users whose name does.")] = "",
    contains: Annotated[str, typer.Option("--contains", metavar="TEXT", help="Only users whose name does.")] = "",
    sort: Annotated[
        Literal["added", "name", "records", "adapter"],
        typer.Option("--sort", help="As added; by name; most records first; newest adapter first."),
    ] = "added",
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="List so many; by default 20, with --json all.", min=1)
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="List all, however many they are.")] = False,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> "ListOptions":
    """The options that the lists of users share."""
    from ownlm.workflows.users import ListOptions

    return ListOptions(
        task=task, min_records=min_records, max_records=max_records, starts_with=starts_with, contains=contains,
        sort=sort, limit=limit or (None if everybody or json else ROWS),
    )  # fmt: skip


def lists_users(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of `_filters`, which it receives as one `ListOptions` after `home` and `json`."""
    shared = inspect.signature(_filters).parameters
    own = [one for name, one in inspect.signature(command).parameters.items() if name not in ("home", "json", "wanted")]

    @wraps(command)
    def run(**given: Any) -> None:
        filters = {name: given.pop(name) for name in shared if name not in ("home", "json")}
        command(wanted=_filters(**filters, json=given["json"]), **given)

    parameters = [*own, *shared.values()]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


@app.command("ls")
@lists_users
def ls(
    home: Path,
    json: bool,
    wanted: "ListOptions",
    consent: Annotated[
        bool | None, typer.Option("--consent/--no-consent", help="Only users who agree to share; or who do not.")
    ] = None,
    adapter: Annotated[
        bool | None, typer.Option("--adapter/--no-adapter", help="Only users with an adapter; or without.")
    ] = None,
    stale: Annotated[
        bool | None,
        typer.Option(
            "--stale/--up-to-date", help="Only users whose adapter is behind or stale or waits; or is up to date."
        ),
    ] = None,
) -> None:
    """List users: their records, their newest adapter, and whether it is up to date, behind, stale, or waits."""
    rows, total = open_home(home).list_users(wanted.but(shares=consent, adapter=adapter, behind=stale))
    if json:
        print_json([one.model_dump() for one in rows])
        return
    print_table(
        "Users",
        ["user", "task", "records#", "adapter", "base", "method", "size#", "behind"],
        [
            (shown(one.user), one.task, one.records,
             *((one.adapter and (one.adapter[:8], one.base, _method(one.method, one.kept), size(one.bytes))) or _NONE),
             one.standing or ("up to date" if one.adapter else ""))
            for one in rows
        ],
    )  # fmt: skip
    say_more(len(rows), total)


_NONE = ("none", "", "", "")


def _method(method: str | None, kept: str | None) -> str:
    """How an adapter was made; for an adapted recipe also what was best on the held-back records."""
    return f"{method}" + {"adapted": ", adapted", "base": ", but the base answers"}.get(kept or "", "")


@app.command("show")
def show(
    user: options.User,
    task: options.AnyTask = None,
    plot: options.Plot = None,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Show a user: records, profile, consent to share, and every version of their adapters with how far it is behind.

    --plot draws the pieces of an assembled adapter by layer, for each kind of module.
    """
    from ownlm.store.records import unknown_user
    from ownlm.workflows.users import standing_of

    opened = open_home(home)
    if plot is not None:
        _draw(opened, user, task, plot)
    histories = {one.task: one for one in opened.histories(task) if one.user == user}
    adapters = [(a, standing_of(opened.store, histories.get(a.task), a)) for a in opened.adapters(user, task)]
    if not histories and not adapters:
        raise unknown_user(opened.store, user)
    profiles = {name: profile for name in histories if (profile := opened.store.profile(name, user))}
    agreed, kept = opened.consent(user), opened.pools.drafts(task, user)
    if json:
        print_json(
            {
                "user": user,
                "consent": {"licence": agreed.licence, "since": agreed.since} if agreed.shares else None,
                "histories": [{"task": one.task, "records": one.records} for one in histories.values()],
                "profiles": [
                    asdict(profile) | {"stale": profile.history != histories[name].history}
                    for name, profile in profiles.items()
                ],
                "adapters": [_version(adapter, standing) for adapter, standing in adapters],
                "drafts": [asdict(draft) for draft in kept],
                **({} if plot is None else {"plot": str(plot)}),
            }
        )
        return
    for name, history in histories.items():
        say(f"{shown(user)}: {many(history.records, 'record')} in {name}; {_newest(opened, history, adapters)}")
        if profile := profiles.get(name):
            old = "" if profile.history == history.history else ", before the history changed"
            say(f"profile ({profile.writer}{old}): {profile.text}")
    say(
        access.agreed(agreed)
        + (f"; {many(len(kept), 'draft')}, {size(sum(one.bytes for one in kept))}" if kept else "")
    )
    if not adapters:
        return
    _print_versions(adapters)
    if (made := adapters[-1][0].provenance).get("dtype"):  # adapters of earlier versions have none
        say(f"the newest was made in {made['dtype']} on {made['device']}")
    if plot is not None:
        say(f"{plot}: the pieces of the newest recipe")
    elif adapters[-1][0].is_recipe and adapters[-1][0].stale is None:
        say(f"`ownlm users show --plot FILE.png {argument(user)}` draws the pieces of the recipe")


def _print_versions(adapters: "list[tuple[AdapterInfo, str]]") -> None:
    """Prints the versions of a user's adapters, with how far each is behind."""
    print_some(
        "Adapters, newest first",
        ["adapter", "task", "base", "method", "from", "records#", "steps#", "loss#", "size#", "made (UTC)", "behind"],
        [
            (a.id[:8], a.task, a.base, _method(a.method, a.kept),
             f"pool {a.pool[:12]}" if a.pool else (a.parent or "")[:8],
             a.records, a.steps, fall(a.loss_first, a.loss_last), size(a.bytes), minute(a.created), standing)
            for a, standing in reversed(adapters)
        ],
        "--json lists them all",
    )  # fmt: skip


def _draw(home: "Home", user: str, task: str | None, plot: Path) -> None:
    """Draws the pieces of a user's newest recipe."""
    from ownlm.cli.charts import check_picture, draw_use

    check_picture(plot)
    recipe, use = home.pools.pieces(user, task)
    how, kept = recipe.provenance["assembly"], recipe.provenance.get("kept")
    adapted = ", adapted" if kept == "adapted" else ""
    on_top = f", with a LoRA of rank {how['residual_rank']} on top" if recipe.blob else ""
    made = f"{how['combine']} of {many(how['top_k'], 'piece')} a module"
    title = f"{shown(user)}, {recipe.task}: recipe {recipe.id[:8]}, {made}"
    draw_use(use, plot, f"{title}{adapted}{on_top}", "weight of the piece")


def _version(adapter: "AdapterInfo", standing: str) -> dict[str, Any]:
    """An adapter as JSON, with the length of its recipe."""
    from ownlm.workflows.adapters import worth_of

    document = asdict(adapter) | {"standing": standing, "worth": asdict(worth_of(adapter))}
    recipe = document.pop("recipe")
    return document | {"recipe_bytes": None if recipe is None else len(recipe)}


def _newest(home: "Home", history: "HistoryInfo", adapters: "list[tuple[AdapterInfo, str]]") -> str:
    """The state of a user's newest adapter in a task, and the next command."""
    from ownlm.workflows.adapters import assemble_command, learnt_from_gone, sharers_now, worth_of

    task, mine = history.task, [(adapter, standing) for adapter, standing in adapters if adapter.task == history.task]
    if not mine:
        which = f"--task {task} --user {quoted(history.user)}"
        pieced = f", or `ownlm assemble {which}`, makes one" if home.pools.ls(task) else " makes one"
        return f"no adapter yet: `ownlm train {which}`{pieced}"
    adapter, standing = mine[-1]
    which = f"{'recipe' if adapter.is_recipe else 'adapter'} {adapter.id[:8]}"
    known = f"; {words}" if (words := worth_of(adapter).words) else ""
    if not standing:
        return f"the {which} is up to date{known}"
    go_on = f"`ownlm train --task {task}`, with the settings of last time, goes on from it"
    if adapter.is_recipe:
        go_on = f"`{assemble_command(adapter, sharers_now(home.store, task), [history.user])}` makes a new one"
    elif adapter.forgotten:
        begins = f"`ownlm train --task {task} --user {quoted(history.user)}` begins again without them"
        go_on = f"It {learnt_from_gone(adapter)}, and answers until a new one is made: {begins}"
    if adapter.waits:
        return f"the {which} {adapter.stale}; the base answers. `ownlm doctor` says whose pieces are to be withdrawn"
    return f"the {which} is behind: {standing}{known}. {go_on}"


@app.command("use")
def use(
    user: options.User,
    version: Annotated[str, typer.Argument(help="First characters of the version's id; see `ownlm users show`.")],
    task: options.AnyTask = None,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Use an earlier version of a user's adapter again. The later ones stay.

    `ownlm train` then skips the user until records come or change, or --user names them. It continues from this
    version.
    """
    opened = open_home(home)
    adapter = opened.use_version(user, version, task)
    new = opened.behind(adapter)
    if json:
        print_json({"user": user, "task": adapter.task, "adapter": adapter.id, "behind": new})
        return
    unknown = f"; it does not know the {many(new, 'latest record')}" if new else ""
    kind = "recipe" if adapter.is_recipe else "adapter"
    say(f"{shown(user)} uses the {kind} {adapter.id[:8]} in {adapter.task}{unknown}")


app.command("consent")(access.consent)
app.command("token")(access.token)


@app.command("export")
def export(
    user: options.User,
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.", callback=options.outside_homes)],
    task: options.AnyTask = None,
    rank: Annotated[
        int | None,
        typer.Option("--rank", "-r", metavar="R", help="The nearest adapter of this rank, by SVD, instead.", min=1),
    ] = None,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Write a user's newest adapter as a PEFT folder, which `peft` and vLLM load unchanged, with its prompt.

    prompt.json specifies the prompt that the adapter was trained with, and answer.py answers with it without ownlm.

    An assembly of 3 pieces of rank 8 per module becomes an exact adapter of rank 24. With --rank it is smaller, and the
    command reports its error.
    """
    opened = open_home(home)
    exported = opened.export(user, folder, task=task, rank=rank)
    adapter, error = exported.adapter, exported.relative_error
    if exported.warning:
        from ownlm.workflows.adapters import remake_command

        warn(f"warning: it {exported.warning}: {remake_command(opened.store, adapter)} makes one without; export that")
    if json:
        print_json(exported.as_dict())
        return
    what = "recipe" if adapter.is_recipe else "adapter"
    which = f"the {what} {adapter.id[:8]} of {shown(user)}"
    say(f"{folder}: {which}, {size(folder_bytes(folder))}, for the base in {exported.base}")
    choose = " --choose" if opened.task(adapter.task).labels else ""
    say(f"`python answer.py TEXT{choose}` in that folder answers without ownlm; its README.md shows the prompt")
    if rank is not None:
        say(f"of rank {rank}; relative error of its updates: {error:.2%}")


@app.command("forget")
def forget(
    user: options.User,
    verify: options.Verify = False,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Delete a user: every record, profile and adapter, and their consent to share.

    Exported copies are not touched.
    """
    with progress_bar() as progress:
        forgotten = open_home(home).forget(user, progress, verify=verify)
    tell_forgotten(forgotten, json, user)
