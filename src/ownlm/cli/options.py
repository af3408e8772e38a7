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
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N",
        help="Seed of all random numbers; the same seed, history and settings give the same adapter.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="NAME", help="cpu, cuda, cuda:N or mps; by default a GPU if there is one, else the CPU.",
        envvar="OWNLM_DEVICE", show_envvar=True, show_default=False,
    ),
]  # fmt: skip
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16"],
    typer.Option(
        "--dtype", help="Type of the base's weights; auto takes bfloat16 where the device is fast in it.",
        envvar="OWNLM_DTYPE", show_envvar=True,
    ),
]  # fmt: skip
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
    Path | None,
    typer.Argument(help="Histories to add first: JSON Lines, CSV, Parquet, or LaMP's JSON.", show_default=False),
]
User = Annotated[str, typer.Argument(help="The user's name.")]
Users = Annotated[
    list[str] | None, typer.Option("--user", "-u", metavar="USER", help="This user; may be given several times.")
]
Base = Annotated[
    str | None, typer.Option("--base", metavar="NAME", help="The base's name; see `ownlm base ls`.", show_default=False)
]
Preset = Annotated[
    str | None,
    typer.Option("--preset", metavar="NAME", help="paper or small; by default small for bases under 1B parameters."),
]
Rag = Annotated[
    int | None, typer.Option("--rag", metavar="K", help="Number of the user's own records that a prompt shows.", min=0)
]
Profile = Annotated[
    bool | None, typer.Option("--profile", help="Prompts show the user's text profile; `ownlm profile` writes it.")
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
    int, typer.Option("--recent", metavar="K", help="Read at most this many of the latest records.", min=1)
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
Layers = Annotated[
    str | None,
    typer.Option(
        "--layers",
        metavar="top:N",
        help="Adapt only the N layers next to the head, such as top:8; those below then run once, not in every epoch.",
    ),
]
Method = Annotated[
    config.Method | None,
    typer.Option(
        "--method",
        help="lora, the default; or for comparison (IA)3 or prompt tuning, by peft, one user at a time.",
        show_default=False,
    ),
]
Activated = Annotated[
    bool,
    typer.Option(
        "--activated",
        help="The adapter acts only after the instruction, which is then computed once for all users (activated LoRA).",
    ),
]
VirtualTokens = Annotated[
    int | None,
    typer.Option(
        "--virtual-tokens", metavar="N", help="Number of virtual tokens of prompt tuning; 8 by default.", min=1
    ),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", metavar="N", help="Examples a step, instead of the preset's.", min=1)
]
FromScratch = Annotated[
    bool,
    typer.Option("--from-scratch", help="Fresh weights, even where training could continue from the last adapter."),
]
HeldBack = Annotated[
    bool,
    typer.Option(
        "--held-back",
        help="Also measure adapters on records that they have not learnt from: about twice the work the first time. "
        "The adapters stay the same; `ownlm users show` shows the result.",
    ),
]
Slots = Annotated[
    int | None,
    typer.Option("--slots", metavar="N", help="Number of users in flight, instead of as many as memory allows.", min=1),
]
TokensPerStep = Annotated[
    int | None,
    typer.Option(
        "--tokens-per-step",
        metavar="N",
        help="Tokens that go through the model together, instead of what memory allows.",
        min=1,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Train and write nothing: print the number of users, the time and the memory that training would need; "
        "with --ladder, the tier of each user, and why. DATA is counted, and not added.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", help="Training steps of a sharer's adapter, instead of the preset's.", min=1),
]
GateSteps = Annotated[
    int | None,
    typer.Option("--gate-steps", metavar="N", help="Training steps of gates, instead of the preset's.", min=1),
]
GateLearningRate = Annotated[
    float | None, typer.Option("--gate-lr", metavar="RATE", help="Learning rate of gates, instead of the preset's.")
]
Select = Annotated[
    Literal["clustered", "active", "random"],
    typer.Option(
        "--select",
        help="How sharers are selected: the user with the most records of each cluster of similar histories; the users "
        "with the most records; or random users.",
    ),
]
Sharers = Annotated[int, typer.Option("--sharers", metavar="N", help="Number of sharers, at most.", min=1)]
Ratio = Annotated[
    float, typer.Option("--ratio", metavar="PART", help="Part of the modules that a sharer gives a piece of.")
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
        help="Remove from the gates what all sharers' histories have in common, so that differences decide.",
    ),
]
Ladder = Annotated[
    bool,
    typer.Option(
        "--ladder",
        help="Give each user what their records are enough for: the base, an assembly, an adapted one, an own adapter.",
    ),
]
Pool = Annotated[
    str | None,
    typer.Option(
        "--pool", metavar="ID", help="The pool with this id, or beginning of an id; the task's newest by default."
    ),
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
        help="Then train the weights of the pieces for this many steps, and keep what is best on the user's latest "
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
    typer.Option("--plot", metavar="FILE", help="Also draw it into a .png, .svg or .pdf file.", show_default=False),
]


def outside_homes(path: Path | None) -> Path | None:
    """A path to write users' data to. Raises a BadParameter inside a home, where it would block deletions."""
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
