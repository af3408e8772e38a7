"""`ownlm users`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ownlm.cli import options
from ownlm.cli.output import (
    fall,
    folder_size,
    many,
    print_json,
    print_table,
    progress_bar,
    say,
    size,
    tell_forgotten,
    warn,
)
from ownlm.errors import NotFoundError, argument, quoted

if TYPE_CHECKING:
    from ownlm.home import Home
    from ownlm.store.rows import AdapterInfo, Person, TokenInfo
    from ownlm.verbs.consent import Consent

app = typer.Typer(no_args_is_help=True)


@app.command("ls")
def ls(task: options.AnyTask = None, home: options.Home = options.HOME, json: options.Json = False) -> None:
    """List people: their records, their newest adapter, and whether it is up to date, behind, stale, or waits."""
    from ownlm.home import Home

    opened = Home(home, create=False)
    latest, waiting, rows = opened.latest_adapters(task), opened.pools.waiting(), []
    for person in opened.people(task):
        adapter = latest.get((person.task, person.user))
        rows.append((person, adapter, _standing(opened, person, adapter, waiting)))
    if json:
        print_json([_document(*row) for row in rows])
        return
    print_table(
        "People",
        ["user", "task", "records#", "adapter", "base", "method", "size#", "behind"],
        [
            (p.user, p.task, p.records, *((a.id[:8], a.base, _method(a), size(a.bytes)) if a else ("none", "", "", "")),
             standing or ("up to date" if a else ""))
            for p, a, standing in rows
        ],
    )  # fmt: skip


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


def _standing(home: "Home", person: "Person | None", adapter: "AdapterInfo | None", waiting: frozenset[str]) -> str:
    """How far a person's adapter is behind their history, or why it is stale, in words; nothing where it is neither.

    Args:
        waiting: digests of the pools that nobody is answered from.
    """
    from ownlm.verbs.standing import behind
    from ownlm.verbs.waiting import WAITS

    if adapter is None:
        return ""
    waits = WAITS if adapter.pool in waiting else None
    return behind(adapter, person.history if person else None, home.behind(adapter), waits)


def _method(adapter: "AdapterInfo") -> str:
    """How it was made; of a recipe that was to be adapted, also what was best on the records held back."""
    kept = {"adapted": ", adapted", "base": ", but the base answers"}
    return adapter.method + (kept.get(adapter.provenance.get("kept", ""), "") if adapter.is_recipe else "")


@app.command("show")
def show(
    user: Annotated[str, typer.Argument(help="Whom.")],
    task: options.AnyTask = None,
    plot: options.Plot = None,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Show a person: records, profile, whether they share, every version of their adapters, how far each is behind.

    --plot draws what an assembled person's adapter is made of: sharers' pieces by layers, for each kind of module.
    """
    from ownlm.home import Home

    opened = Home(home, create=False)
    if plot is not None:
        _draw(opened, user, task, plot)
    people = {person.task: person for person in opened.people(task) if person.user == user}
    waiting = opened.pools.waiting()
    adapters = [(a, _standing(opened, people.get(a.task), a, waiting)) for a in opened.adapters(user, task)]
    if not people and not adapters:
        raise NotFoundError(f"The home has no user {user!r}", hint="`ownlm users ls`")
    profiles = {name: profile for name in people if (profile := opened.store.profile(name, user))}
    agreed, kept = opened.consent(user), opened.pools.drafts(task, user)
    if json:
        print_json(
            {
                "user": user,
                "consent": {"licence": agreed.licence, "since": agreed.since} if agreed.shares else None,
                "histories": [{"task": person.task, "records": person.records} for person in people.values()],
                "profiles": [
                    asdict(profile) | {"stale": profile.history != people[name].history}
                    for name, profile in profiles.items()
                ],
                "adapters": [_version(adapter, standing) for adapter, standing in adapters],
                "drafts": [asdict(draft) for draft in kept],
                **({} if plot is None else {"plot": str(plot)}),
            }
        )
        return
    for name, person in people.items():
        say(f"{user}: {person.records:,} records in {name}; {_newest(opened, person, adapters)}")
        if profile := profiles.get(name):
            old = "" if profile.history == person.history else ", before the history changed"
            say(f"profile ({profile.writer}{old}): {profile.text}")
    say(_agreed(agreed) + (f"; {many(len(kept), 'draft')}, {size(sum(one.bytes for one in kept))}" if kept else ""))
    if not adapters:
        return
    print_table(
        "Adapters, oldest first",
        ["adapter", "task", "base", "method", "from", "records#", "steps#", "loss#", "size#", "made (UTC)", "behind"],
        [
            (a.id[:8], a.task, a.base, _method(a), f"pool {a.pool[:12]}" if a.pool else (a.parent or "")[:8], a.records,
             a.steps, _losses(a), size(a.bytes), a.created[:16].replace("T", " "), standing)
            for a, standing in adapters
        ],
    )  # fmt: skip
    if plot is not None:
        say(f"{plot}: whose pieces the newest recipe is made of")
    elif adapters[-1][0].is_recipe and adapters[-1][0].stale is None and adapters[-1][0].pool not in waiting:
        say(f"`ownlm users show --plot FILE.png {argument(user)}` draws whose pieces the recipe is made of")


def _draw(home: "Home", user: str, task: str | None, plot: Path) -> None:
    """Draws what a person's newest recipe is made of."""
    from ownlm.cli.charts import check_picture, draw_use

    check_picture(plot)
    recipe, use = home.pools.pieces(user, task)
    how, kept = recipe.provenance["assembly"], recipe.provenance.get("kept")
    adapted = ", adapted" if kept == "adapted" else ""
    on_top = f", with a LoRA of rank {how['residual_rank']} on top" if recipe.blob else ""
    title = f"{user}, {recipe.task}: recipe {recipe.id[:8]}, {how['combine']} of {many(how['top_k'], 'piece')} a module"
    draw_use(use, plot, f"{title}{adapted}{on_top}", "weight of the piece")


def _version(adapter: "AdapterInfo", standing: str) -> dict[str, Any]:
    """An adapter in JSON: of its recipe, the length."""
    from ownlm.verbs.standing import worth_of

    told = asdict(adapter) | {"standing": standing, "worth": asdict(worth_of(adapter))}
    recipe = told.pop("recipe")
    return told | {"recipe_bytes": None if recipe is None else len(recipe)}


def _losses(adapter: "AdapterInfo") -> str:
    """How the loss went, where anything was trained."""
    first, last = adapter.loss_first, adapter.loss_last
    return "" if first is None or last is None else fall(first, last)


def _newest(home: "Home", person: "Person", adapters: "list[tuple[AdapterInfo, str]]") -> str:
    """What is to be said about a person's newest adapter in a task, and the next command."""
    from ownlm.verbs.again import assemble_command, sharers_now
    from ownlm.verbs.standing import worth_of
    from ownlm.verbs.waiting import WAITS

    task, mine = person.task, [(adapter, standing) for adapter, standing in adapters if adapter.task == person.task]
    if not mine:
        whom = f"--task {task} --user {quoted(person.user)}"
        pieced = f", or `ownlm assemble {whom}`, makes one" if home.pools.ls(task) else " makes one"
        return f"no adapter yet: `ownlm train {whom}`{pieced}"
    adapter, standing = mine[-1]
    which = f"{'recipe' if adapter.is_recipe else 'adapter'} {adapter.id[:8]}"
    known = f"; {words}" if (words := worth_of(adapter).words) else ""
    if not standing:
        return f"the {which} is up to date{known}"
    go_on = f"`ownlm train --task {task}`, with the settings of last time, goes on from it"
    if adapter.is_recipe:
        go_on = f"`{assemble_command(adapter, sharers_now(home.store, task), [person.user])}` makes a new one"
    if standing == WAITS:
        return f"the {which} {WAITS}; the base answers. `ownlm doctor` says whose pieces are to be withdrawn"
    return f"the {which} is behind: {standing}{known}. {go_on}"


@app.command("consent")
def consent(
    user: Annotated[str, typer.Argument(help="Whose consent.")],
    share: Annotated[
        bool | None, typer.Option("--share/--no-share", help="They agree; they do not, or no longer.")
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--licence", metavar="TEXT", help="Its name or its text; CC-BY-4.0 by default.", show_default=False
        ),
    ] = None,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Record whether a person agrees to share pieces of their adapters; without an option, tell it.

    Nobody's pieces are shared without it. When it is taken back, what was trained of them for sharing is removed.
    """
    if licence is not None and not share:
        raise typer.BadParameter("--licence goes with --share")
    from ownlm.home import Home

    opened = Home(home, create=False)
    told = opened.consent(user, share) if licence is None else opened.consent(user, share, licence)
    if json:
        print_json(asdict(told))
        return
    say(_agreed(told))
    if told.pools and not told.shares:
        held = f"{many(len(told.pools), 'pool')} of this home: {', '.join(digest[:12] for digest in told.pools)}"
        warn(
            f"pieces of theirs still lie in {held}. Until `ownlm pool withdraw {argument(user)}` removes them, "
            "nobody is assembled from there, and the base answers for who was"
        )


def _agreed(told: "Consent") -> str:
    """Whether a person shares, in a line."""
    if not told.shares:
        return (
            f"{told.user} does not share pieces of their adapters: `ownlm users consent --share {argument(told.user)}`"
        )
    since = str(told.since)[:16].replace("T", " ")
    return f"{told.user} shares pieces of their adapters since {since} (UTC), under this licence: {told.licence}"


@app.command("token")
def token(
    user: Annotated[
        str | None, typer.Argument(help="Whose: known to the home, or somebody new.", show_default=False)
    ] = None,
    operator: Annotated[bool, typer.Option("--operator", help="An operator's: for everybody's models.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="List tokens instead, everybody's or the person's.")] = False,
    revoke: Annotated[
        str | None, typer.Option("--revoke", metavar="ID", help="Make the token whose id begins so worth nothing.")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="WHEN", help="After 12h, 30d or 8w, or at a date (UTC); never by default."),
    ] = None,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Give a person a token for `ownlm serve`. It is shown once: the home keeps a hash of it alone."""
    from ownlm.home import Home
    from ownlm.store.tokens import expiry_of, give_token, revoke_token, tokens

    if (revoke is not None or listed) + operator + (user is not None and not listed) != 1:
        raise typer.BadParameter("give one of these: USER, --operator, --list, --revoke ID")
    if expires is not None and (listed or revoke is not None):
        raise typer.BadParameter("--expires goes with a new token: USER, or --operator")
    store = Home(home, create=False).store
    if listed:
        known = tokens(store, user)
        if json:
            print_json([asdict(one) | {"scope": one.scope, "expired": one.expired} for one in known])
        else:
            rows = [(one.id, one.user, one.scope, _minute(one.created), _end(one)) for one in known]
            print_table("Tokens", ["id", "user", "scope", "made (UTC)", "expires (UTC)"], rows)
        return
    if revoke is not None:
        info = revoke_token(store, revoke)
        if json:
            print_json(asdict(info) | {"scope": info.scope})
        else:
            say(f"the token {info.id} of {info.user or 'an operator'} is worth nothing any more")
        return
    info, secret = give_token(store, user, None if expires is None else expiry_of(expires))
    if json:
        print_json(asdict(info) | {"scope": info.scope, "token": secret})
    else:
        say(secret)
        ends = f", and is worth nothing from {_minute(info.expires)} (UTC) on" if info.expires else ""
        page = "" if info.user is None else "; the page asks for it as the access key"
        warn(f"this is shown once{ends}{page}; `ownlm users token --revoke {info.id}` makes it worth nothing")


def _end(token: "TokenInfo") -> str:
    """When a token ends, for a table."""
    if token.expires is None:
        return "never"
    return _minute(token.expires) + (", expired" if token.expired else "")


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")


@app.command("export")
def export(
    user: Annotated[str, typer.Argument(help="Whose adapter.")],
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.", callback=options.outside_homes)],
    task: options.AnyTask = None,
    rank: Annotated[
        int | None,
        typer.Option("--rank", "-r", metavar="R", help="The nearest adapter of this rank, by SVD, instead.", min=1),
    ] = None,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Write a person's newest adapter as a PEFT folder, which `peft` and vLLM load unchanged.

    An assembly of 3 pieces of rank 8 a module becomes an adapter of rank 24, and is exact; with --rank it is smaller,
    and how far it is off is told.
    """
    from ownlm.home import Home

    opened = Home(home, create=False)
    exported = opened.export(user, folder, task=task, rank=rank)
    adapter, error = exported.adapter, exported.relative_error
    base = opened.store.base(adapter.base)
    if json:
        print_json(
            {"user": user, "adapter": adapter.id, "folder": str(folder), "base": base.folder, "rank": rank,
             "relative_error": error}
        )  # fmt: skip
        return
    what = "recipe" if adapter.is_recipe else "adapter"
    say(f"{folder}: the {what} {adapter.id[:8]} of {user}, {size(folder_size(folder))}, for the base in {base.folder}")
    if rank is not None:
        say(f"of rank {rank}; relative error of its updates: {error:.2%}")


@app.command("forget")
def forget(
    user: Annotated[str, typer.Argument(help="Whom.")],
    verify: options.Verify = False,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Remove a person for good: every record, profile and adapter, and their consent to share.

    What was exported elsewhere is not touched.
    """
    from ownlm.home import Home

    with progress_bar() as progress:
        forgotten = Home(home, create=False).forget(user, progress, verify=verify)
    tell_forgotten(forgotten, json)
