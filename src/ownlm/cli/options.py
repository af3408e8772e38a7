"""Options that commands share."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from ownlm import config

Home = Annotated[
    Path,
    typer.Option(
        "--home", metavar="DIR", help="The folder that holds everything.", envvar="OWNLM_HOME", show_envvar=True
    ),
]
HOME = Path(".ownlm")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Same seed, same history, same settings: same adapter.")]
Task = Annotated[
    str,
    typer.Option(
        "--task", "-t", metavar="TASK", help="A task's name (LaMP_2N, free-text, ...) or the path of a task file."
    ),
]
AnyTask = Annotated[str | None, typer.Option("--task", "-t", metavar="TASK", help="This task only.")]
Labels = Annotated[
    Path | None,
    typer.Option("--labels", metavar="FILE", help="The file of right answers, where it is not beside the data."),
]
Data = Annotated[
    Path | None, typer.Argument(help="Histories to add first: JSON Lines, Parquet, or LaMP's JSON.", show_default=False)
]
Users = Annotated[
    list[str] | None, typer.Option("--user", "-u", metavar="USER", help="This person; may be given several times.")
]
Base = Annotated[
    str | None, typer.Option("--base", metavar="NAME", help="The base's name; see `ownlm base ls`.", show_default=False)
]
Preset = Annotated[
    str | None,
    typer.Option("--preset", metavar="NAME", help="paper or small; by default small for bases under 1B parameters."),
]
Rag = Annotated[
    int | None, typer.Option("--rag", metavar="K", help="How many of the person's own records a prompt shows.", min=0)
]
Profile = Annotated[
    bool | None, typer.Option("--profile", help="Prompts show the person's text profile; `ownlm profile` writes it.")
]
Top = Annotated[
    int | None,
    typer.Option("--top", metavar="N", help="Of these users, the N with most records; the others are skipped.", min=1),
]
MinRecords = Annotated[
    int | None,
    typer.Option("--min-records", metavar="N", help="Skip users with fewer records in this task.", min=1),
]
Recent = Annotated[
    int | None, typer.Option("--recent", metavar="K", help="Train on this many latest records only.", min=1)
]
RecentRead = Annotated[
    int, typer.Option("--recent", metavar="K", help="Read at most so many of the latest records.", min=1)
]
Since = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="Train on records of this time or later only: 2026-03-01.")
]
LearningRate = Annotated[
    float | None, typer.Option("--learning-rate", "--lr", metavar="RATE", help="Instead of the preset's.")
]
Epochs = Annotated[int | None, typer.Option("--epochs", metavar="N", help="Instead of the preset's.", min=1)]
Rank = Annotated[
    int | None, typer.Option("--rank", "-r", metavar="R", help="LoRA rank, instead of the preset's.", min=1)
]
Modules = Annotated[
    str | None,
    typer.Option("--modules", metavar="A,B", help="Modules to adapt, such as q_proj,v_proj."),
]
Method = Annotated[
    config.Method | None,
    typer.Option(
        "--method",
        help="lora, the default; or for comparison (IA)3 or prompt tuning, by peft, one person at a time.",
        show_default=False,
    ),
]
VirtualTokens = Annotated[
    int | None, typer.Option("--virtual-tokens", metavar="N", help="Of prompt tuning; 8 by default.", min=1)
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", metavar="N", help="Examples a step, instead of the preset's.", min=1)
]
FromScratch = Annotated[
    bool, typer.Option("--from-scratch", help="Fresh weights, even where a person's last adapter could learn on.")
]
HeldBack = Annotated[
    bool,
    typer.Option(
        "--held-back",
        help="Measure, too, how adapters do on records they have not learnt from: about twice the work the first time. "
        "The adapters are the same; `ownlm users show` tells the result.",
    ),
]
Slots = Annotated[
    int | None,
    typer.Option(
        "--slots", metavar="N", help="How many people are in flight at once, instead of what memory allows.", min=1
    ),
]
TokensPerStep = Annotated[
    int | None,
    typer.Option(
        "--tokens-per-step",
        metavar="N",
        help="Tokens that go through the model together, instead of what memory allows. With LoRA dropout (preset "
        "paper) adapters depend on it: there it is 1024 on every machine, unless given.",
        min=1,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Train nothing, write nothing: say whom it would train, how long it takes and how much room; with "
        "--ladder, who would stand where, and why. DATA is counted, and not added.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", help="Of training a sharer's adapter, instead of the preset's.", min=1),
]
GateSteps = Annotated[
    int | None, typer.Option("--gate-steps", metavar="N", help="Of training gates, instead of the preset's.", min=1)
]
GateLearningRate = Annotated[
    float | None, typer.Option("--gate-lr", metavar="RATE", help="Of gates, instead of the preset's.")
]
Select = Annotated[
    Literal["clustered", "active", "random"],
    typer.Option(
        "--select",
        help="Who of those who agree: of each cluster of similar histories the person with the most records; those "
        "with the most records; or a draw.",
    ),
]
Sharers = Annotated[int, typer.Option("--sharers", metavar="N", help="How many people, at most.", min=1)]
Ratio = Annotated[
    float, typer.Option("--ratio", metavar="PART", help="The part of the modules of which a sharer gives a piece.")
]
Embedder = Annotated[
    Path | None,
    typer.Option(
        "--embedder",
        metavar="DIR",
        help="A sentence-transformers folder that embeds histories for --select clustered; by default the base does.",
    ),
]
Centre = Annotated[
    bool,
    typer.Option(
        "--centre",
        help="Make gates blind to what all sharers' histories have in common, so that what sets people apart decides.",
    ),
]
Ladder = Annotated[
    bool,
    typer.Option(
        "--ladder",
        help="Give each what their records are enough for: the base, an assembly, one that is adapted, an own adapter.",
    ),
]
Pool = Annotated[
    str | None,
    typer.Option("--pool", metavar="ID", help="The pool whose id begins so; the task's newest by default."),
]
TopK = Annotated[int, typer.Option("--top-k", metavar="K", help="Pieces a module.", min=1)]
Tau = Annotated[
    float, typer.Option("--tau", metavar="T", help="Below 1 the best piece weighs more, above 1 all weigh alike.")
]
Combine = Annotated[
    Literal["product", "factors"],
    typer.Option("--combine", help="Add up the pieces' updates; or average their A and B apart, as the paper's code."),
]
AdaptSteps = Annotated[
    int,
    typer.Option(
        "--adapt-steps",
        metavar="N",
        help="Then train the weights of the pieces so many steps, and keep what is best on the person's latest "
        "fifth of records, which are held back.",
        min=0,
    ),
]
ResidualRank = Annotated[
    int | None,
    typer.Option(
        "--residual-rank",
        metavar="R",
        help="With --adapt-steps: train a small LoRA of this rank on top, instead of the weights.",
        min=1,
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="Draw it, too, into a .png, .svg or .pdf file.", show_default=False),
]


def outside_homes(path: Path | None) -> Path | None:
    """A place to write people's data to, not in a home: a deletion there would meet it."""
    from ownlm.store.database import DATABASE

    for folder in () if path is None else path.absolute().parents:
        if (folder / DATABASE).exists():
            raise typer.BadParameter(f"it lies in the home {folder}, and would stand in the way of deletions there")
    return path


Verify = Annotated[
    bool, typer.Option("--verify", help="Then search all files of the home for the texts; fail where one is found.")
]
MaxWords = Annotated[int | None, typer.Option("--max-words", metavar="N", help="Words kept of each field.", min=1)]

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else every fork is warned about
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch's tensors in large pages, where Linux has them
