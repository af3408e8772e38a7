"""Output of commands: tables, JSON, and progress on stderr."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unicodedata import category

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ownlm.errors import OwnlmError, argument, shown
from ownlm.errors import many as many
from ownlm.json_lines import json_line
from ownlm.progress import Progress as OnProgress

if TYPE_CHECKING:
    from ownlm.store.forget import Forgotten
    from ownlm.workflows.report import Added

ROWS = 20  # rows of a long table


def print_json(document: Any, *, line: bool = False) -> None:
    """Writes a JSON document to stdout, on one line if asked."""
    sys.stdout.write(json_line(document, indent=None if line else 1))
    if line:
        sys.stdout.flush()


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a table to stdout; columns with a name that ends in '#' are numbers."""
    # as Text, because users' texts are not markup
    table = Table(title=Text(harmless(title)), title_justify="left", show_edge=False, show_header=any(columns))
    for column in columns:
        table.add_column(column.rstrip("#"), justify="right" if column.endswith("#") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else harmless(str(cell))) for cell in row))
    Console(width=None if sys.stdout.isatty() else 160).print(table)  # a file or a pipe has no width of its own


def print_some(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], rest: str) -> None:
    """Writes the first rows of a long table, and the number of the other rows.

    Args:
        rest: how to see the other rows.
    """
    print_table(title, columns, rows[:ROWS])
    if len(rows) > ROWS:
        say(f"and {len(rows) - ROWS:,} more: {rest}")


def say_more(shown: int, total: int) -> None:
    """Writes the number of users that a list leaves out, and how to see them."""
    if total > shown:
        say(f"and {total - shown:,} more: --all lists them; --contains, --min-records, --limit and others narrow it")


def say(text: str) -> None:
    """Writes a line to stdout."""
    Console(soft_wrap=True, highlight=False, markup=False, emoji=False).print(harmless(text))


def harmless(text: str) -> str:
    """A text without control characters, which could steer a terminal: they become '?'.

    >>> harmless("a\\x1b[31mb")
    'a?[31mb'
    """
    return "".join("?" if category(letter) == "Cc" and letter not in "\n\t" else letter for letter in text)


def warn(text: str) -> None:
    """Writes a line to stderr."""
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False).print(harmless(text))


def say_skipped(skipped: Iterable[tuple[str, str]], not_chosen: Mapping[str, int] | None = None) -> None:
    """Writes the numbers of skipped users and of users not chosen, by reason."""
    for reason, count in (not_chosen or {}).items():
        say(f"not chosen {count:,}: {reason}")
    for reason, count in Counter(reason for _, reason in skipped).items():
        say(f"skipped {count:,}: {reason}")


def warn_some(what: str, lines: Sequence[str], rest: str, most: int = ROWS) -> None:
    """Writes the first lines to stderr, and the number of the others.

    Args:
        what: beginning of each line.
        rest: what follows the number.
    """
    for line in lines[:most]:
        warn(f"{what}: {line}")
    if len(lines) > most:
        warn(f"{what}: {len(lines) - most:,} {rest}")


def warn_failed(failed: Sequence[tuple[str, OwnlmError]], what: str = "failed") -> None:
    """Writes the first failed users, with their errors."""
    lines = [f"{shown(name)}: {error.with_command}" for name, error in failed]
    warn_some(what, lines, "more; --json lists them all")


def end(failed: Sequence[tuple[str, OwnlmError]], interrupted: bool = False, done: str = "") -> None:
    """Writes the failed users, and what an interrupted command keeps; exits with code 1 where there is either."""
    warn_failed(failed)
    if interrupted:
        warn(f"interrupted: {done}; the same command continues from there")
    if interrupted or failed:
        raise typer.Exit(1)


@contextmanager
def reporting(report: Any, tell: Callable[[Any], None], as_json: bool, *made: Sequence[object]) -> Iterator[OnProgress]:
    """Shows progress while a command fills its report, then prints the report: also after Ctrl-C or an error.

    Args:
        tell: prints the report for users.
        made: lists of the report. After an error it is printed where one of them has an entry.
    """
    try:
        with progress_bar() as progress:
            yield progress
    except KeyboardInterrupt:
        report.interrupted = True
    except OwnlmError:  # what is done is stored
        if any(made) and not as_json:
            tell(report)
        warn_added(getattr(report, "added", None))
        raise
    print_json(report.as_dict()) if as_json else tell(report)


def warn_stale(stale: Iterable[tuple[str, str]]) -> None:
    """Writes the first users with a stale assembly, by reason."""
    users: dict[str, list[str]] = {}
    for name, why in stale:
        users.setdefault(why, []).append(name)
    for why, names in users.items():
        more = f" and {len(names) - ROWS:,} more" if len(names) > ROWS else ""
        who = ", ".join(map(shown, names[:ROWS]))
        warn(f"stale: {who}{more}: {why}; the base answers for them until they are assembled again")


def tell_forgotten(forgotten: "Forgotten", as_json: bool, user: str, edited: bool = False) -> None:
    """Writes the result of a deletion, or what the change of a record removed."""
    f = forgotten
    if as_json:
        print_json(f.model_dump())
        return
    counts = {"record": f.records, "profile": f.profiles, "adapter": f.adapters, "file of weights": f.blobs}
    if removed := [many(count, what) for what, count in counts.items() if count]:
        say(f"removed: {', '.join(removed)}")
    elif not edited:
        say("removed: nothing more; an earlier forgetting is finished")
    if f.texts:
        say(f"searched the home's files for {many(f.texts, 'text')} of theirs: none is left")
    if f.short:
        say(f"not searched for: {many(f.short, 'text')} of fewer than 8 letters, which others may have written too")
    warn_unfinished(f.unfinished)
    if f.marked:
        say(
            f"marked: {many(f.marked, 'adapter')} that may have learnt from it; `ownlm train` makes new ones without it"
        )
    if f.withdrawn:
        say(f"withdrawn: their pieces from {many(len(f.withdrawn), 'pool')}; published copies are not touched")
    if f.stale:
        who = ", ".join(map(shown, f.stale[:ROWS]))
        warn(f"stale: the assemblies of {who}; the base answers until `ownlm assemble` makes new ones")
    if f.pools:
        command = f"`ownlm pool withdraw {argument(user)}`"
        warn(f"pieces in {many(len(f.pools), 'pool')} may have learnt from it: {command} removes them")
    for base in f.bases:
        warn(f"the base {base} has learnt from this user and stays as it is: `ownlm adapt` makes one without them")


def warn_unfinished(why: str | None) -> None:
    """Warns that deleted text may remain in files, where a reason is given."""
    if why is not None:
        warn(
            f"deleted, but not yet gone from every file. {why}. The next deletion, `ownlm history add` or "
            "`ownlm train` in this home finishes it"
        )


def tell_added(added: "Added", dry_run: bool = False) -> None:
    """Writes what a file of histories added, or would add."""
    users, records = many(len(added.dataset.histories), "user"), many(added.new + added.known, "record")
    say(f"{added.task}: {records} of {users}, {added.new:,} of them new" + (", not added" if dry_run else ""))
    if added.known:
        say(f"{many(added.known, 'record')} {'was' if added.known == 1 else 'were'} there already, with the same text")
    if same := added.dataset.repeated:
        say(f"{many(same, 'row')} of the file {'repeats' if same == 1 else 'repeat'} another row: added once")
    if added.forgotten:
        say(
            f"left out {added.forgotten:,}: they, or their user, were forgotten before; "
            "`ownlm history add --again` takes them"
        )
    for note in added.dataset.notes:
        warn(note)
    if added.inside is not None and not dry_run:
        warn(f"the file {added.inside} lies in the home: move it out, or none of these records can be forgotten")


def warn_added(added: "Added | None") -> None:
    """Writes what a failed command had added from its file."""
    if added is not None:
        users, records = many(len(added.dataset.histories), "user"), many(added.new + added.known, "record")
        warn(f"the file's {records} of {users} stay in the home: repeat the command without the file")


def minute(time: str) -> str:
    """A time in ISO 8601 to the minute, for a table.

    >>> minute("2026-03-01T09:30:12+00:00")
    '2026-03-01 09:30'
    """
    return time[:16].replace("T", " ")


def fall(first: float | None, last: float | None) -> str:
    """The first and the last loss; empty where nothing was trained.

    >>> fall(2.5, 0.125)
    '2.500 -> 0.125'
    """
    return "" if first is None or last is None else f"{first:.3f} -> {last:.3f}"


def size(count: float) -> str:
    """A size in bytes, kB, MB, GB or TB.

    >>> size(1_843_200)
    '1.8 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """A duration in s, min or h.

    >>> duration(40), duration(600), duration(9000)
    ('40 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@contextmanager
def progress_bar() -> Iterator[OnProgress]:
    """A progress bar on stderr for each stage; lines at intervals where stderr is a file or a pipe."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    bars = Progress(
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
    )
    known, unknown = dict[str, Any](), set[str]()  # bars by stage; stages of unknown length
    with bars:

        def on_progress(stage: str, done: float, total: float, note: str = "") -> None:
            for endless in known.keys() - {stage} if unknown else ():
                if endless in unknown:  # the next stage began, so this one is over
                    bars.update(known[endless], completed=1, total=1)
                    unknown.discard(endless)
            if stage not in known:
                known[stage] = bars.add_task(stage, total=total or None, note=note)
            if total == 0:
                unknown.add(stage)
            bars.update(known[stage], completed=int(done), total=int(total) or None, note=note)

        yield on_progress


def _lines(console: Console) -> OnProgress:
    """Progress as lines: at the end of each stage, every ten seconds, and at a beginning with a note."""
    last, ended = dict[str, float](), set[str]()

    def on_progress(stage: str, done: float, total: float, note: str = "") -> None:
        begins = bool(note) and stage not in last  # a note is shown at once
        last.setdefault(stage, time.monotonic())
        if done == 0:  # it begins, perhaps again
            ended.discard(stage)
        ends = done >= total and stage not in ended
        if total == 0:  # nothing to count: one line
            if begins:
                console.print(f"{stage}: {note}", highlight=False, soft_wrap=True)
        elif begins or ends or time.monotonic() - last[stage] > 10:
            if ends:
                ended.add(stage)
            last[stage] = time.monotonic()
            after = f"; {note}" if note else ""
            console.print(f"{stage}: {done:,.0f} of {total:,.0f}{after}", highlight=False, soft_wrap=True)

    return on_progress
