"""`ownlm adapt`, `ownlm profile`, `ownlm train`: the adapted base, text profiles of users, and adapters of users."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ownlm.cli import options
from ownlm.cli.assemble import print_assembled
from ownlm.cli.home import making_home, open_home
from ownlm.cli.output import (
    duration,
    end,
    fall,
    many,
    print_json,
    print_some,
    progress_bar,
    reporting,
    say,
    say_skipped,
    size,
    tell_added,
    warn,
    warn_failed,
)
from ownlm.errors import ConfigError, shown
from ownlm.model.bases.placement import Placement
from ownlm.workflows.options import AdaptOptions, ColdStartOptions, TrainOptions

if TYPE_CHECKING:
    from ownlm.workflows.report import ColdStart, Estimate, Profiles, Training

FIRST_WORDS = 100  # letters of a profile in a table


def adapt(
    task: options.Task,
    out: Annotated[str, typer.Option("--out", help="Name of the adapted base.")],
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
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Stage 1: teach the base a task, on outsiders.

    The task adapter is trained on the outsiders and merged. `train` then starts from the adapted base, and skips the
    outsiders. These are the users of DATA, else those named by --user, else all users in the home.
    """
    asked = AdaptOptions(
        task=task, data=data, users=user or (), base=base, preset=preset, rag=rag, profile=profile, recent=recent,
        since=since, learning_rate=learning_rate, epochs=epochs, r=rank, lora_alpha=rank,
        target_modules=_names(modules), batch_size=batch_size, max_words=max_words, seed=seed,
    )  # fmt: skip
    with making_home(home, Placement(device, dtype)) as opened, progress_bar() as progress:
        base_info = opened.adapt(out, asked, progress=progress)
    made = base_info.provenance or {}
    if json:
        print_json(asdict(base_info))
    else:
        say(
            f"{base_info.name}: {base_info.parent} adapted to {base_info.task} on {made['examples']:,} examples, "
            f"loss {fall(made['losses'][0], made['losses'][-1])}"
        )
        say(f"`ownlm train --task {task}` now trains users' adapters on it")


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
    device: options.Device = None,
    dtype: options.Dtype = "auto",
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
    with reporting(report, _print_profiles, json, report.written, report.skipped) as progress:
        opened = open_home(home, Placement(device, dtype))
        opened.profile(task, users=user or [], tell=warn, progress=progress, report=report, **how)
    end(report.failed, report.interrupted, f"{many(len(report.written), 'profile')} done and kept")


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
    layers: options.Layers = None,
    batch_size: options.BatchSize = None,
    max_words: options.MaxWords = None,
    method: options.Method = None,
    activated: options.Activated = False,
    virtual_tokens: options.VirtualTokens = None,
    from_scratch: options.FromScratch = False,
    slots: options.Slots = None,
    tokens_per_step: options.TokensPerStep = None,
    dry_run: options.DryRun = False,
    ladder: options.Ladder = False,
    pool: options.Pool = None,
    held_back: options.HeldBack = False,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Stage 2: train an adapter for each user.

    Users without changes of history, base or settings since their last adapter are skipped. Where only records were
    added, training continues from the last adapter, on the new records. Each adapter is stored soon after it is done,
    and users in flight are checkpointed every minute; after Ctrl-C the same command continues from there. While
    another process trains in this home, the command waits.

    With --ladder, only users with many records get an own adapter (50, or more than 10 for a sharer of the pool). Users
    with fewer are assembled from the task's pool; from 5 records on the assembly is adapted. A user with a higher tier
    keeps it, unless named by --user. Without a pool all users with records get an own adapter.
    """
    if pool is not None and not ladder:
        raise ConfigError(
            "--pool needs --ladder", hint="add --ladder, or assemble from the pool", command="ownlm assemble --pool ID"
        )
    asked = ColdStartOptions(
        task=task, data=data, users=user or (), top=top, min_records=min_records, base=base, preset=preset, rag=rag,
        profile=profile, recent=recent, since=since, learning_rate=learning_rate, epochs=epochs, r=rank,
        lora_alpha=rank, target_modules=_names(modules), top_layers=_top(layers), batch_size=batch_size,
        max_words=max_words, method=method, activated=activated or None, virtual_tokens=virtual_tokens,
        from_scratch=from_scratch, slots=slots, tokens_per_step=tokens_per_step, held_back=held_back, seed=seed,
        pool=pool, dry_run=dry_run,
    )  # fmt: skip
    run = (_place if ladder else _estimate) if dry_run else (_start_cold if ladder else _train)
    run(asked, home, Placement(device, dtype), json)


def _names(modules: str | None) -> tuple[str, ...] | None:
    return None if modules is None else tuple(modules.split(","))


def _top(layers: str | None) -> int | None:
    """The number of layers in `top:N`; None for all."""
    if layers in (None, "all"):
        return None
    kind, _, count = layers.partition(":")
    if kind != "top" or not count.isdecimal() or int(count) < 1:
        raise typer.BadParameter(f"{layers!r} is neither all nor top:N, such as top:8", param_hint="'--layers'")
    return int(count)


def _train(asked: ColdStartOptions, home: Path, placement: Placement, json: bool) -> None:
    from ownlm.workflows.report import Training

    report = Training()
    with (
        reporting(report, _print_training, json, report.trained) as progress,
        making_home(home, placement) as opened,
    ):
        opened.train(asked, progress=progress, report=report)
    end(report.failed, report.interrupted, f"{many(len(report.trained), 'adapter')} done and kept{_saved(report)}")


def _start_cold(asked: ColdStartOptions, home: Path, placement: Placement, json: bool) -> None:
    from ownlm.workflows.report import ColdStart

    report = ColdStart()
    made = report.assemblies.assembled, report.training.trained
    with (
        reporting(report, _print_cold_start, json, *made) as progress,
        making_home(home, placement) as opened,
    ):
        opened.ladder(asked, progress=progress, report=report)
    done = f"{many(len(made[0]) + len(made[1]), 'user')} done and kept{_saved(report.training)}"
    end(report.assemblies.failed + report.training.failed, report.interrupted, done)


def _saved(report: "Training") -> str:
    """The checkpoints that an interrupted training keeps, in words."""
    users = many(report.checkpointed, "user")
    if report.checkpointed:
        return f", and the progress of {users} in flight up to the last minute"
    return ", no progress of others: it is kept every minute"


def _place(asked: ColdStartOptions, home: Path, placement: Placement, json: bool) -> None:
    """Prints every user's tier."""
    report = open_home(home, placement).ladder(asked)
    if json:
        whole = report.as_dict()
        print_json({name: whole[name] for name in ("ladder", "skipped", "added")})
    else:
        if report.added:
            tell_added(report.added, dry_run=True)
        _print_tiers(report)
        say_skipped(report.training.skipped)
        say("nothing was trained or assembled, and nothing written")


def _estimate(asked: TrainOptions, home: Path, placement: Placement, json: bool) -> None:
    """Prints what the same command without --dry-run would do and need."""
    with progress_bar() as progress:
        found = open_home(home, placement).estimate(asked, progress=progress)
    if json:
        print_json(found.as_dict())
    else:
        _print_estimate(found)


def _print_cold_start(report: "ColdStart") -> None:
    if report.added:
        tell_added(report.added)
    _print_tiers(report)
    print_assembled(report.assemblies)
    say_skipped(report.assemblies.skipped)
    _print_training(report.training)


def _print_tiers(report: "ColdStart") -> None:
    counts = Counter(one.tier for one in report.placed)
    print_some(
        ", ".join(f"{counts[tier]:,} {tier}" for tier in ("base", "assembled", "adapted", "own") if counts[tier]),
        ["user", "records#", "rung", "why"],
        [(shown(one.user), one.records, one.tier, one.why) for one in report.placed],
        "--json lists them all",
    )


def _print_estimate(found: "Estimate") -> None:
    if found.added:
        tell_added(found.added, dry_run=True)
    about = "" if found.sampled is None else "about "
    say(
        f"to train: {about}{many(found.people, 'adapter')}, {about}{many(found.examples, 'example')}, "
        f"{about}{many(found.steps, 'step')}, {about}{many(found.tokens, 'token')}"
    )
    if found.sampled is not None:
        say(f"examples and tokens are those of {many(found.sampled, 'user')} taken at random, scaled up")
    if found.people:
        say(
            f"it takes about {duration(found.seconds)}, {size(found.bytes)} of disk and about "
            f"{size(found.memory_bytes)} of memory beside Python's own, with {many(found.slots, 'slot')} and "
            f"{many(found.tokens_per_step, 'token')} a step"
        )
    say("nothing was trained, and nothing written")
    say_skipped(found.skipped, found.not_chosen)
    warn_failed(found.failed)


def _print_training(report: "Training") -> None:
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
    if report.restarted:
        say(
            f"{len(report.restarted):,} of them began again: their last adapter had other settings; "
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


def _print_profiles(report: "Profiles") -> None:
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
