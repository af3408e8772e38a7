"""Differences between a bank of eight users, each user alone, and `peft` with AdamW, in float32 on SmolLM2.

    python benchmarks/equality.py

Twenty steps. Losses are compared step by step, relatively; each matrix's update by |one - other| / |other - start| in
Frobenius norm.
"""

import sys
from pathlib import Path

import torch
from record import save

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ownlm.config import TrainConfig
from ownlm.model.base import load_base
from ownlm.model.bases import smollm2
from ownlm.oppu.fleet import train_fleet
from tests.oppu.test_fleet import PEOPLE, distance, in_bank, make_jobs
from tests.peft_reference import train_with_peft, weights


def main() -> None:
    folder = smollm2.fetch()
    base = load_base(folder, name="smollm2-135m", fingerprint="smollm2")
    config = TrainConfig(learning_rate=3e-4, epochs=2, batch_size=2)
    jobs = make_jobs(base.model.config.vocab_size, examples=19, prompt=6)
    together = in_bank(base, jobs, config, slots=PEOPLE)
    worst = {name: {"loss": 0.0, "update": 0.0} for name in ("alone", "peft")}
    for job in jobs:
        (alone,) = train_fleet(base, [job], config, slots=1)
        losses, start, end = train_with_peft(folder, job, config, torch.float32)
        mine = together[job.user]
        for name, other, after in (("alone", alone.losses, weights(alone.adapter)), ("peft", losses, end)):
            gap = max(abs(a - b) / abs(b) for a, b in zip(mine.losses, other, strict=True))
            worst[name]["loss"] = max(worst[name]["loss"], gap)
            worst[name]["update"] = max(worst[name]["update"], distance(weights(mine.adapter), after, start))
        print(job.user, len(losses), "steps", worst)
    save("equality", {"people": PEOPLE, "steps": len(losses), "worst relative difference": worst})


if __name__ == "__main__":
    main()
