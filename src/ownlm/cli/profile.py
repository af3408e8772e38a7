"""`ownlm profile`: writes text profiles of users, and lists them with skipped and failed users."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ownlm.cli import options
from ownlm.cli.home import open_home
from ownlm.cli.output import end, many, print_some, reporting, say, say_skipped, warn

if TYPE_CHECKING:
    from ownlm.workflows.report import Profiles

FIRST_WORDS = 100  # letters of a profile in a table


def profile(
    task: options.Task,
    user: options.Users = None,
    base: options.Base = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--profile-url",
            metavar="URL",
            help="An OpenAI-compatible endpoint that writes instead of a base, such as https://api.example.com/v1. "
            "The latest records of each user are sent there. OWNLM_PROFILE_KEY may hold a key.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--profile-model", metavar="NAME", help="The model's name at that endpoint.")
    ] = None,
    counted: Annotated[
        bool, typer.Option("--counted", help="List each user's most frequent labels, without a model.")
    ] = False,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Write a text profile of each user, for prompts (`train --profile`).

    It is written from the user's 10 latest records, by the base that is not adapted, or by an endpoint. Users with an
    unchanged history and writer are skipped. Each profile is stored at once; after Ctrl-C the same command continues.
    `ownlm users show` shows a profile.
    """
    if (base is not None) + (url is not None) + counted > 1 or (url is None) != (model is None):
        raise typer.BadParameter("give --base, or --profile-url with --profile-model, or --counted, or none of them")
    from ownlm.workflows.report import Profiles

    report = Profiles()
    how: dict[str, Any] = {"base": base, "url": url, "model": model, "counted": counted}
    with reporting(report, _tell, json, report.written, report.skipped) as progress:
        open_home(home).profile(task, users=user or [], tell=warn, progress=progress, report=report, **how)
    end(report.failed, report.interrupted, f"{many(len(report.written), 'profile')} done and kept")


def _tell(report: "Profiles") -> None:
    if report.written:
        print_some(
            f"{many(len(report.written), 'profile')} ({report.written[0][0].writer})",
            ["user", "records#", "profile"],
            [(profile.user, records, _first(profile.text)) for profile, records in report.written],
            "`ownlm users show USER`, or --json",
        )
        if report.written[0][0].writer.startswith("base "):
            say(
                "`ownlm users show` shows them whole: read some before you train on them, as small bases make things up"
            )
    say_skipped(report.skipped)


def _first(text: str) -> str:
    return text if len(text) <= FIRST_WORDS else text[:FIRST_WORDS].rsplit(" ", 1)[0] + " ..."
