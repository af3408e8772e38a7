"""The training command that follows an import, sized so that a first run ends within minutes."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ownlm.cli.output import duration, many
from ownlm.errors import argument

if TYPE_CHECKING:
    from ownlm.importers.imported import Imported

FEW: Final = 5  # users of a first run
LEAST: Final = 50  # records of each: fewer teach an adapter little
SECONDS: Final = 15 * 60  # of a first run
EPOCHS: Final = 4  # of the preset small
TOKENS_PER_S: Final = 130  # of one CPU core: smollm2-135m, measured (benchmarks/LOG.md)
CORES: Final = 8  # beyond these, training gains little
BYTES: Final = 120  # of a row: ids, time and the names of fields
BYTES_PER_TOKEN: Final = 3.0  # of the rest of a row: 3.0 on 899 commits (benchmarks/LOG.md)


@dataclass(frozen=True, slots=True)
class NextStep:
    """What to train first after an import.

    Attributes:
        top, recent: options of `ownlm train`; None where everything is trained within minutes.
        seconds: of that command, about.
        all_seconds: of the same without these options, about.
        cores: CPU cores that the estimate is for.
    """

    top: int | None
    recent: int | None
    seconds: float
    all_seconds: float
    cores: int

    def command(self, imported: "Imported") -> str:
        """The command line."""
        options = [f" --{name} {value}" for name, value in (("top", self.top), ("recent", self.recent)) if value]
        return f"ownlm train --task {imported.task} {argument(imported.files[0])}{''.join(options)}"

    def explained(self, users: int) -> str:
        """How long it takes, and from what that is known."""
        chosen = [f"the {many(self.top, 'user')} with most records"] if self.top else []
        chosen += [f"the latest {many(self.recent, 'record')} of each user"] if self.recent else []
        first = f" for {' and '.join(chosen)}" if chosen else ""
        rest = f"; for all records of {many(users, 'user')}, about {duration(self.all_seconds)}" if chosen else ""
        time = "under a minute" if self.seconds < 60 else f"about {duration(self.seconds)}"
        return (
            f"{time}{first}{rest} (estimated from the number and length of the records, for "
            f"smollm2-135m on {many(self.cores, 'core')} of a CPU; --dry-run measures it)"
        )


def next_step(imported: "Imported", cores: int | None = None) -> NextStep:
    """Everything, if that takes minutes; else the users with most records, and of these the latest records.

    Args:
        cores: CPU cores to train on; by default those that this process may use.
    """
    cores = min(
        cores or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, CORES
    )
    counts = sorted(imported.records.values(), reverse=True)
    length = imported.files[0].stat().st_size / max(1, sum(counts)) - BYTES
    each = EPOCHS * max(length, BYTES_PER_TOKEN) / BYTES_PER_TOKEN / (cores * TOKENS_PER_S)
    every = sum(counts) * each
    if every <= SECONDS:
        return NextStep(None, None, every, every, cores)
    fitting = [top for top in range(1, FEW + 1) if sum(counts[:top]) * each <= SECONDS and top < len(counts)]
    if fitting:
        return NextStep(fitting[-1], None, sum(counts[: fitting[-1]]) * each, every, cores)
    top = max(1, min(FEW, len(counts), int(SECONDS / each / LEAST)))
    recent = max(LEAST, int(SECONDS / each / top / 10) * 10)
    seconds = sum(min(count, recent) for count in counts[:top]) * each
    return NextStep(top if top < len(counts) else None, recent, seconds, every, cores)
