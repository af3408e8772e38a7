"""`ownlm adapt` and `ownlm train`."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ownlm.cli import options
from ownlm.cli.assemble import document, print_assembled
from ownlm.cli.estimate import added_counts, estimate
from ownlm.cli.new_home import making_home
from ownlm.cli.output import (
    fall,
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
)
from ownlm.errors import ConfigError, OwnlmError, shown

if TYPE_CHECKING:
    from ownlm.workflows.report import Ladder, Training


def adapt(
    task: options.Task,
    out: Annotated[str, typer.Option("--out", help="What to call the adapted base.")],
    data: options.Data = None,
    user: options.Users = None,
    base: options.Base = None,
    preset: options.Preset = None,
    rag: options.Rag = None,
    profile: options.Profile = None,
    recent: options.Recent = None,
    since: options.Since = None,
    learning_rate: options.LearningRate = None,
    epochs: options.Epochs = None,
    rank: options.Rank = None,
    modules: options.Modules = None,
    batch_size: options.BatchSize = None,
    max_words: options.MaxWords = None,
    seed: options.Seed = 0,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Stage 1: teach the base a task, on other people.

    The task adapter is trained on them and merged; the adapted base is then what `train` starts from, and they are
    left out there. They are those of DATA, else those named by --user, else everybody in the home.
    """

    with making_home(home) as opened, progress_bar() as progress:
        base_info = opened.adapt(
            out,
            task,
            data=data,
            users=user or [],
            base=base,
            preset=preset,
            seed=seed,
            progress=progress,
            **_changes(rag, profile, recent, since, learning_rate, epochs, rank, modules, batch_size, max_words),
        )
    made = base_info.provenance or {}
    if json:
        print_json(asdict(base_info))
    else:
        say(
            f"{base_info.name}: {base_info.parent} adapted to {base_info.task} on {made['examples']:,} examples, "
            f"loss {fall(made['losses'][0], made['losses'][-1])}"
        )
        say(f"`ownlm train --task {task}` now trains people's own adapters on it")


def train(
    task: options.Task,
    data: options.Data = None,
    user: options.Users = None,
    top: options.Top = None,
    min_records: options.MinRecords = None,
    base: options.Base = None,
    preset: options.Preset = None,
    rag: options.Rag = None,
    profile: options.Profile = None,
    recent: options.Recent = None,
    since: options.Since = None,
    learning_rate: options.LearningRate = None,
    epochs: options.Epochs = None,
    rank: options.Rank = None,
    modules: options.Modules = None,
    batch_size: options.BatchSize = None,
    max_words: options.MaxWords = None,
    method: options.Method = None,
    virtual_tokens: options.VirtualTokens = None,
    from_scratch: options.FromScratch = False,
    slots: options.Slots = None,
    tokens_per_step: options.TokensPerStep = None,
    dry_run: options.DryRun = False,
    ladder: options.Ladder = False,
    pool: options.Pool = None,
    held_back: options.HeldBack = False,
    seed: options.Seed = 0,
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Stage 2: train everybody's own adapter.

    People whose history, base and settings are as they were at their last adapter are skipped. Where only records were
    added, training goes on from the last adapter, on the new ones. Each adapter is kept soon after it is done, and
    users in flight are checkpointed every minute; after Ctrl-C the same command continues from there. While another
    process trains in this home, it waits.

    With --ladder, only people with many records get an adapter of their own (50, or more than 10 and a place in the
    pool). Those with fewer are assembled from the task's pool, and from 5 records on adapted. Who stands higher already
    stays there, unless --user names them. Without a pool everybody with records gets an own adapter.
    """
    asked: dict[str, Any] = {
        "users": user or [],
        "top": top,
        "min_records": min_records,
        "base": base,
        "preset": preset,
        "from_scratch": from_scratch,
        "seed": seed,
        "slots": slots,
        "tokens_per_step": tokens_per_step,
        "held_back": held_back,
        "method": method,
        "virtual_tokens": virtual_tokens,
        **_changes(rag, profile, recent, since, learning_rate, epochs, rank, modules, batch_size, max_words),
    }
    _dispatch(task, data, asked, pool, ladder, dry_run, home, json)


def _dispatch(
    task: str, data: Path | None, asked: dict[str, Any], pool: str | None, ladder: bool, dry_run: bool, home: Path,
    json: bool,
) -> None:  # fmt: skip
    if pool is not None and not ladder:
        raise ConfigError("A pool is for people who are assembled", hint="--ladder; or `ownlm assemble --pool`")
    if ladder:
        (_placed if dry_run else _ladder)(task, data, asked | {"pool": pool}, home, json)
    elif dry_run:
        estimate(task, data, asked, home, json)
    else:
        _train(task, data, asked, home, json)


def _train(task: str, data: Path | None, asked: dict[str, Any], home: Path, json: bool) -> None:
    from ownlm.workflows.report import Training

    report, interrupted = Training(), False
    try:
        with making_home(home) as opened, progress_bar() as progress:
            opened.train(task, data=data, progress=progress, report=report, **asked)
    except KeyboardInterrupt:
        interrupted = True
    except OwnlmError:  # what is done is kept, and told
        if report.trained and not json:
            _print_report(report)
        warn_added(report.added)
        raise
    _tell(report, json, interrupted)


def _tell(report: "Training", json: bool, interrupted: bool) -> None:
    """Says what became of everybody; the exit status is 1 where somebody failed or waits."""
    if json:
        print_json(_document(report) | ({"interrupted": True} if interrupted else {}))
    else:
        _print_report(report)
    warn_failed(report.failed)
    if interrupted:
        warn(_interrupted(f"{many(len(report.trained), 'adapter')} done and kept", report))
    if interrupted or report.failed:
        raise typer.Exit(1)


def _interrupted(done: str, report: "Training") -> str:
    """What is kept of an interrupted run."""
    users = many(report.checkpointed, "user")
    saved = f", and the progress of {users} in flight up to the last minute" if report.checkpointed else ""
    return f"interrupted: {done}{saved}; the same command continues from there"


def _ladder(task: str, data: Path | None, asked: dict[str, Any], home: Path, json: bool) -> None:
    from ownlm.workflows.report import Ladder

    report, interrupted = Ladder(), False
    try:
        with making_home(home) as opened, progress_bar() as progress:
            opened.ladder(task, data=data, progress=progress, report=report, **asked)
    except KeyboardInterrupt:
        interrupted = True
    except OwnlmError:  # what is done is kept, and told
        if (report.assemblies.assembled or report.training.trained) and not json:
            _print_ladder(report)
        warn_added(report.added)
        raise
    if json:
        print_json(_ladder_document(report) | ({"interrupted": True} if interrupted else {}))
    else:
        _print_ladder(report)
    warn_failed(failed := report.assemblies.failed + report.training.failed)
    if interrupted:
        made = len(report.assemblies.assembled) + len(report.training.trained)
        warn(_interrupted(f"{many(made, 'user')} done and kept", report.training))
    if interrupted or failed:
        raise typer.Exit(1)


def _placed(task: str, data: Path | None, asked: dict[str, Any], home: Path, json: bool) -> None:
    """Who would stand where."""
    from ownlm.home import Home

    report = Home(home, create=False).ladder(task, data=data, dry_run=True, **asked)
    if json:
        skipped = [{"user": name, "reason": reason} for name, reason in report.training.skipped]
        document = {"ladder": [asdict(one) for one in report.placed], "skipped": skipped}
        print_json(document | {"added": added_counts(report.added)})
    else:
        if report.added:
            tell_added(report.added, dry_run=True)
        _print_rungs(report)
        say_skipped(report.training.skipped)
        say("nothing was trained or assembled, and nothing written")


def _ladder_document(report: "Ladder") -> dict[str, Any]:
    """What `train` and `assemble` report, together, and everybody's rung."""
    trained, assembled = _document(report.training), document(report.assemblies)
    both = {name: assembled[name] + trained[name] for name in ("skipped", "failed")}
    placed = [asdict(one) for one in report.placed]
    return trained | assembled | both | {"ladder": placed, "added": added_counts(report.added)}


def _print_ladder(report: "Ladder") -> None:
    if report.added:
        tell_added(report.added)
    _print_rungs(report)
    print_assembled(report.assemblies)
    say_skipped(report.assemblies.skipped)
    _print_report(report.training)


def _print_rungs(report: "Ladder") -> None:
    counts = Counter(one.rung for one in report.placed)
    print_some(
        ", ".join(f"{counts[rung]:,} {rung}" for rung in ("base", "assembled", "adapted", "own") if counts[rung]),
        ["user", "records#", "rung", "why"],
        [(shown(one.user), one.records, one.rung, one.why) for one in report.placed],
        "--json lists them all",
    )


def _changes(
    rag: int | None,
    profile: bool | None,
    recent: int | None,
    since: str | None,
    learning_rate: float | None,
    epochs: int | None,
    rank: int | None,
    modules: str | None,
    batch_size: int | None,
    max_words: int | None,
) -> dict[str, Any]:
    """Settings given on the command line; a rank takes an equal alpha, so that the scale stays 1."""
    return {
        "rag": rag,
        "profile": profile,
        "recent": recent,
        "since": since,
        "learning_rate": learning_rate,
        "epochs": epochs,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": None if modules is None else tuple(modules.split(",")),
        "batch_size": batch_size,
        "max_words": max_words,
    }


def _document(report: "Training") -> dict[str, Any]:
    return {
        "trained": [
            {
                "user": a.user,
                "adapter": a.id,
                "parent": a.parent,
                "records": a.records,
                "steps": a.steps,
                "tokens": a.tokens,
                "loss_first": a.loss_first,
                "loss_last": a.loss_last,
                "seconds": a.seconds,
                "verdict": a.verdict,
            }
            for a in report.trained
        ],
        "skipped": [{"user": name, "reason": reason} for name, reason in report.skipped],
        "not_chosen": report.not_chosen,
        "failed": [{"user": name, "error": str(error)} for name, error in report.failed],
        "anew": report.anew,
        "added": added_counts(report.added),
        "tokens_per_s": round(report.tokens_per_s, 1),
        "resumed": report.resumed,
        "checkpointed": report.checkpointed,
        "notes": report.notes,
    }


def _print_report(report: "Training") -> None:
    for note in report.notes:
        warn(note)
    if report.resumed:
        say(f"{many(report.resumed, 'user')} continued from a checkpoint of an interrupted run")
    if report.added:
        tell_added(report.added)
    if report.trained:
        print_some(
            f"{many(len(report.trained), 'adapter')}, {report.tokens_per_s:,.0f} tokens/s",
            ["user", "adapter", "from", "records#", "steps#", "loss#", "seconds#", "size#"],
            [
                (shown(a.user), a.id[:8], (a.parent or "")[:8], a.records, a.steps, fall(a.loss_first, a.loss_last),
                 f"{a.seconds:.1f}", size(a.bytes))
                for a in report.trained
            ],
            "`ownlm users ls`",
        )  # fmt: skip
    if report.anew:
        say(
            f"{len(report.anew):,} of them began anew: their last adapter had other settings; "
            "with the same ones, training goes on from it"
        )
    verdicts = Counter(a.verdict for a in report.trained)
    if verdicts["little"]:
        say(
            f"{verdicts['little']:,} of them took few steps that hardly moved the training loss, and may have learnt "
            "little: a higher rate and more epochs get more out of short histories (--lr 1e-3 --epochs 20)"
        )
    if tried := sum(verdicts[one] for one in ("better", "unclear", "worse")):
        say(
            f"on held-back records, {verdicts['better']:,} of {tried:,} did better than the base, "
            f"{verdicts['worse']:,} worse; of {verdicts['unclear']:,} the records do not say"
        )
    say_skipped(report.skipped, report.not_chosen)
