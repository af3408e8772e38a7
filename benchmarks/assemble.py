"""Speed of assembling users from a pool's pieces, compared to training the same users.

    python benchmarks/assemble.py [--set huffpost_category] [--users 16] [--sharers 50] [--records 50] [--epochs 1]
    python benchmarks/assemble.py --peer-users 4                   `peft` trains some of them only; scaled by tokens
    python benchmarks/assemble.py --device cuda --base 7b          random weights in real shapes, bfloat16
    python benchmarks/assemble.py --sweep sharers                  seconds and memory against the pool's sharers
    python benchmarks/assemble.py --sweep records                  and against records of each user; with charts

The methods come in turn, each in a process of its own, with the same users and records: assembling with k 3 from a pool
of q, k, v and o, as `ownlm share` makes it, and from one of q and v alone; ownlm's own training of q and v with
the preset `small`'s settings; and the plain `peft` loop of `fleet.py`. Before its turn each does a little unmeasured.

The pool's pieces are random, so that reads are spread over all sharers. The pool is in the system's cache. Opening it
checks every byte; admitting it checks every piece, once for each pool. Both are counted apart, as are tokenising and
loading the base.

Seconds of other numbers of epochs are multiples of the measured seconds, and marked so: OPPU trains 2 epochs, the
preset 4. Tokens are those of prompts and answers, without sharing, in one pass through the records.
"""

import argparse
import json
import math
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from bases import SHAPES, open_base
from charts import line_charts
from fleet import HAS_PEFT, OURS, mean, method, on, settings, warm_up
from record import save, table
from timing import Clock, peak_memory, peak_rss, run_child, waited
from transformers import AutoModelForCausalLM, LlamaConfig
from workload import SETS, open_users

from ownlm.config import LoraConfig
from ownlm.model.adapter import WEIGHTS
from ownlm.model.base import BaseLM
from ownlm.model.targets import target_modules
from ownlm.oppu.fleet import Job
from ownlm.perpcs.admission import admit
from ownlm.perpcs.assemble import Target, assemble
from ownlm.perpcs.piece import Piece
from ownlm.perpcs.pool import open_pool
from ownlm.perpcs.version import Pieces, PoolHead, write_pool
from ownlm.presets import SHARED, paper, small

ASSEMBLED = {"assembled": SHARED, "assembled, q and v": small().adapter.lora}  # what the pool's pieces are
TRAINED = {"trained by ownlm": OURS, "trained by peft, plain loop": "peft, plain loop"}  # what fleet.py calls it
EPOCHS = (1, paper().adapter.epochs, small().adapter.epochs)  # the second is the papers'
SHARERS, RECORDS = (10, 50, 100, 200, 500), (10, 25, 50, 100, 200)  # what is swept
SMALL_B = 0.01  # of trained adapters, B's numbers are of about this size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=SETS, default="huffpost_category")
    parser.add_argument("--users", type=int, help="how many people; 16, or 4 in a sweep")
    parser.add_argument("--sharers", type=int, default=50)
    parser.add_argument("--records", type=int, default=50, help="at most so many latest records of each")
    parser.add_argument("--epochs", type=int, default=1, help="of training, measured")
    parser.add_argument("--peer-users", type=int, help="how many of the people `peft` trains; all by default")
    parser.add_argument("--slots", type=int, default=8, help="people in flight of ownlm's training")
    parser.add_argument("--tokens", type=int, help="that go through the model together in ownlm's training")
    parser.add_argument("--base", choices=SHAPES, default="smollm2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sweep", choices=["sharers", "records"])
    parser.add_argument("--only", help=argparse.SUPPRESS)  # for child processes: the method to run
    parser.add_argument("--pool", type=Path, help=argparse.SUPPRESS)  # its pool
    parser.add_argument("--fill", action="store_true", help=argparse.SUPPRESS)  # short histories begin again
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)  # where the child writes what it measured
    asked = parser.parse_args()
    asked.users = asked.users or (4 if asked.sweep else 16)
    if asked.only:
        asked.report.write_text(json.dumps(take_turn(asked)))
    else:
        {None: compare, "sharers": sweep_sharers, "records": sweep_records}[asked.sweep](asked)


def compare(asked: Namespace) -> None:
    """All methods, each in its turn."""
    turns = {}
    for name, lora in ASSEMBLED.items():
        with random_pool(asked, lora, asked.sharers) as pool:
            turns[name] = in_child(asked, name, pool=pool)
    turns |= {name: in_child(asked, name) for name in TRAINED}
    done = {name: turn for name, turn in turns.items() if "left out" not in turn}
    assert len({turn["tokens"] for turn in done.values() if turn["users"] == asked.users}) <= 1, "unequal work"
    for turn in done.values():
        turn |= rates(turn)
    ratios = faster_by(done)
    print_turns(asked, turns)
    print_ratios(ratios)
    name = "_".join(["assemble", asked.set, *([] if asked.base == "smollm2" else [asked.base]), *on(asked.device)])
    save(name, {"asked": plain(asked), "methods": turns, "assembling is faster by": ratios})


def sweep_sharers(asked: Namespace) -> None:
    """The same users with larger and larger pools."""
    turns = {}
    for sharers in SHARERS:
        with random_pool(asked, SHARED, sharers) as pool:
            turns[sharers] = in_child(asked, "assembled", sharers=sharers, pool=pool)
    title = f"{asked.users} users of {asked.set}, at most {asked.records} records each, {asked.base}"
    sweep(asked, "sharers", turns, title, "sharers in the pool")


def sweep_records(asked: Namespace) -> None:
    """The same users with longer and longer histories."""
    with random_pool(asked, SHARED, asked.sharers) as pool:
        turns = {count: in_child(asked, "assembled", records=count, fill=True, pool=pool) for count in RECORDS}
    title = f"{asked.users} users of {asked.set}, {asked.sharers} sharers, {asked.base}"
    sweep(asked, "records", turns, title, "records of each user")


def sweep(asked: Namespace, what: str, turns: dict[int, dict[str, Any]], title: str, x_name: str) -> None:
    """Keeps and draws what came of a sweep."""
    done = {x: turn for x, turn in turns.items() if "left out" not in turn}
    panels = {
        "seconds a user": [turn["seconds"]["assemble"] / turn["users"] for turn in done.values()],
        "seconds to open the pool": [turn["seconds"]["open"] for turn in done.values()],
        "peak memory of the process, MB": [turn["process_memory"] / 1e6 for turn in done.values()],
    }
    if what == "records":
        del panels["seconds to open the pool"]
    rows = [[f"{x:,}", *(f"{y[place]:,.2f}" for y in panels.values())] for place, x in enumerate(done)]
    table(title, [f"{x_name}#", *(f"{name}#" for name in panels)], rows)
    for x, turn in turns.items():
        remark(f"{x} {what}", turn, asked.device)
    name = "_".join([f"assemble_{what}", *([] if asked.base == "smollm2" else [asked.base]), *on(asked.device)])
    save(name, {"asked": plain(asked) | {what: list(turns)}, "turns": turns})
    line_charts(name, title, list(done), panels, x_name, width=3.9)


def take_turn(asked: Namespace) -> dict[str, Any]:
    """One method's turn, in this process; what it did, in seconds, tokens and bytes."""
    if TRAINED.get(asked.only, OURS) != OURS and not HAS_PEFT:
        return {"left out": "peft is not installed"}
    clock = Clock(asked.device)
    with clock("load"):
        base, about_base = open_base(asked.base, asked.device)
    loaded = peak_rss()
    with clock("tokenise"):
        jobs, about_users = people(asked, base)
    if asked.peer_users and TRAINED.get(asked.only, OURS) != OURS:
        jobs = jobs[:: max(len(jobs) // asked.peer_users, 1)][: asked.peer_users]
    measured = (take_assembled if asked.only in ASSEMBLED else take_trained)(asked, base, jobs, clock)
    return {
        "base": about_base,
        "people": about_users,
        "users": len(jobs),
        "records": sum(len(job.examples) for job in jobs),
        "tokens": sum(len(e.prompt) + len(e.answer) for job in jobs for e in job.examples),
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "threads": torch.get_num_threads(),
        "loaded_memory": loaded,
        **measured,
    }


def people(asked: Namespace, base: BaseLM) -> tuple[list[Job], str]:
    """Whom all methods get, and what is to be said about them."""
    users, about = open_users(asked.set, base, asked.users, asked.records)
    if not asked.fill:
        return list(users), about
    jobs = [replace(job, examples=list(islice(cycle(job.examples), asked.records))) for job in users]
    return jobs, f"{about}, again from the first where a history is shorter"


def take_assembled(asked: Namespace, base: BaseLM, jobs: list[Job], clock: Clock) -> dict[str, Any]:
    """Everybody's recipe."""
    with clock("open"):
        pool = open_pool(asked.pool)
    targets = [Target(job.user, job.examples) for job in jobs]
    first = targets if on(asked.device) else targets[:1]
    list(assemble(base, pool, [replace(target, examples=target.examples[:4]) for target in first]))  # unmeasured
    forget_peak(asked.device)
    with clock("assemble"):
        done = list(assemble(base, pool, targets))
    with tempfile.TemporaryDirectory() as out, clock("export"):
        sizes = [Path(out, one.user).write_bytes(one.recipe.to_bytes()) for one in done]
    measured = {
        "sharers": len(pool.manifest.sharers),
        "modules": len(pool.modules),
        "pool_bytes": sum(path.stat().st_size for path in pool.folder.iterdir()),
        "packed_tokens": sum(one.tokens for one in done),
        "bytes_a_user": mean(sizes),
        **peaks(asked.device),
    }
    with clock("admit"):  # after the peak was noted
        admit(pool, dict(target_modules(base.model, pool.lora)), base.fingerprint)
    return measured


def take_trained(asked: Namespace, base: BaseLM, jobs: list[Job], clock: Clock) -> dict[str, Any]:
    """Everybody's adapter, as in `fleet.py`."""
    asked, config = Namespace(**vars(asked) | {"only": TRAINED[asked.only]}), settings(asked)
    warm_up(asked, base, jobs[: asked.slots if on(asked.device) else 1], config)
    forget_peak(asked.device)
    with tempfile.TemporaryDirectory() as out:
        done = list(method(asked, base, jobs, config, Path(out), clock))
        sizes = [path.stat().st_size for path in Path(out).rglob(WEIGHTS)]
    return {
        "epochs": config.epochs,
        "steps": sum(len(one.losses) for one in done),
        "packed_tokens": sum(one.packed for one in done),
        "bytes_a_user": mean(sizes),
        **peaks(asked.device),
    }


def forget_peak(device: str) -> None:
    """What the GPU's memory held before does not count."""
    if on(device):
        torch.cuda.reset_peak_memory_stats()


def peaks(device: str) -> dict[str, int]:
    """The most memory held, of the device and of the process; on a CPU these are one."""
    return {"peak_memory": peak_memory(device), "process_memory": peak_rss()}


@contextmanager
def random_pool(asked: Namespace, lora: LoraConfig, sharers: int) -> Iterator[Path]:
    """A pool of random pieces for the base, while it lasts."""
    print(f"a pool of {sharers} sharers, {', '.join(lora.target_modules)}", file=sys.stderr, flush=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPES[asked.base]))
    shapes = {name: (one.out_features, one.in_features) for name, one in target_modules(model, lora)}
    ids = [f"{number:016x}" for number in range(sharers)]
    with tempfile.TemporaryDirectory() as folder:
        head = PoolHead(asked.base, lora, "CC0-1.0", {"pieces": "random"}, ids)
        yield write_pool(Path(folder, "pool"), head, random_pieces(shapes, ids, lora.r)).folder


def random_pieces(shapes: dict[str, tuple[int, int]], sharers: list[str], r: int) -> Pieces:
    """Pieces as training leaves them: A as it is drawn at first, B small; and gates, normal."""
    generator = torch.Generator().manual_seed(0)
    for name, (out, D) in shapes.items():
        bound = 1 / math.sqrt(D)
        A_NRD = torch.empty(len(sharers), r, D).uniform_(-bound, bound, generator=generator)
        B_NOR = SMALL_B * torch.randn(len(sharers), out, r, generator=generator)
        gate_ND = torch.randn(len(sharers), D, generator=generator)
        yield name, [(sharer, Piece(A_NRD[n], B_NOR[n], gate_ND[n])) for n, sharer in enumerate(sharers)]


def in_child(asked: Namespace, name: str, **changes: Any) -> dict[str, Any]:
    """A method's turn in a process of its own."""
    options = {option: value for option, value in changes.items() if option not in ("pool", "fill")}
    print(f"{name}: {options or 'its turn'}", file=sys.stderr, flush=True)
    return run_child(__file__, name, plain(asked) | changes, ours=TRAINED.get(name, OURS) == OURS)


def spent(turn: dict[str, Any], epochs: int | None = None) -> float:
    """A turn's seconds, the results written; had it been so many epochs, its training so many times as long."""
    seconds = turn["seconds"]
    if "epochs" not in turn:
        return seconds["assemble"] + seconds["export"]
    times = (epochs or turn["epochs"]) / turn["epochs"]
    return seconds.get("wrap", 0) + seconds["train"] * times + seconds["export"]


def rates(turn: dict[str, Any]) -> dict[str, float]:
    """What follows from what was measured; tokens once an epoch."""
    seconds = spent(turn)
    tokens = turn["tokens"] * turn.get("epochs", 1)
    return {"users_per_hour": 3600 * turn["users"] / seconds, "tokens_per_s": tokens / seconds}


def faster_by(done: dict[str, Any]) -> list[dict[str, Any]]:
    """How many times as long training takes as assembling, for each number of epochs; all users' seconds."""
    tokens, rows = max((turn["tokens"] for turn in done.values()), default=0), []
    for name, turn in done.items():
        for epochs in sorted({turn["epochs"], *EPOCHS}) if "epochs" in turn else ():
            seconds = spent(turn, epochs) * tokens / turn["tokens"]
            basis = "measured" if epochs == turn["epochs"] else f"{epochs / turn['epochs']:g} times the training"
            if turn["tokens"] < tokens:
                basis += f", {turn['users']} of the users, scaled by tokens"
            ratios = {other: seconds / spent(done[other]) for other in ASSEMBLED if other in done}
            rows.append({"method": name, "epochs": epochs, "basis": basis, "seconds": seconds, "faster by": ratios})
    return rows


def print_turns(asked: Namespace, turns: dict[str, Any]) -> None:
    """Two tables, methods by figures and by seconds; as measured."""
    title = f"{asked.set}, {asked.base}, {asked.device}: {asked.users} users, {asked.sharers} sharers"
    figures = ["users#", "records#", "tokens#", "epochs#", "users/hour#", "tokens/s#", "bytes a user#", "peak memory#"]
    parts = ("load", "tokenise", "open", "admit", "wrap", "train", "assemble", "export")
    rows, seconds = [], []
    for name, turn in turns.items():
        if "left out" in turn:
            continue
        rows.append((
            name, turn["users"], f"{turn['records']:,}", f"{turn['tokens']:,}", turn.get("epochs", ""),
            f"{turn['users_per_hour']:,.0f}", f"{turn['tokens_per_s']:,.0f}", f"{turn['bytes_a_user']:,.0f}",
            f"{turn['peak_memory'] / 1e9:.2f} GB",
        ))  # fmt: skip
        seconds.append([name, *(f"{turn['seconds'][part]:.2f}" if part in turn["seconds"] else "" for part in parts)])
    table(title, ["method", *figures], rows)
    table("seconds", ["method", *(f"{part}#" for part in parts)], seconds)
    for about in {f"{turn['base']}; {turn['people']}" for turn in turns.values() if "base" in turn}:
        print(about)
    for name, turn in turns.items():
        remark(name, turn, asked.device)


def print_ratios(ratios: list[dict[str, Any]]) -> None:
    """A table: how much faster assembling is than training, for each number of epochs."""
    columns = ["instead of being", "epochs#", "how known", "seconds of all#", *(f"{name}#" for name in ASSEMBLED)]
    rows = []
    for row in ratios:
        faster = [f"{row['faster by'][name]:.2f}" if name in row["faster by"] else "" for name in ASSEMBLED]
        rows.append([row["method"], row["epochs"], row["basis"], f"{row['seconds']:,.1f}", *faster])
    table(f"how many times faster assembling is (OPPU trains {EPOCHS[1]} epochs)", columns, rows)


def remark(name: str, turn: dict[str, Any], device: str) -> None:
    """Says where a turn is missing, or was disturbed."""
    if "left out" in turn:
        print(f"{name} is left out: {turn['left out']}")
    elif waited(turn, "train" if "epochs" in turn else "assemble", device):
        print(f"{name} waited for a core: there was other work on the machine, so measure again")


def plain(asked: Namespace) -> dict[str, Any]:
    """The options a turn depends on."""
    names = ("set", "users", "sharers", "records", "epochs", "peer_users", "slots", "tokens", "base", "device")
    return {name: vars(asked)[name] for name in names}


if __name__ == "__main__":
    main()
