"""`ownlm share` and `ownlm assemble`: make a pool of pieces, and adapters from its pieces."""

from typing import TYPE_CHECKING

from ownlm.cli import options
from ownlm.cli.home import open_home
from ownlm.cli.output import (
    ROWS,
    end,
    many,
    print_json,
    print_some,
    progress_bar,
    reporting,
    say,
    say_skipped,
    size,
    tell_added,
    warn_failed,
    warn_stale,
)
from ownlm.errors import shown
from ownlm.model.bases.placement import Placement
from ownlm.workflows.options import AssembleOptions, ShareOptions

if TYPE_CHECKING:
    from ownlm.workflows.pools.report import Shared
    from ownlm.workflows.report import Assemblies

TOP_K = AssembleOptions.model_fields["top_k"].default


def top_k(sharers: int) -> str:
    """The option of `assemble` for a pool of fewer sharers than it selects by default."""
    return f" --top-k {sharers}" if sharers < TOP_K else ""


def share(
    task: options.Task,
    user: options.Users = None,
    select: options.Select = "clustered",
    sharers: options.Sharers = 50,
    ratio: options.Ratio = 1.0,
    centre: options.Centre = False,
    embedder: options.Embedder = None,
    base: options.Base = None,
    preset: options.Preset = None,
    steps: options.Steps = None,
    gate_steps: options.GateSteps = None,
    learning_rate: options.LearningRate = None,
    gate_learning_rate: options.GateLearningRate = None,
    rank: options.Rank = None,
    batch_size: options.BatchSize = None,
    slots: options.Slots = None,
    tokens_per_step: options.TokensPerStep = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Make a pool: train adapters of users who agreed to share, and put pieces of them into a folder.

    What is trained is stored at once, for as long as its user agrees: after Ctrl-C the same command continues from
    there, and no user is trained twice with the same settings.

    No user is selected without `ownlm users consent USER --share`, nor with 10 records or fewer. The folder names no
    user, and can be published. --user narrows down who may be selected. While another process trains in this home, the
    command waits.
    """
    asked = ShareOptions(
        task=task, users=user or (), base=base, preset=preset, select=select, sharers=sharers, ratio=ratio,
        centre=centre, embedder=embedder, seed=seed, slots=slots, tokens_per_step=tokens_per_step, steps=steps,
        gate_steps=gate_steps, learning_rate=learning_rate, gate_learning_rate=gate_learning_rate, r=rank,
        lora_alpha=rank, batch_size=batch_size,
    )  # fmt: skip
    with progress_bar() as progress:
        shared = open_home(home, Placement(device, dtype)).pools.share(asked, progress=progress)
    print_json(shared.as_dict()) if json else _print_shared(shared)


def _print_shared(shared: "Shared") -> None:
    pool, chosen, adapters, gates = shared.pool, shared.sharers, shared.adapters, shared.gates
    warn_failed(shared.failed, "left out")
    agreed = "1 user agrees" if shared.candidates == 1 else f"{shared.candidates:,} users agree"
    more = f" and {len(chosen) - ROWS:,} more" if len(chosen) > ROWS else ""
    say(f"{agreed} to share; selected, by the number of records: {', '.join(chosen[:ROWS])}{more}")
    if len(chosen) < min(shared.candidates, pool.provenance["sharing"]["asked_for"]):
        say("fewer than possible: users with 10 records or fewer are left out, and of similar users only one is taken")
    say(
        f"adapters: {adapters.trained:,} trained, {adapters.there:,} were there; "
        f"gates: {gates.trained:,} trained, {gates.there:,} were there"
    )
    say(
        f"pool {pool.digest[:12]}, version {pool.version}, of {many(len(chosen), 'sharer')}: "
        f"{size(shared.bytes)} in {pool.folder}"
    )
    command = f"`ownlm assemble --task {pool.task}{top_k(len(chosen))}`"
    say(f"{command} now makes adapters of its pieces for users who have none")


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
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Make adapters of a pool's pieces: without training, in one pass over each user's history.

    By default users without an own adapter who do not share in the pool are assembled; --user names others. A recipe of
    about 1.5 kB a user is stored. Users with a recipe from the same history, pool and settings are skipped. While
    another process trains in this home, the command waits.
    """
    from ownlm.workflows.report import Assemblies

    asked = AssembleOptions(
        task=task, users=user or (), pool=pool, base=base, top_k=top_k, tau=tau, combine=combine, recent=recent,
        adapt_steps=adapt_steps, residual_rank=residual_rank, seed=seed,
    )  # fmt: skip
    opened, report = open_home(home, Placement(device, dtype)), Assemblies()
    if data is not None:
        report.added = opened.add_history(data, task, labels=labels)
    with reporting(report, _print_assemblies, json, report.assembled) as progress:
        opened.assemble(asked, progress=progress, report=report)
    warn_stale(report.stale)
    end(report.failed, report.interrupted, f"{many(len(report.assembled), 'recipe')} done and kept")


def print_assembled(report: "Assemblies") -> None:
    """Prints a table of the recipes that were made, if any."""
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


def _print_assemblies(report: "Assemblies") -> None:
    if report.added:
        tell_added(report.added)
    print_assembled(report)
    if base := sum(a.kept == "base" for a in report.assembled):
        say(f"for {base:,} of them the base alone was best on the records held back: it answers")
    say_skipped(report.skipped)
