"""`ownlm ask`: prints the answer to one text, or the answers to a file of queries and how many are right."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ownlm.cli import options
from ownlm.cli.home import open_home
from ownlm.cli.output import print_json, progress_bar, say, warn, warn_some
from ownlm.errors import shown
from ownlm.model.bases.placement import Placement

if TYPE_CHECKING:
    from ownlm.workflows.report import Answer

LISTED = 10  # queries without an answer, and users with a stale assembly, that are listed one by one


def ask(
    task: options.Task,
    user: Annotated[str | None, typer.Argument(help="Who asks.", show_default=False)] = None,
    text: Annotated[str | None, typer.Argument(help="The task's input.", show_default=False)] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Many users' queries, instead of one.")] = None,
    labels: options.Labels = None,
    rag: options.Rag = None,
    profile: Annotated[
        bool | None,
        typer.Option(
            "--profile/--no-profile", help="Whether the prompt shows the user's text profile; by default as trained."
        ),
    ] = None,
    choose: Annotated[bool, typer.Option("--choose", help="Pick the likeliest of the task's labels.")] = False,
    base: options.Base = None,
    base_only: Annotated[bool, typer.Option("--base-only", help="Answer without an adapter.")] = False,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Answer a text with a user's own model, or a file of queries with many users' models.

    Give USER and TEXT for one, or --file for many. Text is generated greedily; with --choose the likeliest label is
    picked.
    """
    if (file is None) == (user is None or text is None) or (file is not None and user is not None):
        raise typer.BadParameter("give USER and TEXT, or --file")
    opened = open_home(home, Placement(device, dtype))
    how: dict[str, Any] = {"rag": rag, "profile": profile, "choose": choose, "base": base, "base_only": base_only}
    if file is None:
        with progress_bar() as progress:
            answer = opened.ask(str(user), str(text), task, progress=progress, **how)
        if json:
            print_json(answer.as_dict())
        else:
            say(answer.answer or "")
        _warn([answer])
        return
    answers = []
    queries = opened.read_queries(file, task, labels=labels)
    with progress_bar() as progress:
        for answer in opened.ask_many(queries, task, progress=progress, **how):
            answers.append(answer)
            if json:
                print_json({"id": answer.query.id, **answer.as_dict(), "gold": answer.query.gold}, line=True)
            elif answer.error is None:
                say(f"{shown(answer.query.user_id)}\t{shown(answer.query.id)}\t{answer.answer}")
    _summarise(answers, json)


def _summarise(answers: "list[Answer]", json: bool) -> None:
    failed = [answer for answer in answers if answer.error]
    judged = [answer for answer in answers if answer.query.gold is not None]
    unjudged = len(answers) - len(judged)
    if judged and not json:
        right = sum(answer.answer == answer.query.gold for answer in judged)
        without = sum(answer.error is not None for answer in judged)
        say(
            f"answered right, word for word: {right:,} of {len(judged):,} ({right / len(judged):.1%})"
            + (f"; without an answer: {without:,}" if without else "")
            + (f"; not judged, as no right answer is known: {unjudged:,}" if unjudged else "")
        )
    elif unjudged and not judged:
        warn("not judged: no query carries its right answer; give it as `gold`, or name a label file with --labels")
    _warn(answers)
    warn_some("no answer", [f"{one.query.id}: {one.error}" for one in failed], "more queries", LISTED)
    if failed:
        raise typer.Exit(1)


def _warn(answers: "list[Answer]") -> None:
    """Prints the warnings about answers, once per user."""
    warnings = list({answer.query.user_id: answer.warning for answer in answers if answer.warning}.values())
    warn_some("warning", warnings, "more users; `ownlm users ls`", LISTED)
