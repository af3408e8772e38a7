"""`ownlm import`: history files from git repositories, mailboxes and LaMP, and the training command to try next."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from ownlm.cli import options
from ownlm.cli.output import duration, many, print_json, progress_bar, say, size
from ownlm.errors import OwnlmError, argument, quoted, shown

if TYPE_CHECKING:
    from ownlm.importers.imported import Imported
    from ownlm.importers.lamp_files import Kind, Split

app = typer.Typer(no_args_is_help=True)

SHOWN = 8  # users listed one by one

# The first training after an import
FEW: Final = 5  # users
LEAST: Final = 50  # records of each user; fewer teach an adapter little
SECONDS: Final = 15 * 60  # seconds
EPOCHS: Final = 4  # preset small
TOKENS_PER_S: Final = 130  # smollm2-135m on one CPU core, measured (benchmarks/LOG.md)
CORES: Final = 8  # more cores gain little
BYTES: Final = 120  # ids, time and field names of a row
BYTES_PER_TOKEN: Final = 3.0  # rest of a row, measured on 899 commits (benchmarks/LOG.md)

_OUT = typer.Argument(
    metavar="OUT.jsonl", help="The history file to write.", show_default=False, callback=options.outside_homes
)
Out = Annotated[Path, _OUT]
KeepNames = Annotated[
    bool,
    typer.Option("--keep-names", help="Addresses as user ids, not hashes of them."),
]
KeepMachine = Annotated[
    bool,
    typer.Option(
        "--keep-machine",
        help="Keep subjects that a program seems to have written; merges, reverts and bots are left out anyway.",
    ),
]
Source = Annotated[
    Path | None,
    typer.Argument(
        metavar="SOURCE",
        help="LaMP's questions, a user/profile/query JSON, LongLaMP's Parquet, or a folder of LaMP or LongLaMP.",
        show_default=False,
    ),
]
LampOut = Annotated[Path | None, _OUT]
Download = Annotated[
    Path | None,
    typer.Option(
        "--download",
        metavar="DIR",
        callback=options.outside_homes,
        help="Fetch LaMP's own files into this folder, and import nothing yet. What is there stays; stopped or cut "
        "off, the same command goes on.",
    ),
]
SplitOption = Annotated[
    Literal["user", "time"],
    typer.Option("--split", help="Of a folder: other users in train and dev, or the same users later."),
]
PartOption = Annotated[
    list[str] | None,
    typer.Option(
        "--part",
        metavar="train|dev|test",
        help="Of a folder: dev by default. To fetch: train and dev by default; may be given several times. The "
        "answers of test are not given out.",
        show_default=False,
    ),
]
Url = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="Another server with LaMP's files to --download from.")
]


@app.command("git")
def git(
    repo: Annotated[Path, typer.Argument(help="A git repository, bare or not.", show_default=False)],
    out: Out,
    keep_names: KeepNames = False,
    keep_machine: KeepMachine = False,
    json: options.Json = False,
) -> None:
    """Commits: what each author changed, and the subject they gave it.

    Merges, reverts, bots, and subjects that programs write (translations, releases, web editors, templates that the
    repository repeats) are left out and counted.
    """
    from ownlm.importers.git import import_git

    with progress_bar() as progress:
        imported = import_git(repo, out, keep_names=keep_names, keep_machine=keep_machine, progress=progress)
    _tell(imported, json)


@app.command("mbox")
def mbox(
    file: Annotated[Path, typer.Argument(help="A mailbox in mbox format.", show_default=False)],
    out: Out,
    me: Annotated[
        list[str] | None,
        typer.Option("--me", metavar="ADDRESS", help="Your address; may be given several times.", show_default=False),
    ] = None,
    replies: Annotated[
        bool, typer.Option("--replies", help="Include replies and forwards, whose subjects are others' words.")
    ] = False,
    keep_names: KeepNames = False,
    json: options.Json = False,
) -> None:
    """Mail that one user sent: its text and its subject. Quoted text, signatures and attachments are stripped."""
    from ownlm.importers.mbox import import_mbox

    with progress_bar() as progress:
        imported = import_mbox(
            file, out, me=me or [], replies=replies, keep_names=keep_names, progress=progress
        )  # fmt: skip
    _tell(imported, json)


@app.command("lamp")
def lamp(
    source: Source = None,
    out: LampOut = None,
    *,
    task: options.Task,
    labels: options.Labels = None,
    download: Download = None,
    split: SplitOption = "user",
    part: PartOption = None,
    url: Url = None,
    json: options.Json = False,
) -> None:
    """LaMP and LongLaMP: histories, queries in a file beside them, and a task file with the data's own instruction.

    First fetch, then import: `lamp --task LaMP_2M --download DIR`, `lamp DIR films.jsonl --task LaMP_2M`.
    """
    parts = [_kind(name) for name in part or []]
    if download is not None:
        if source is not None or labels is not None:
            raise typer.BadParameter("--download goes without SOURCE, OUT.jsonl and --labels: import in a second step")
        _download(download, task, split, parts or ["train", "dev"], url, json)
        return
    if source is None or out is None:
        raise typer.BadParameter("give SOURCE and OUT.jsonl, or --download DIR")
    if url is not None:
        raise typer.BadParameter("--url goes with --download")
    if not source.is_dir() and (part or split != "user"):
        raise typer.BadParameter("--part and --split go with a folder, and a file is one part of one split already")
    if len(parts) > 1:
        raise typer.BadParameter("one --part at a time: each becomes a history file of its own")
    from ownlm.importers.lamp import import_lamp

    _tell(import_lamp(source, out, task=task, labels=labels, split=split, part=parts[0] if parts else "dev"), json)


def _kind(name: str) -> "Kind":
    kinds: dict[str, Kind] = {"train": "train", "dev": "dev", "test": "test"}
    if name not in kinds:
        raise typer.BadParameter("it is train, dev or test", param_hint="--part")
    return kinds[name]


def _download(
    folder: Path,
    task: str,
    split: "Split",
    parts: "list[Kind]",
    url: str | None,
    json: bool,
) -> None:
    from ownlm.importers.lamp_files import OFFICIAL, download_lamp

    try:
        with progress_bar() as progress:
            fetched = download_lamp(folder, task=task, split=split, parts=parts, url=url or OFFICIAL, progress=progress)
    except KeyboardInterrupt:
        raise OwnlmError("Interrupted", hint="run the same command again: it goes on from here") from None
    if json:
        files = [{"path": str(file.path), "bytes": file.path.stat().st_size, "new": file.new} for file in fetched]
        print_json({"task": task, "split": split, "files": files})
        return
    for file in fetched:
        say(f"{'fetched' if file.new else 'there already'}: {file.path}, {size(file.path.stat().st_size)}")
    for part in dict.fromkeys(parts):
        say(f"Next: ownlm import lamp --task {task} --split {split} --part {part} {argument(folder)} {part}.jsonl")


def _tell(imported: "Imported", json: bool) -> None:
    records, users, step = sum(imported.records.values()), len(imported.records), next_step(imported)
    if json:
        print_json(
            {
                "task": imported.task,
                "users": users,
                "records": records,
                "left_out": imported.left_out,
                "labels": imported.labels,
                "templates": imported.templates,
                "without_time": imported.without_time,
                "queries": imported.queries,
                "golds": imported.golds,
                "files": [str(file) for file in imported.files],
                "next": {"command": step.command(imported), "seconds": round(step.seconds)},
            }
        )
        return
    say(f"{imported.files[0]}: {many(records, 'record')} of {many(users, 'user')}")
    for reason, count in imported.left_out.items():
        say(f"left out {count:,}: {reason}")
    if imported.labels:
        say(
            "taken, by label: "
            + ", ".join(f"{name} {count:,}" for name, count in list(imported.labels.items())[:SHOWN])
        )
    if imported.without_time:
        say(f"without a time: {many(imported.without_time, 'record')}, because its date is missing or cannot be read")
    for template, count in list(imported.templates.items())[:SHOWN]:
        say(f"  {count:,} like: {template}")
    if imported.templates:
        say("  --keep-machine keeps these, and what web editors, releases and translation platforms write")
    for user, count in sorted(imported.records.items(), key=lambda item: -item[1])[:SHOWN]:
        say(f"  {shown(user)}: {many(count, 'record')}")
    if users > SHOWN:
        say(f"  and {users - SHOWN:,} more")
    for file in imported.files[1:]:
        say(f"also written: {file}")
    if imported.queries:
        answers = f"{imported.golds:,} of them" if imported.golds else "none of them"
        say(f"{imported.queries:,} queries, {answers} with the right answer")
    say(f"Next: {step.command(imported)}")
    say(f"  {step.explained(users)}")
    for file in imported.files:
        if file.name.endswith(".queries.jsonl"):
            say(f"Then: ownlm ask --task {imported.task} --file={quoted(file)}")


@dataclass(frozen=True, slots=True)
class NextStep:
    """The training command that follows an import, sized so that a first run ends within minutes.

    Attributes:
        top: option `--top` of `ownlm train`; None where training all users takes minutes.
        recent: option `--recent` of `ownlm train`; None where training on all records takes minutes.
        seconds: estimated time of that command.
        all_seconds: estimated time without these options.
        cores: number of CPU cores of the estimate.
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
        """The estimated time, with its basis."""
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
    """Training on everything if that takes minutes; else on the users with most records, or their latest records.

    Args:
        cores: number of CPU cores; by default those this process may use.
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
