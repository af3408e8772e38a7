"""`ownlm assemble`."""

from typing import TYPE_CHECKING, Any

import typer

from ownlm.cli import options
from ownlm.cli.output import (
    many,
    print_json,
    print_some,
    progress_bar,
    say,
    say_skipped,
    size,
    tell_added,
    warn,
    warn_added,
    warn_failed,
    warn_stale,
)
from ownlm.errors import OwnlmError, shown

if TYPE_CHECKING:
    from ownlm.workflows.report import Assemblies


def assemble(
    task: options.Task,
    data: options.Data = None,
    user: options.Users = None,
    pool: options.Pool = None,
    base: options.Base = None,
    top_k: options.TopK = 3,
    tau: options.Tau = 1.0,
    combine: options.Combine = "product",
    recent: options.RecentRead = 2000,
    adapt_steps: options.AdaptSteps = 0,
    residual_rank: options.ResidualRank = None,
    labels: options.Labels = None,
    seed: options.Seed = 0,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Make adapters of a pool's pieces: without training, in one pass over each person's history.

    It is for everybody who has no adapter of their own and does not share in the pool; --user names others. What is
    kept of a person is a recipe of about 1.5 kB. Who has one from the same history, pool and settings is skipped.
    While another process trains in this home, it waits.
    """
    from ownlm.home import Home
    from ownlm.workflows.report import Assemblies

    opened, report, interrupted = Home(home, create=False), Assemblies(), False
    if data is not None:
        report.added = opened.add_history(data, task, labels=labels)
    try:
        with progress_bar() as progress:
            opened.assemble(
                task, users=user or [], pool=pool, base=base, top_k=top_k, tau=tau, combine=combine, recent=recent,
                adapt_steps=adapt_steps, residual_rank=residual_rank, seed=seed, progress=progress, report=report,
            )  # fmt: skip
    except KeyboardInterrupt:
        interrupted = True
    except OwnlmError:  # what is done is kept, and told
        if report.assembled and not json:
            _print(report)
        warn_added(report.added)
        raise
    if json:
        print_json(document(report) | ({"interrupted": True} if interrupted else {}))
    else:
        _print(report)
    warn_stale(report.stale)
    warn_failed(report.failed)
    if interrupted:
        warn(f"interrupted: {len(report.assembled)} recipes are done and kept; the same command goes on from there")
    if interrupted or report.failed:
        raise typer.Exit(1)


def document(report: "Assemblies") -> dict[str, Any]:
    """What came of assembling, for machines."""
    return {
        "assembled": [
            {
                "user": a.user,
                "recipe": a.id,
                "bytes": a.bytes,
                "records": a.records,
                "seconds": a.seconds,
                "top_sharers": [{"sharer": sharer, "share": share} for sharer, share in a.top_sharers],
                "kept": a.kept,
            }
            for a in report.assembled
        ],
        "stale": [{"user": name, "reason": reason} for name, reason in report.stale],
        "skipped": [{"user": name, "reason": reason} for name, reason in report.skipped],
        "failed": [{"user": name, "error": str(error)} for name, error in report.failed],
    }


def print_assembled(report: "Assemblies") -> None:
    """A table of the recipes that were made, for people; nothing where there are none."""
    if not report.assembled:
        return
    adapted = any(a.kept for a in report.assembled)
    print_some(
        many(len(report.assembled), "recipe"),
        ["user", "recipe", "records#", "size#", "seconds#", "sharers that weigh most", *(["kept"] if adapted else [])],
        [
            (shown(a.user), a.id[:8], a.records, size(a.bytes), f"{a.seconds:.2f}",
             ", ".join(f"{sharer[:6]} {share:.0%}" for sharer, share in a.top_sharers), *([a.kept] if adapted else []))
            for a in report.assembled
        ],
        "`ownlm users ls`",
    )  # fmt: skip


def _print(report: "Assemblies") -> None:
    if report.added:
        tell_added(report.added)
    print_assembled(report)
    if base := sum(a.kept == "base" for a in report.assembled):
        say(f"for {base:,} of them the base alone was best on the records held back: it answers")
    say_skipped(report.skipped)
