"""`ownlm users consent` and `ownlm users token`: for one user, or for all users that a file lists."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ownlm.cli import options
from ownlm.cli.home import open_home
from ownlm.cli.output import many, minute, print_json, print_some, say, warn
from ownlm.durable import sync, unfinished
from ownlm.errors import ConfigError, DataError, argument, shown
from ownlm.json_lines import json_line

if TYPE_CHECKING:
    from datetime import datetime

    from ownlm.access import Access
    from ownlm.store.consents import Consent
    from ownlm.store.tokens import Given, TokenInfo

UserFile = Annotated[
    Path | None,
    typer.Option(
        "--file",
        metavar="FILE",
        help="For all users that a file lists: a name a line, JSON Lines, or CSV with a column `user`; - reads stdin.",
        show_default=False,
    ),
]


def consent(
    user: Annotated[str | None, typer.Argument(help="The user's name.", show_default=False)] = None,
    share: Annotated[
        bool | None, typer.Option("--share/--no-share", help="They agree; they do not, or no longer.")
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--licence", metavar="TEXT", help="Its name or its text; CC-BY-4.0 by default.", show_default=False
        ),
    ] = None,
    file: UserFile = None,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Record whether users agree to share pieces of their adapters; without an option, show it.

    No pieces are shared without it. When it is withdrawn, what was trained of them for sharing is removed. In a file,
    JSON objects and CSV rows may have `share` (true or false) and `licence`, which stand above the options. All of a
    file is checked first: then everything in it is done, or nothing.
    """
    if licence is not None and not share:
        raise typer.BadParameter("--licence goes with --share")
    if (user is None) == (file is None):
        raise typer.BadParameter("give one of these: USER, --file FILE")
    opened = open_home(home)
    if file is not None:
        _consents(opened.access, file, share, licence, json)
        return
    name = user or ""
    given = opened.consent(name, share) if licence is None else opened.consent(name, share, licence)
    if json:
        print_json(given.model_dump())
        return
    say(agreed(given))
    if given.pools and not given.shares:
        _warn_of_pools(len(given.pools), ", ".join(digest[:12] for digest in given.pools), name)


def _consents(access: "Access", file: Path, share: bool | None, licence: str | None, json: bool) -> None:
    """Changes, or shows, the consents of all users that a file lists."""
    from ownlm.store.consents import LICENCE

    listed = access.read_users(file)
    shares = {one.user: share if one.share is None else one.share for one in listed}
    silent = [one for one in listed if shares[one.user] is None]
    if len(silent) == len(listed) and not any(one.licence for one in listed):
        _show_consents(access.consents(list(shares)), json)
        return
    if silent:
        raise DataError(
            f"{len(silent):,} of the {len(listed):,} users have no `share`; nothing was changed",
            got=f"line {silent[0].line} is the first",
            hint="write it in each line, or give --share or --no-share for those without",
        )
    give = {one.user: one.licence or licence or LICENCE for one in listed if shares[one.user]}
    withdraw = [user for user, agrees in shares.items() if not agrees]
    changed = access.change_consents(give, withdraw)
    held = {one.user: one.pools for one in access.consents(withdraw) if one.pools}
    if json:
        print_json(changed.model_dump() | {"pools": held})
        return
    say(f"consent given: {changed.given:,}; withdrawn: {changed.withdrawn:,}; unchanged: {changed.unchanged:,}")
    if held:
        pools = {digest for digests in held.values() for digest in digests}
        first = next(iter(held))
        _warn_of_pools(len(pools), f"of {many(len(held), 'user')}, such as {shown(first)}", first)


def _show_consents(consents: "list[Consent]", json: bool) -> None:
    if json:
        print_json([one.model_dump() for one in consents])
        return
    sharing = sum(one.shares for one in consents)
    rows = [(shown(one.user), "yes" if one.shares else "no", one.licence, minute(one.since or "")) for one in consents]
    title = f"Consents: {sharing:,} of {many(len(consents), 'user')} share"
    print_some(title, ["user", "shares", "licence", "since (UTC)"], rows, "--json lists them all")


def _warn_of_pools(count: int, which: str, user: str) -> None:
    warn(
        f"pieces of theirs remain in {many(count, 'pool')} of this home: {which}. "
        f"Until `ownlm pool withdraw {argument(user)}` removes them, no user is assembled from there, and the base "
        "answers for those who were"
    )


def agreed(one: "Consent") -> str:
    """A user's consent, in one line."""
    if not one.shares:
        give = f"`ownlm users consent --share {argument(one.user)}`"
        return f"{shown(one.user)} does not share pieces of their adapters: {give}"
    since = minute(str(one.since))
    return f"{shown(one.user)} shares pieces of their adapters since {since} (UTC), under this licence: {one.licence}"


def token(
    user: Annotated[
        str | None, typer.Argument(help="The user's name; the user need not have data yet.", show_default=False)
    ] = None,
    operator: Annotated[bool, typer.Option("--operator", help="An operator's, for all users' models.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="List tokens instead: all, or those of USER.")] = False,
    revoke: Annotated[
        str | None, typer.Option("--revoke", metavar="ID", help="Revoke the token with this id or beginning of an id.")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="WHEN", help="After 12h, 30d or 8w, or at a date (UTC); never by default."),
    ] = None,
    file: UserFile = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="With --file: a new file for the tokens, which its owner alone can read.",
            callback=options.outside_homes, show_default=False,
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Revoke the users' earlier tokens when the new ones are given.")
    ] = False,
    revoke_all: Annotated[
        bool, typer.Option("--revoke-all", help="Revoke all tokens of USER, or of the users in --file.")
    ] = False,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:  # fmt: skip
    """Give users tokens for `ownlm serve`. They are shown once: the home keeps hashes alone.

    With --file, each user gets one: as JSON Lines in the file --out, or as one document on stdout with --json.
    """
    from ownlm.store.tokens import expiry_of

    if (revoke is not None or listed) + operator + (user is not None and not listed) + (file is not None) != 1:
        raise typer.BadParameter("give one of these: USER, --file FILE, --operator, --list, --revoke ID")
    given = not (listed or revoke is not None or revoke_all)
    if not given and (expires is not None or replace or out is not None):
        raise typer.BadParameter("--expires, --replace and --out go with a new token")
    if (revoke_all and operator) or (replace and operator):
        raise typer.BadParameter("--revoke-all and --replace go with USER or --file")
    if given and (file is None) != (out is None) and not (file is not None and json):
        raise typer.BadParameter("--file goes with --out or --json, and --out with --file")
    access = open_home(home).access
    end = None if expires is None else expiry_of(expires)
    if listed:
        _list_tokens(access.tokens(user), json)
    elif revoke is not None:
        _revoke(access, revoke, json)
    elif revoke_all:
        _revoke_all(access, [user or ""] if file is None else [one.user for one in access.read_users(file)], json)
    elif file is not None:
        _give_all(access, [one.user for one in access.read_users(file)], end, replace, out, json)
    else:
        (new,) = access.give_tokens([user], expires=end, replace=replace)
        _show_token(new, json)


def _list_tokens(known: "list[TokenInfo]", json: bool) -> None:
    if json:
        print_json([one.model_dump() for one in known])
        return
    rows = [(one.id, shown(one.user or ""), one.scope, minute(one.created), _end(one)) for one in reversed(known)]
    columns = ["id", "user", "scope", "made (UTC)", "expires (UTC)"]
    print_some("Tokens, newest first", columns, rows, "`ownlm users token --list USER`, or --json, which lists all")


def _revoke(access: "Access", beginning: str, json: bool) -> None:
    info = access.revoke_token(beginning)
    if json:
        print_json(info.model_dump(exclude={"expired"}))
    else:
        say(f"the token {info.id} of {shown(info.user or 'an operator')} is revoked")


def _revoke_all(access: "Access", users: list[str], json: bool) -> None:
    revoked = access.revoke_tokens(users)
    without = len(set(users)) - len({one.user for one in revoked})
    if json:
        gone = [one.model_dump(exclude={"scope", "expired"}) for one in revoked]
        print_json({"revoked": gone, "users_without_token": without})
    else:
        say(f"revoked: {many(len(revoked), 'token')}; users without a token: {without:,}")


def _show_token(new: "Given", json: bool) -> None:
    info = new.info
    if json:
        print_json(_document(new))
        return
    say(new.secret)
    ends = f", and is refused from {minute(info.expires)} (UTC) on" if info.expires else ""
    page = "" if info.user is None else "; the page asks for it as the access key"
    warn(f"this is shown once{ends}{page}; `ownlm users token --revoke {info.id}` revokes it")


def _give_all(
    access: "Access", users: list[str], expires: "datetime | None", replace: bool, out: Path | None, json: bool
) -> None:
    """Gives each user a token. The file `out` appears only when its tokens are valid."""
    if out is None:
        print_json([_document(one) for one in access.give_tokens(users, expires=expires, replace=replace)])
        return
    if out.exists() or out.is_symlink():
        raise ConfigError(
            f"There is a file {out} already",
            hint="choose another --out; with --replace, the new tokens revoke the earlier ones",
        )
    with unfinished(out) as temporary:

        def write(given: "list[Given]") -> None:
            with temporary.open("w", encoding="utf8") as file:
                file.writelines(json_line(_document(one)) for one in given)
                file.flush()
                os.fsync(file.fileno())

        new = access.give_tokens(users, expires=expires, replace=replace, deliver=write)
        temporary.rename(out)
        sync(out.absolute().parent)
    if json:
        print_json({"file": str(out), "tokens": len(new)})
    else:
        say(f"{out}: {many(len(new), 'token')}, which only its owner can read; hand them out, then delete the file")


def _document(new: "Given") -> dict[str, Any]:
    return new.info.model_dump(exclude={"expired"}) | {"token": new.secret}


def _end(token: "TokenInfo") -> str:
    """The end of a token's validity, for a table."""
    if token.expires is None:
        return "never"
    return minute(token.expires) + (", expired" if token.expired else "")
