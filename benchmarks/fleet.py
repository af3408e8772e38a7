"""Speed of training users' adapters with ownlm's fleet, compared to `peft` in three ways.

    python benchmarks/fleet.py [--set huffpost_category] [--users 8] [--records 50] [--epochs 1] [--slots 8]
    python benchmarks/fleet.py --device cuda --base 7b             random weights in real shapes, bfloat16
    python benchmarks/fleet.py --sweep slots                       ownlm alone: users/hour against slots, and a chart
    python benchmarks/fleet.py --sweep users                       ownlm on a tiny base: peak memory against users

Each method trains all users in a process of its own, one after the other, on the same examples with the same settings:
OPPU's (r 8 on q and v, batch 16) with the rate of the preset `small`. Before its turn it takes one step unmeasured.

users/hour counts wrapping, training and writing the adapters, not loading the base or tokenising. tokens/s are tokens
of prompts and answers, no padding, nothing shared, the same for every method, by seconds of training; ownlm's own
packed tokens stand in the result too. The roof is what the machine reaches in plain matmuls for several seconds,
before and after; the share of it is the operations that the job needs (`roof.py`) by seconds of training and the roof.
The final loss is the last epoch's mean, averaged over users; peers with minibatches of their own end at another one.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bases import SHAPES, open_base
from charts import line_chart
from peers import PEERS
from record import save, table
from roof import Rate, Shape, matmul_rate, needed, total
from timing import Clock, Trained, peak_memory, peak_rss, run_child, waited
from transformers import LlamaConfig
from workload import SETS, open_users

from ownlm.config import TrainConfig
from ownlm.model.adapter import WEIGHTS, write_peft_folder
from ownlm.model.base import BaseLM
from ownlm.oppu.fleet import Job, train_fleet
from ownlm.presets import small

OURS = "ownlm"
TOKENS = "tokens_per_step"  # what train_fleet calls the size of a pass
SLOTS, USERS = (1, 2, 4, 8, 16, 32), (4, 16, 64, 256)  # what is swept
HAS_PEFT = importlib.util.find_spec("peft") is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=SETS, default="huffpost_category")
    parser.add_argument("--users", type=int, help="how many people; 8, or 32 to sweep slots")
    parser.add_argument(
        "--records", type=int, help="at most so many latest records of each; 50 (16 to sweep slots, 500 of synthetic)"
    )
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--slots", type=int, default=8, help="ownlm's people in flight")
    parser.add_argument("--tokens", type=int, help="ownlm's tokens that go through the model together")
    parser.add_argument("--base", choices=SHAPES, default="smollm2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--methods", nargs="+", choices=[OURS, *PEERS], default=[OURS, *PEERS])
    parser.add_argument("--sweep", choices=["slots", "users"])
    parser.add_argument("--only", help=argparse.SUPPRESS)  # for child processes: the method to run
    parser.add_argument("--stream", action="store_true", help=argparse.SUPPRESS)  # users made one by one, not listed
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)  # where the child writes what it measured
    asked = parser.parse_args()
    asked.records = asked.records or (None if asked.set == "synthetic" else 16 if asked.sweep else 50)
    asked.users = asked.users or (max(SLOTS) if asked.sweep else 8)
    if asked.only:
        asked.report.write_text(json.dumps(take_turn(asked)))
    elif asked.sweep == "slots":
        sweep_slots(asked)
    elif asked.sweep == "users":
        sweep_users(asked)
    else:
        compare(asked)


def compare(asked: argparse.Namespace) -> None:
    """All methods, each in its turn."""
    shape = Shape.of(LlamaConfig(**SHAPES[asked.base]), settings(asked).lora)
    before = matmul_rate(asked.device, shape)
    turns = {name: in_child(asked, name) for name in asked.methods}
    after = matmul_rate(asked.device, shape)
    roof = before.mean(after)
    done = {name: turn for name, turn in turns.items() if "left out" not in turn}
    assert len({(turn["tokens"], turn["steps"], turn["flops"]) for turn in done.values()}) <= 1, "unequal work"
    for turn in done.values():
        turn |= rates(turn, roof)
    ours = turns.get(OURS, {}).get("users_per_hour")
    ratios = {name: ours / turn["users_per_hour"] for name, turn in done.items() if ours and name != OURS}
    print_turns(asked, turns, ratios)
    machine = {"threads": torch.get_num_threads(), "flops_before": vars_of(before), "flops_after": vars_of(after)}
    name = "_".join(["fleet", asked.set, *([] if asked.base == "smollm2" else [asked.base]), *on(asked.device)])
    save(name, {"asked": plain(asked), "machine": machine, "methods": turns, "ownlm is faster by": ratios})


def take_turn(asked: argparse.Namespace) -> dict[str, Any]:
    """One method's turn, in this process; what it did, in seconds, tokens, operations and bytes."""
    if asked.only != OURS and not HAS_PEFT:
        return {"left out": "peft is not installed"}
    if HAS_PEFT:
        import peft  # noqa: F401  # its seconds are in no method's
    config, clock = settings(asked), Clock(asked.device)
    with clock("load"):
        base, about_base = open_base(asked.base, asked.device)
    loaded = peak_rss()
    with clock("tokenise"):
        users, about_users = open_users(asked.set, base, asked.users, asked.records)
        jobs = users if asked.stream else list(users)
    if not asked.stream:
        warm_up(asked, base, jobs[: asked.slots if on(asked.device) else 1], config)
    if on(asked.device):
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as out:
        trained = list(method(asked, base, jobs, config, Path(out), clock))
    turn = {
        "base": about_base,
        "people": about_users,
        "users": len(trained),
        "steps": sum(len(one.losses) for one in trained),
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "threads": torch.get_num_threads(),
        "peak_memory": peak_memory(asked.device),
        "loaded_memory": loaded,
        "packed_tokens": sum(one.packed for one in trained),
        "first_loss": mean(one.losses[0] for one in trained),
        "final_loss": mean(mean(one.losses[-(len(one.losses) // config.epochs) :]) for one in trained),
    }
    if not asked.stream:
        turn["tokens"] = config.epochs * sum(len(e.prompt) + len(e.answer) for job in jobs for e in job.examples)
        turn["flops"] = needed(Shape.of(base.model.config, config.lora), total(jobs, config))
    return turn


def method(
    asked: argparse.Namespace, base: BaseLM, jobs: Iterable[Job], config: TrainConfig, out: Path, clock: Clock
) -> Iterator[Trained]:
    """Runs one method in this process."""
    if asked.only != OURS:
        base.model.set_attn_implementation("sdpa")
        yield from PEERS[asked.only](base.model, jobs, config, out, clock)
        return
    size = {} if asked.tokens is None else {TOKENS: asked.tokens}
    runs = train_fleet(base, jobs, config, slots=asked.slots, **size)
    while True:
        with clock("train"):  # making the bank and attaching it included
            run = next(runs, None)
        if run is None:
            return
        if run.error:
            raise run.error
        with clock("export"):
            write(out / run.job.user, run.adapter.to_bytes(), config, base)
        yield Trained(run.job.user, run.losses, run.tokens)


def write(folder: Path, weights: bytes, config: TrainConfig, base: BaseLM) -> None:
    """An adapter's folder; its weights alone where there is no peft to write the config."""
    if HAS_PEFT:
        write_peft_folder(folder, weights, config.lora, str(base.folder))
    else:
        folder.mkdir()
        (folder / WEIGHTS).write_bytes(weights)


def warm_up(asked: argparse.Namespace, base: BaseLM, jobs: list[Job], config: TrainConfig) -> None:
    """One step of some users, unmeasured: libraries start their threads, a GPU compiles."""
    first = [replace(job, examples=job.examples[: config.batch_size]) for job in jobs]
    once = config.model_copy(update={"epochs": 1})
    with tempfile.TemporaryDirectory() as out:
        list(method(asked, base, first, once, Path(out), Clock(asked.device)))


def settings(asked: argparse.Namespace) -> TrainConfig:
    """OPPU's shape and batch, at a small base's rate."""
    return small().adapter.model_copy(update={"epochs": asked.epochs, "batch_size": 16})


def in_child(asked: argparse.Namespace, name: str, **changes: Any) -> dict[str, Any]:
    """A method's turn in a process of its own, so that no memory, thread or import is another's."""
    print(f"{name}: {changes or 'its turn'}", file=sys.stderr, flush=True)
    return run_child(__file__, name, {**plain(asked), **changes}, ours=name == OURS)


def sweep_slots(asked: argparse.Namespace) -> None:
    """ownlm with more and more people in flight."""
    turns = {slots: in_child(asked, OURS, slots=slots) for slots in SLOTS}
    rate = {slots: per_hour(turn) for slots, turn in turns.items()}
    line_chart("fleet_slots", f"{asked.set}, {asked.base}", list(rate), list(rate.values()), "slots", "users per hour")
    save(
        "_".join(["fleet_slots", *on(asked.device)]),
        {"asked": plain(asked) | {"slots": SLOTS}, "users_per_hour": rate, "turns": turns},
    )


def sweep_users(asked: argparse.Namespace) -> None:
    """The memory of ownlm's process with more and more people, who are read one by one, on a tiny base."""
    changes = {"base": "tiny", "records": 10, "stream": True}
    turns = {users: in_child(asked, OURS, users=users, **changes) for users in USERS}
    peak = {users: turn["peak_memory"] / 1e6 for users, turn in turns.items()}
    line_chart("fleet_memory", "tiny base, 10 records a user", list(peak), list(peak.values()), "users", "peak MB")
    save("fleet_memory", {"asked": plain(asked) | changes | {"users": USERS}, "peak_MB": peak, "turns": turns})


def rates(turn: dict[str, Any], roof: Rate) -> dict[str, float]:
    """What follows from what was measured."""
    seconds = turn["seconds"]["train"]
    return {
        "users_per_hour": per_hour(turn),
        "tokens_per_s": turn["tokens"] / seconds,
        "packed_tokens_per_s": turn["packed_tokens"] / seconds,
        "roof_share": turn["flops"] / seconds / roof.plain,
    }


def per_hour(turn: dict[str, Any]) -> float:
    """Users an hour, their adapters written."""
    return 3600 * turn["users"] / sum(turn["seconds"].get(name, 0) for name in ("wrap", "train", "export"))


def print_turns(asked: argparse.Namespace, turns: dict[str, Any], ratios: dict[str, float]) -> None:
    """A table: methods by figures."""
    title = f"{asked.set}, {asked.base}, {asked.device}: {asked.users} users, {asked.epochs} epoch(s)"
    columns = ["method", "users/hour#", "ownlm is faster by#", "tokens/s#", "of the roof#", "peak memory#", "load#",
               "tokenise#", "wrap#", "train#", "export#", "final loss#"]  # fmt: skip
    rows = []
    for name, turn in turns.items():
        if "left out" in turn:
            rows.append((name, f"left out: {turn['left out']}"))
            continue
        seconds = [f"{turn['seconds'].get(part, 0):.1f} s" for part in ("load", "tokenise", "wrap", "train", "export")]
        rows.append((
            name, f"{turn['users_per_hour']:,.0f}", f"{ratios[name]:.2f}" if name in ratios else "",
            f"{turn['tokens_per_s']:,.0f}", f"{turn['roof_share']:.0%}", f"{turn['peak_memory'] / 1e9:.2f} GB",
            *seconds, f"{turn['final_loss']:.4f}",
        ))  # fmt: skip
        if waited(turn, "train", asked.device):
            print(f"{name} waited for a core: there was other work on the machine, so measure again")
    for about in {f"{turn['base']}; {turn['people']}" for turn in turns.values() if "base" in turn}:
        print(about)
    table(title, columns, rows)


def plain(asked: argparse.Namespace) -> dict[str, Any]:
    """The options a turn depends on."""
    names = ("set", "users", "records", "epochs", "slots", "tokens", "base", "device")
    return {name: vars(asked)[name] for name in names}


def on(device: str) -> list[str]:
    """The device's name, where it is no CPU."""
    return [] if torch.device(device).type == "cpu" else [torch.device(device).type]


def vars_of(rate: Rate) -> dict[str, float]:
    """Operations a second, by kind of matmul."""
    return {"plain": rate.plain, "base's shapes": rate.mix}


def mean(values: Iterable[float]) -> float:
    """The mean."""
    found = list(values)
    return sum(found) / len(found)


if __name__ == "__main__":
    main()
