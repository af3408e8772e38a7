"""The peers of the speed benchmark do the same work as ownlm: what is compared there is time alone."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from peers import PEERS, TOGETHER, lora_config
from timing import Clock

from ownlm.config import TrainConfig
from ownlm.model.base import BaseLM, load_base
from ownlm.oppu.fleet import Job, train_fleet
from ownlm.oppu.minibatches import TokenizedExample
from tests.peft_reference import weights

CONFIG = TrainConfig(learning_rate=1e-2, epochs=2, batch_size=4)


def make_jobs(users: int, examples: int) -> list[Job]:
    """Users of unlike lengths; the first has the fewest examples."""
    draw = torch.Generator().manual_seed(0)

    def text(least: int, most: int) -> list[int]:
        count = int(torch.randint(least, most + 1, (), generator=draw))
        return torch.randint(3, 259, (count,), generator=draw).tolist()

    shared = text(10, 10)
    return [
        Job(f"user{n}", [TokenizedExample(shared + text(1, 20), text(1, 5)) for _ in range(examples + n)], seed=0)
        for n in range(users)
    ]


@pytest.fixture
def base(tiny_base: Path) -> BaseLM:
    return load_base(tiny_base, name="tiny", fingerprint="tiny")


def peer_losses(name: str, base: BaseLM, jobs: list[Job], config: TrainConfig, out: Path) -> dict[str, list[float]]:
    base.model.set_attn_implementation("sdpa")
    return {done.user: done.losses for done in PEERS[name](base.model, jobs, config, out, Clock("cpu"))}


@pytest.mark.parametrize("name", PEERS)
def test_first_steps_loss_is_ours(name: str, base: BaseLM, tmp_path: Path) -> None:
    jobs = make_jobs(users=2, examples=3)  # one minibatch each: order and first weights make no difference
    ours = {run.job.user: run.losses for run in train_fleet(base, jobs, CONFIG)}
    theirs = peer_losses(name, base, jobs, CONFIG, tmp_path)
    assert theirs.keys() == ours.keys()
    for user, losses in ours.items():
        assert theirs[user][0] == pytest.approx(losses[0], abs=1e-4)
        assert len(theirs[user]) == len(losses) == CONFIG.epochs
        assert losses[1] < losses[0] and (theirs[user][1] < theirs[user][0] or name == "peft + Trainer")


@pytest.mark.parametrize("name", PEERS)
def test_every_user_takes_as_many_steps_as_with_us(name: str, base: BaseLM, tmp_path: Path) -> None:
    jobs = make_jobs(users=TOGETHER + 2, examples=4)
    ours = {run.job.user: len(run.losses) for run in train_fleet(base, jobs, CONFIG)}
    theirs = peer_losses(name, base, jobs, CONFIG, tmp_path)
    assert {user: len(losses) for user, losses in theirs.items()} == ours
    for user in ours:
        (file,) = (tmp_path / user).rglob("adapter_model.safetensors")
        assert all(tensor.isfinite().all() for tensor in load_file(file).values())


def test_mixed_batches_train_what_we_train(base: BaseLM, tmp_path: Path) -> None:
    """Same first weights, same minibatches: same losses and weights, with more users than seats."""
    jobs = make_jobs(users=TOGETHER + 2, examples=4)
    runs = {run.job.user: run for run in train_fleet(base, jobs, CONFIG)}
    for user, losses in peer_losses("peft, mixed batches", base, jobs, CONFIG, tmp_path).items():
        assert losses == pytest.approx(runs[user].losses, abs=1e-4)
        (file,) = (tmp_path / user).rglob("adapter_model.safetensors")
        saved = load_file(file)
        for name, tensor in weights(runs[user].adapter).items():
            torch.testing.assert_close(saved[name.replace(".default", "")], tensor, atol=1e-4, rtol=1e-3)


def test_peft_refuses_mixed_batches_in_training_mode(base: BaseLM) -> None:
    from peft import get_peft_model

    model = get_peft_model(base.model, lora_config(CONFIG)).train()
    with pytest.raises(ValueError, match="Cannot pass `adapter_names` when the model is in training mode"):
        model(input_ids=torch.tensor([[5, 6]]), adapter_names=["default"])
