"""`ownlm train --dry-run`."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ownlm.cli.output import duration, many, print_json, progress_bar, say, say_skipped, size, tell_added, warn_failed

if TYPE_CHECKING:
    from ownlm.workflows.histories import Added
    from ownlm.workflows.report import Estimate


def estimate(task: str, data: Path | None, asked: dict[str, Any], home: Path, json: bool) -> None:
    """Says what `ownlm train` with these settings would do and take."""
    from ownlm.home import Home

    with progress_bar() as progress:
        found = Home(home, create=False).estimate(task, data=data, progress=progress, **asked)
    if json:
        print_json(_document(found))
        return
    _print(found)
    say_skipped(found.skipped, found.not_chosen)
    warn_failed(found.failed)


def added_counts(added: "Added | None") -> dict[str, int] | None:
    """What a file adds, or would add, for `--json`."""
    return None if added is None else {"new": added.new, "known": added.known, "forgotten": added.forgotten}


def _document(found: "Estimate") -> dict[str, Any]:
    return {field.name: getattr(found, field.name) for field in fields(found)} | {
        "skipped": [{"user": name, "reason": reason} for name, reason in found.skipped],
        "failed": [{"user": name, "error": str(error)} for name, error in found.failed],
        "seconds": round(found.seconds, 1),
        "added": added_counts(found.added),
    }


def _print(found: "Estimate") -> None:
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
