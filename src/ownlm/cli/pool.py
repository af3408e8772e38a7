"""`ownlm pool`: list, show and check pools, take one in, remove one, withdraw a sharer's pieces."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ownlm.cli import options
from ownlm.cli.assemble import print_assembled, top_k
from ownlm.cli.home import open_home
from ownlm.cli.output import (
    end,
    many,
    minute,
    print_json,
    print_some,
    progress_bar,
    say,
    size,
    warn,
    warn_stale,
    warn_unfinished,
)
from ownlm.errors import NotFoundError, argument, shown
from ownlm.filesystem import folder_bytes
from ownlm.model.bases.placement import Placement
from ownlm.perpcs.signing import fingerprint

if TYPE_CHECKING:
    from ownlm.home import Home
    from ownlm.perpcs.pool import Pool
    from ownlm.store.rows import BaseInfo, PoolInfo
    from ownlm.workflows.pools.report import VerifiedPool, Withdrawal
    from ownlm.workflows.pools.usage import Use

app = typer.Typer(no_args_is_help=True)

Digest = Annotated[
    str | None,
    typer.Option(
        "--digest", metavar="SHA256", help="Which pool it must be: the SHA-256 of its pool.json.", show_default=False
    ),
]


@app.command("ls")
def ls(task: options.AnyTask = None, home: options.Home = options.HOME, json: options.Json = False) -> None:
    """List pools: version, number of sharers, task and base."""
    from ownlm.workflows.pools.report import PoolRow

    pools = open_home(home).pools.ls(task)
    if json:
        print_json([PoolRow.of(pool).as_dict() for pool in pools])
    elif not pools:
        say(f"no pool yet: `ownlm share --task {task or 'T'}` makes one, `ownlm pool add` takes one in")
    else:
        print_some(
            "Pools, newest first",
            ["pool", "task", "base", "version#", "sharers#", "size#", "from", "signed by", "made (UTC)"],
            [
                (p.digest[:12], p.task, p.base, p.version, p.sharers,
                 size(folder_bytes(p.folder)) if Path(p.folder).is_dir() else "missing",
                 "here" if p.own else "outside", fingerprint(p.publisher) or "nobody", minute(p.created))
                for p in reversed(pools)
            ],
            "--json lists them all",
        )  # fmt: skip


def _signature(publisher: str | None) -> str:
    """What a pool's signature shows."""
    if publisher is None:
        return "not signed: nothing shows who made it"
    return f"signed with the key {fingerprint(publisher)}, which shows who made it"


@app.command("show")
def show(
    pool: Annotated[
        str | None,
        typer.Argument(
            metavar="ID", help="The pool's id, or its beginning; by default the newest.", show_default=False
        ),
    ] = None,
    task: options.AnyTask = None,
    plot: options.Plot = None,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Show a pool: what it says of itself, and how often each sharer's pieces are used by the home's recipes.

    Every byte of it is checked. Sharers are random ids. --plot draws a heat map: sharers by layers, for each kind of
    module.
    """
    from ownlm.workflows.pools.report import PoolDetails

    if plot is not None:
        from ownlm.cli.charts import check_picture

        check_picture(plot)
    opened = open_home(home)
    info, pieces = opened.pools.open(pool, task)
    use = opened.pools.use(info, pieces)
    if plot is not None:
        _draw(info, use, plot)
    if json:
        details = PoolDetails.of(info, pieces, use).as_dict()
        print_json(details if plot is None else details | {"plot": str(plot)})
    else:
        _print(info, pieces, use)
        if plot is not None:
            say(f"{plot}: how often each piece is used")


def _draw(info: "PoolInfo", use: "Use", plot: Path) -> None:
    if not use.recipes:
        raise NotFoundError(
            f"No recipe of the home is made of the pool {info.digest[:12]}: there is nothing to draw",
            hint=f"`ownlm assemble --task {info.task}`",
        )
    from ownlm.cli.charts import draw_use

    title = f"{info.task}: pieces of the pool {info.digest[:12]} in {many(use.recipes, 'recipe')}"
    draw_use(use, plot, title, "recipes that use the piece")


def _print(info: "PoolInfo", pool: "Pool", use: "Use") -> None:
    from ownlm.workflows.pools.report import pieces_given

    given, kinds = pieces_given(pool), ", ".join(use.kinds)
    parent = f", from {info.parent[:12]}" if info.parent else ""
    here = "made here" if info.own else "from outside, made"
    say(f"pool {info.digest[:12]} of task {info.task}: version {info.version}{parent}; {here} {minute(info.created)}")
    say(f"for the base {info.base} ({info.base_fingerprint[:12]}): rank {pool.lora.r}, {kinds} of "
        f"{many(len(use.layers), 'layer')}")  # fmt: skip
    say(f"{many(sum(given.values()), 'piece')} of {many(len(given), 'sharer')}, {size(folder_bytes(info.folder))}")
    say(f"licence: {pool.manifest.licence}")
    say(f"{_signature(info.publisher)}; SHA-256 {info.digest}, which shows damage")
    say(f"folder: {info.folder}")
    print_some(
        f"Sharers, and their pieces in {many(use.recipes, 'recipe')} of this home",
        ["sharer", "pieces#", "used#", "part of all use#"],
        [
            (sharer, given[sharer], f"{total:,.0f}", f"{share:.1%}" if use.recipes else "")
            for sharer, total, share in zip(use.sharers, use.total_S, use.share_S, strict=True)
        ],
        "`ownlm pool show --json`",
    )


@app.command("verify")
def verify(
    pool: Annotated[
        str | None,
        typer.Argument(
            metavar="ID|FOLDER",
            help="A pool's id or its beginning, or any folder; the home's newest by default.",
            show_default=False,
        ),
    ] = None,
    digest: Digest = None,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Check every byte of a pool, its signature, and every piece if the home has its base.

    Exit code 1 if something is wrong. A hash shows damage; a signature shows who made the pool.
    """
    from ownlm.perpcs.pool import open_pool
    from ownlm.workflows.pools.add import check_digest
    from ownlm.workflows.pools.report import VerifiedPool

    base: BaseInfo | None = None
    try:
        opened = open_home(home, Placement(device, dtype))
    except NotFoundError:  # a pool can be checked without a home
        if pool is None:
            raise
        if not Path(pool).is_dir():
            what = f"There is neither a folder {pool} nor a home in {home}"
            raise NotFoundError(what, hint="give the folder of a pool; or --home") from None
        checked = open_pool(Path(pool), check_digest(digest))
    else:
        checked, base = opened.pools.verify(pool, digest)
    found = VerifiedPool.of(checked, base)
    print_json(found.as_dict()) if json else _print_verified(found)


def _print_verified(checked: "VerifiedPool") -> None:
    sharers = many(checked.sharers, "sharer")
    say(f"pool {checked.pool[:12]}: whole, not a byte changed; {many(checked.pieces, 'piece')} of {sharers}, under "
        f"this licence: {checked.licence}")  # fmt: skip
    say(_signature(checked.publisher))
    if checked.base is not None:
        say(f"every piece is fit for the base {checked.base}")
    else:
        warn(
            f"the pieces were not checked against their base, which is not here: one with the fingerprint "
            f"{checked.base_fingerprint[:12]}; `ownlm base add` it, then verify again"
        )


@app.command("add")
def add(
    folder: Annotated[Path, typer.Argument(help="A published pool.")],
    task: options.Task,
    base: options.Base = None,
    digest: Digest = None,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Take in a copy of a pool from outside, after every byte and every piece of it was checked.

    Its base must be in the home. Of a known pool, only a later version that is signed with the same key is taken.
    """
    from ownlm.workflows.pools.report import PoolRow

    opened = open_home(home, Placement(device, dtype))
    known = opened.pools.keys()
    with progress_bar() as progress:
        info = opened.pools.add(folder, task, base=base, digest=digest, progress=progress)
    if json:
        print_json(PoolRow.of(info).as_dict())
        return
    say(f"pool {info.digest[:12]}, version {info.version}, of {many(info.sharers, 'sharer')}: taken in for the task "
        f"{info.task}, on the base {info.base}")  # fmt: skip
    if info.publisher is None:
        say("it is not signed: its hashes show damage, and nothing shows who made it")
    elif info.publisher in known:
        say(f"signed with the key {fingerprint(info.publisher)}, which this home knows")
    else:
        say(f"signed with the key {fingerprint(info.publisher)}, seen here for the first time: ask its publisher "
            "whether it is theirs. Later versions must be signed with it")  # fmt: skip
    again = f"`ownlm assemble --task {info.task} --pool {info.digest[:12]}{top_k(info.sharers)}`"
    say(f"{again} makes adapters of its pieces")
    for old, count in opened.pools.older_in_use(info):
        made = f"made of version {old.version}: {many(count, 'adapter')}"
        say(f"{made}; assembled again, `ownlm pool rm {old.digest[:12]}` removes it")


@app.command("trust")
def trust(
    folder: Annotated[Path, typer.Argument(help="A pool that the home knows, signed with another key than before.")],
    key: Annotated[str, typer.Option(metavar="FINGERPRINT", help="Its publisher's new key, or `unsigned`.")],
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Accept that a known pool is signed with another key from now on, or that it is not signed any more.

    Ask its publisher first, over another channel than the pool came: an attacker who changes a pool signs it with
    another key. `ownlm pool add` takes it in afterwards.
    """
    before = open_home(home).pools.trust(folder, key)
    if json:
        print_json({"folder": str(folder), "before": before, "signed_by": key})
    else:
        say(f"expected from now on: {key}; until now: {', '.join(before)}")


@app.command("rm")
def remove(
    pool: Annotated[str, typer.Argument(metavar="ID", help="The pool's id, or its beginning.")],
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Remove a pool that no current recipe is made of, and its bytes.

    Its sharers still agree to share. A pool made here cannot be added again: the home forgets which users its sharers
    are. Copies published elsewhere are not touched.
    """
    with progress_bar() as progress:
        info, removed = open_home(home).pools.remove(pool, progress=progress)
    if json:
        print_json({"pool": info.digest, "task": info.task, "version": info.version, "bytes": removed})
    else:
        say(f"pool {info.digest[:12]}, version {info.version}, of {many(info.sharers, 'sharer')} for the task "
            f"{info.task}: removed, {size(removed)}")  # fmt: skip


@app.command("withdraw")
def withdraw(
    who: Annotated[str, typer.Argument(help="A user; or a sharer's random id, or its first 6 letters or more.")],
    leave_stale: Annotated[
        bool, typer.Option("--leave-stale", help="Do not assemble the users again whose recipes used the pieces.")
    ] = False,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Take a sharer's pieces out of every pool of the home, for good.

    Each pool gets a version without them, and the drafts they were made of are removed too. Recipes that used them are
    stale: these users are assembled again, and until then the base answers for them. Copies published elsewhere are not
    touched.
    """
    opened = open_home(home, Placement(device, dtype))
    with progress_bar() as progress:
        done = opened.pools.withdraw(who, again=not leave_stale, progress=progress)
    print_json(done.as_dict()) if json else _print_withdrawal(done)
    warn_unfinished(done.unfinished)
    warn_stale(done.stale)
    if _agrees(opened, who):
        warn(f"{shown(who)} still agrees to share, and may be chosen: `ownlm users consent --no-share {argument(who)}`")
    end(done.again.failed)


def _print_withdrawal(done: "Withdrawal") -> None:
    gone = ", ".join(done.sharers)
    text = f"withdrawn: every piece of {gone}; their bytes are removed"
    say(text if done.pools else f"no pool of the home has pieces of {gone}")
    if done.drafts:
        say(f"removed: {many(done.drafts, 'draft')} of theirs, which the next pool would have been made of")
    for digest in done.unread:
        warn(f"the pool {digest[:12]}, from outside, is damaged: pieces of theirs may still lie in it")
    for old, new in done.pools:
        became = "is gone: no sharer was left" if new is None else f"is now {new[:12]}, version {done.versions[new]}"
        say(f"pool {old[:12]} {became}")
    users = many(len(done.affected), "user")
    say(f"recipes that used them: those of {users}; {many(done.untouched, 'recipe')} did not, and go on as before")
    print_assembled(done.again)


def _agrees(home: "Home", who: str) -> bool:
    try:
        return home.consent(who).shares
    except NotFoundError:  # a random id
        return False
