"""`ownlm bench`: run a plan, show its results, score a file of predictions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ownlm.cli import options
from ownlm.cli.output import many, print_json, print_table, progress_bar, say, warn
from ownlm.model.bases.placement import Placement

if TYPE_CHECKING:
    from ownlm.bench.plan import Plan
    from ownlm.bench.results import Results
    from ownlm.bench.score import Score

app = typer.Typer(no_args_is_help=True)


@app.command("run")
def run(
    plan: Annotated[Path, typer.Argument(help="A plan; those in plans/ show how.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder for all results.", show_default=False)],
    size: Annotated[
        str | None, typer.Option("--size", metavar="NAME", help="Instead of the size that the plan names.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the whole plan and print its size; run and write nothing.")
    ] = False,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Run a plan: every method on every set, with intervals and costs. A run that was stopped continues."""
    from ownlm.bench.check import check_plan
    from ownlm.bench.plan import Problems, read_plan
    from ownlm.bench.run import run_plan

    problems = Problems()
    read = read_plan(plan, size, problems)
    if problems:
        check_plan(read, out, problems)  # raises all errors
    if dry_run:
        _print_size(read, out, json)
        return
    try:
        with progress_bar() as progress:
            results = run_plan(read, out, placement=Placement(device, dtype), progress=progress)
    except KeyboardInterrupt:
        if json:
            print_json({"interrupted": True})
        warn("interrupted: answers and stages that are done are kept; the same command goes on from there")
        raise typer.Exit(1) from None
    show_results(results, json)
    if not json:
        say(f"Also in {out / 'report.html'}, {out / 'report.md'} and {out / 'results.json'}")


def _print_size(plan: "Plan", out: Path, json: bool) -> None:
    from ownlm.bench.check import check_plan, size_of

    sets = [size_of(plan, one) for one in check_plan(plan, out)]
    answers = sum(one["answers"] for one in sets)
    if json:
        print_json({"plan": plan.name, "base": plan.base, "seeds": plan.seeds, "answers": answers, "sets": sets})
        return
    columns = ["set", "asked#", "queries#", "outsiders#", "sharers#", "methods#", "answers#"]
    names = ("name", "asked", "queries", "outsiders", "sharers", "methods", "answers")
    print_table(f"{plan.name}: nothing is wrong with it", columns, [[one[name] for name in names] for one in sets])
    for one in sets:
        if len(one["people"]) > 1:
            say(f"{one['name']}: " + ", ".join(f"{count:,} {what}" for what, count in one["people"].items()))
        if one["left_out"]:
            say(f"{one['name']}: methods left out: {', '.join(one['left_out'])}")
        for note in one["notes"]:
            warn(f"{one['name']}: {note}")
    say(f"{many(answers, 'answer')} under {many(len(plan.seeds), 'seed')}; nothing was run, and nothing written")


@app.command("show")
def show(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of a run.", show_default=False)],
    activity: Annotated[bool, typer.Option("--activity", help="Also by how many records users have.")] = False,
    json: options.Json = False,
) -> None:
    """Print the tables of a run."""
    from ownlm.bench.results import read_results

    show_results(read_results(out), json, activity)


def show_results(results: "Results", json: bool = False, activity: bool = False) -> None:
    """Prints the tables of all sets, and the sentences above them.

    Args:
        json: Print the results as JSON instead.
        activity: Also print scores by users' number of records.
    """
    from ownlm.bench import tables
    from ownlm.bench.report import about, notes, subtitle, title

    if json:
        print_json(results.model_dump(mode="json"))
        return
    for line in (title(results), subtitle(results), *notes(results)):
        say(line)
    for one in results.sets:
        say("")
        for line in about(results, one):
            say(line)
        by_activity = tables.activity(one) if activity else ()
        for table in (tables.quality(results, one), *tables.costs(one), *by_activity):
            say("")
            print_table(table.title, table.columns, table.rows)
            if table.note:
                say(table.note)


@app.command("score")
def score(
    golds: Annotated[Path, typer.Argument(metavar="GOLDS", help="The label file.", show_default=False)],
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDS", help="Predictions in LaMP's output format.", show_default=False)
    ],
    task: options.Task,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="FILE",
            help="The users of the queries, and their histories: LaMP's questions, the user/profile/query JSON, or "
            "NAME.jsonl with NAME.queries.jsonl beside it. For intervals over whole users, and buckets of activity.",
            show_default=False,
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Score a file of predictions, with 95% intervals."""
    from ownlm.bench.score import score as score_file
    from ownlm.history.task import load_task

    scored = score_file(golds, predictions, load_task(task), data)
    if json:
        print_json(scored.model_dump(mode="json"))
    else:
        _print_score(scored)


def _print_score(scored: "Score") -> None:
    from ownlm.bench.metrics import metric
    from ownlm.bench.statistics import FEWEST
    from ownlm.bench.tables import interval

    users = "" if scored.users is None else f" of {many(scored.users, 'user')}"
    better = {name: "higher" if metric(name).higher_is_better else "lower" for name in scored.scores}
    rows = [(name, interval(one), better[name]) for name, one in scored.scores.items()]
    title = f"{scored.task}: {many(scored.queries, 'answer')}{users}"
    print_table(title, ["metric", "value [95% interval]#", "better"], rows)
    if scored.buckets:
        rows_of_buckets = [
            (part.label, f"{part.users:,}", f"{part.queries:,}", *map(interval, part.scores.values()))
            for part in scored.buckets
        ]
        columns = ["history", "users#", "queries#", *(f"{name}#" for name in scored.scores)]
        print_table("By activity", columns, rows_of_buckets)
    if any(one.low is None for one in scored.scores.values()):
        say(f"Of fewer than {FEWEST} users, or queries, there are no intervals")
    if scored.unreadable:
        say(f"{scored.unreadable:,} of {scored.queries:,} answers are none of the task's labels")
    if scored.users is None:
        say("The intervals take each query by itself, without buckets of activity: --data says who asked them")
    elif scored.by == "query":
        say("The intervals are about this one user: they take each query by itself")
