"""examples/minimal_loop.py runs, and equals the package in float64.

Losses, adapters and gates equal `train_fleet`'s within 1e-9. Recipes equal `ownlm.perpcs.assemble`'s: the same pieces,
and weights within 1e-6, since a pool is stored in float32 and recipes are rounded.
"""

import random
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ownlm.config import LoraConfig, TrainConfig
from ownlm.model.adapter import Adapter, LoraPair
from ownlm.model.base import load_base
from ownlm.model.lora import lora_merge
from ownlm.oppu.fleet import Job, job_seed, train_fleet
from ownlm.oppu.minibatches import TokenizedExample
from ownlm.perpcs.assemble import Target, assemble
from ownlm.perpcs.materialise import materialise
from ownlm.perpcs.piece import Piece
from tests.oppu.test_fleet import norms_in_double  # noqa: F401
from tests.perpcs.assembling import pool_for, sharers_of

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))  # the examples are scripts beside each other, not a package

import minimal_loop as loop  # noqa: E402

LORA = LoraConfig(r=loop.RANK, lora_alpha=loop.SCALING * loop.RANK, target_modules=loop.TARGETS)
CONFIG = TrainConfig(
    lora=LORA, learning_rate=loop.LR, epochs=loop.EPOCHS, batch_size=loop.BATCH, max_grad_norm=loop.MAX_NORM,
    warmup_ratio=loop.WARMUP, weight_decay=0.01,
)  # fmt: skip
SEED = 7


def examples_of(rng: random.Random, count: int) -> list[tuple[list[int], list[int]]]:
    """Prompts with the same beginning, and answers, as token ids."""
    ids = lambda low, high: [rng.randrange(3, 90) for _ in range(rng.randint(low, high))]  # noqa: E731
    return [([5, 17, 29, *ids(1, 12)], [*ids(1, 4), 2]) for _ in range(count)]


def draw(user: str) -> torch.Generator:
    return torch.Generator().manual_seed(job_seed(SEED, user))


def test_adapters_gates_recipes_and_answers_equal_those_of_the_package(tiny_base: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float64).requires_grad_(False)
    base = load_base(tiny_base, name="tiny", fingerprint="tiny", dtype=torch.float64)
    rng = random.Random(0)
    histories = {f"user {n}": examples_of(rng, 9 + n % 3) for n in range(8)}
    tokenized = {user: [TokenizedExample(*one) for one in own] for user, own in histories.items()}
    adapters, gates = {}, {}

    jobs = [Job(user, own, SEED) for user, own in tokenized.items()]
    for run in train_fleet(base, jobs, CONFIG):
        user = run.job.user
        adapters[user], losses = loop.train_adapter(model, histories[user], draw(user))
        assert run.losses == pytest.approx(losses, rel=1e-9)
        assert run.adapter.pairs.keys() == adapters[user].keys()
        for name, pair in run.adapter.pairs.items():
            torch.testing.assert_close((pair.A_RD, pair.B_OR), adapters[user][name], atol=1e-9, rtol=1e-9)

    frozen = {u: Adapter(LORA, {n: LoraPair(*pair) for n, pair in own.items()}) for u, own in adapters.items()}
    jobs = [Job(user, own, SEED, frozen=frozen[user]) for user, own in tokenized.items()]
    config = CONFIG.model_copy(update={"weight_decay": 0})
    for run in train_fleet(base, jobs, config, scaled="gates", frozen=LORA):
        user = run.job.user
        gates[user] = loop.train_gates(model, histories[user], adapters[user], draw(user))
        for name, gate_D in run.scales.items():
            torch.testing.assert_close(gate_D, gates[user][name], atol=1e-9, rtol=1e-9)

    users, newcomer = list(histories), examples_of(rng, 7)
    pieces = {name: [(*adapters[user][name], gates[user][name]) for user in users] for name in gates["user 0"]}
    stacked = {
        name: [torch.stack(part).float().double() for part in zip(*own, strict=True)] for name, own in pieces.items()
    }
    recipe, adapter = loop.assemble(model, newcomer, stacked)
    given = {
        name: {
            sharer: Piece(*(part.float() for part in piece)) for sharer, piece in zip(sharers_of(8), own, strict=True)
        }
        for name, own in pieces.items()
    }
    pool = pool_for(base, tmp_path / "pool", given, LORA)  # pieces are stored in float32, weights rounded
    target = Target("newcomer", [TokenizedExample(*one) for one in newcomer])
    (made,) = assemble(base, pool, [target], top_k=loop.TOP_K, tau=loop.TAU)
    assembled = materialise(made.recipe, pool)
    for place, name in enumerate(pool.modules):
        place_K, weight_K = recipe[name]
        assert place_K.tolist() == made.recipe.place_MK[place].tolist()
        assert weight_K.tolist() == pytest.approx(made.recipe.weight_MK[place].tolist(), abs=1e-6)
        pair = assembled.pairs[name]
        torch.testing.assert_close((pair.A_RD, pair.B_OR), adapter[name], atol=1e-6, rtol=1e-6, check_dtype=False)

    labels, prompt = {"a": [40, 2], "b": [41, 50, 2], "c": [42, 51, 60, 2]}, newcomer[0][0]
    answer = loop.answer(model, prompt, labels, adapter)
    for name, (A_HD, B_OH) in adapter.items():
        module = model.get_submodule(name)
        module.weight.copy_(lora_merge(module.weight, A_HD, B_OH, loop.SCALING))
    log_p = {}
    for label, tokens in labels.items():
        log_p_TV = model(torch.tensor([prompt + tokens])).logits[0].log_softmax(dim=1)
        log_p[label] = sum(float(log_p_TV[len(prompt) - 1 + t, token]) for t, token in enumerate(tokens))
    assert answer == max(log_p, key=log_p.__getitem__)


def test_it_runs_from_start_to_end(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "EPOCHS", 1)
    loop.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 + 2 * len(loop.TARGETS) + 9  # users trained, modules chosen, users asked
    assert lines[0].startswith("ada: 5 steps, loss ") and lines[-1].startswith("iris: ")


def test_it_is_short() -> None:
    assert len((EXAMPLES / "minimal_loop.py").read_text("utf8").splitlines()) <= 150
