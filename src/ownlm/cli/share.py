"""`ownlm share`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ownlm.cli import options
from ownlm.cli.output import ROWS, folder_size, many, print_json, progress_bar, say, size, warn
from ownlm.errors import shown

if TYPE_CHECKING:
    from ownlm.workflows.report import Shared

TOP_K = 3  # what `assemble` selects, unless told otherwise


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
    home: options.Home = options.HOME,
    json: options.Json = False,
) -> None:
    """Make a pool: train adapters of people who agreed to share, and put pieces of them into a folder.

    What is trained is kept at once, for as long as its person agrees: after Ctrl-C the same command goes on where it
    stopped, and another pool of theirs on the same settings trains nobody twice.

    Nobody is chosen without `ownlm users consent USER --share`, nor with 10 records or fewer. The folder names no
    person, and can be published. --user narrows down who may be chosen. While another process trains in this home, it
    waits.
    """
    from ownlm.home import Home

    changes: dict[str, Any] = {
        "steps": steps,
        "gate_steps": gate_steps,
        "learning_rate": learning_rate,
        "gate_learning_rate": gate_learning_rate,
        "r": rank,
        "lora_alpha": rank,
        "batch_size": batch_size,
    }
    with progress_bar() as progress:
        shared = Home(home, create=False).pools.share(
            task, users=user or [], base=base, preset=preset, select=select, sharers=sharers, ratio=ratio,
            centre=centre, embedder=embedder, seed=seed, slots=slots, tokens_per_step=tokens_per_step,
            progress=progress, **changes,
        )  # fmt: skip
    if json:
        print_json(_document(shared))
    else:
        _print(shared)


def _document(shared: "Shared") -> dict[str, Any]:
    pool = shared.pool
    return {
        "pool": pool.digest,
        "task": pool.task,
        "base": pool.base,
        "version": pool.version,
        "parent": pool.parent,
        "folder": pool.folder,
        "bytes": folder_size(pool.folder),
        "candidates": shared.candidates,
        "sharers": shared.sharers,
        "adapters": asdict(shared.adapters),
        "gates": asdict(shared.gates),
        "failed": [{"user": user, "error": str(error)} for user, error in shared.failed],
    }


def _print(shared: "Shared") -> None:
    pool, chosen = shared.pool, shared.sharers
    for user, error in shared.failed[:ROWS]:
        warn(f"left out: {shown(user)}: {error}")
    if len(shared.failed) > ROWS:
        warn(f"left out: {len(shared.failed) - ROWS:,} more; --json lists them all")
    agreed = "1 person agrees" if shared.candidates == 1 else f"{shared.candidates:,} people agree"
    more = f" and {len(chosen) - ROWS:,} more" if len(chosen) > ROWS else ""
    say(f"{agreed} to share; chosen, by the number of records: {', '.join(chosen[:ROWS])}{more}")
    if len(chosen) < min(shared.candidates, pool.provenance["sharing"]["asked_for"]):
        say("fewer than could be: who has 10 records or fewer is not chosen, and of people who are alike only one")
    adapters, gates = shared.adapters, shared.gates
    say(
        f"adapters: {adapters.trained:,} trained, {adapters.there:,} were there; "
        f"gates: {gates.trained:,} trained, {gates.there:,} were there"
    )
    say(
        f"pool {pool.digest[:12]}, version {pool.version}, of {many(len(chosen), 'sharer')}: "
        f"{size(folder_size(pool.folder))} in {pool.folder}"
    )
    command = f"`ownlm assemble --task {pool.task}{top_k(len(chosen))}`"
    say(f"{command} now makes adapters of its pieces for people who have none")
