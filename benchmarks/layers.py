"""Adapters in the top layers only: speed of training, and what it costs in the likelihood of held-back answers.

    python benchmarks/layers.py [--set huffpost_category] [--users 8] [--records 32] [--epochs 2 4] [--rounds 3]
    python benchmarks/layers.py --quality [--users 40] [--records 64] [--epochs 4]

Compared are all layers, top:15 and top:8 of SmolLM2-135M's 30, with the settings of the preset `small`, on the same
users, examples and seeds, in one process, one after the other in each round.

Speed: users/hour of `train_fleet`, making the bank and the lower layers' pass included, loading and tokenising not. The
ratio to all layers is taken within each round; the median of the rounds counts. One step of each is run before,
unmeasured.

Quality: each user's latest fifth of records is held back, the others are trained on. Compared are means over users of
the mean over held-back answer tokens of -log p: top:N minus all layers, paired by user, with a 95% bootstrap interval
over users. Better than all layers is below zero. The margin was set before measuring: no loss is shown if the
interval's upper end is below 0.02.
"""

import argparse
import sys
import time
from dataclasses import replace
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from bases import open_base
from record import save, table
from workload import SETS, open_users

from ownlm.config import TrainConfig
from ownlm.model.adapter import Adapter
from ownlm.model.base import BaseLM
from ownlm.oppu.fleet import Job, Run, train_fleet
from ownlm.perpcs.adapt import answer_loss
from ownlm.presets import small

CHOICES = {"all": None, "top:15": 15, "top:8": 8}
MARGIN, DRAWS = 0.02, 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=SETS, default="huffpost_category")
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--records", type=int, default=32, help="at most so many latest records of each")
    parser.add_argument("--epochs", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quality", action="store_true", help="held-back likelihood instead of speed")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    base, about_base = open_base("smollm2", asked.device)
    jobs, about_users = open_users(asked.set, base, asked.users, asked.records)
    told = {"asked": vars(asked), "base": about_base, "people": about_users, "dtype": str(base.model.dtype)}
    told["threads"] = torch.get_num_threads()
    (quality if asked.quality else speed)(asked, base, list(jobs), told)


def settings(layers: int | None, epochs: int) -> TrainConfig:
    """The preset `small` in the top layers."""
    config = small().adapter
    return config.model_copy(update={"epochs": epochs, "lora": config.lora.model_copy(update={"top_layers": layers})})


def train(base: BaseLM, jobs: list[Job], config: TrainConfig) -> tuple[list[Run], float]:
    """The runs, and their seconds."""
    started = time.perf_counter()
    runs = list(train_fleet(base, jobs, config))
    seconds = time.perf_counter() - started
    assert not any(run.error for run in runs)
    print(f"top {config.lora.top_layers or 'all'}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return runs, seconds


def speed(asked: argparse.Namespace, base: BaseLM, jobs: list[Job], told: dict[str, Any]) -> None:
    """Users/hour of each choice, and its ratio to all layers."""
    for layers in CHOICES.values():
        train(base, [replace(jobs[0], examples=jobs[0].examples[:8])], settings(layers, 2))
    found: dict[str, Any] = {}
    for epochs in asked.epochs:
        seconds = [
            {name: train(base, jobs, settings(layers, epochs))[1] for name, layers in CHOICES.items()}
            for _ in range(asked.rounds)
        ]
        found[str(epochs)] = {
            name: {
                "seconds": [one[name] for one in seconds],
                "users_per_hour": median(3600 * len(jobs) / one[name] for one in seconds),
                "faster_than_all": median(one["all"] / one[name] for one in seconds),
            }
            for name in CHOICES
        }
    rows = [
        (epochs, name, f"{one['users_per_hour']:,.0f}", f"{one['faster_than_all']:.2f}")
        for epochs, own in found.items()
        for name, one in own.items()
    ]
    table(f"{asked.set}, {len(jobs)} users", ["epochs#", "layers", "users/hour#", "times all layers#"], rows)
    save(f"layers_{asked.set}", told | {"epochs": found})


def quality(asked: argparse.Namespace, base: BaseLM, jobs: list[Job], told: dict[str, Any]) -> None:
    """The loss of each choice on held-back records, and its difference from all layers."""
    back = {job.user: job.examples[-max(1, len(job.examples) // 5) :] for job in jobs}
    jobs = [replace(job, examples=job.examples[: -len(back[job.user])]) for job in jobs]
    epochs, loss_U = asked.epochs[-1], {"base": np.array([answer_loss(base, None, back[job.user]) for job in jobs])}
    for name, layers in CHOICES.items():
        adapters: dict[str, Adapter] = {
            run.job.user: run.adapter for run in train(base, jobs, settings(layers, epochs))[0]
        }
        loss_U[name] = np.array([answer_loss(base, adapters[job.user], back[job.user]) for job in jobs])
    draw_DU = np.random.default_rng(0).integers(len(jobs), size=(DRAWS, len(jobs)))
    found = {}
    for name, own_U in loss_U.items():
        difference_U = own_U - loss_U["all"]
        low, high = np.quantile(difference_U[draw_DU].mean(1), [0.025, 0.975])
        found[name] = {"nll": float(mean(own_U)), "minus_all": float(mean(difference_U)), "low": low, "high": high}
        found[name]["no_loss_shown"] = bool(high < MARGIN)
    rows = [
        (name, f"{one['nll']:.4f}", f"{one['minus_all']:+.4f}", f"{one['low']:+.4f} to {one['high']:+.4f}")
        for name, one in found.items()
    ]
    title = f"{asked.set}, {len(jobs)} users, {epochs} epochs: held-back answers"
    table(title, ["layers", "NLL a token#", "minus all layers#", "95% interval"], rows)
    save(f"layers_quality_{asked.set}", told | {"margin": MARGIN, "layers": found})


if __name__ == "__main__":
    main()
