"""(IA)3 and prompt tuning: the fleet's steps on peft's adapters, and a base that stays as it is."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from peft import IA3Config, PromptTuningConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load
from transformers import AutoModelForCausalLM, Olmo2Config, Olmo2ForCausalLM, Phi3Config, Phi3ForCausalLM

from ownlm.config import TrainConfig
from ownlm.errors import BaseModelError, TrainingError
from ownlm.model.base import BaseLM, load_base
from ownlm.model.peft_adapter import PeftAdapter, fresh_adapter
from ownlm.oppu.fleet import Job, Run, job_seed
from ownlm.oppu.minibatches import TokenizedExample, minibatches
from ownlm.oppu.optim import linear_schedule
from ownlm.oppu.peft_methods import train_with_peft
from tests.model.bases_table import TABLE
from tests.model.small_bases import write_base
from tests.oppu.test_fleet import make_jobs
from tests.peft_reference import padded

CONFIGS = {
    "ia3": TrainConfig(method="ia3", learning_rate=3e-2, epochs=4, batch_size=4),
    "prompt": TrainConfig(method="prompt", virtual_tokens=5, learning_rate=3e-2, epochs=4, batch_size=4),
}
methods = pytest.mark.parametrize("method", CONFIGS)


def jobs(people: int = 3) -> list[Job]:
    return make_jobs(90, examples=9, prompt=12)[:people]


def by_hand(
    folder: Path, job: Job, config: TrainConfig, **modules: list[str]
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and final weights of the same training in plain peft and torch: padded batches, stock attention."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    seed = job_seed(job.seed, job.user)
    batches = minibatches(len(job.examples), config, torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)
    if config.method == "ia3":
        peft, virtual = get_peft_model(model, IA3Config(task_type="CAUSAL_LM", **modules)), 0
    else:
        virtual = config.virtual_tokens
        prompt = PromptTuningConfig("CAUSAL_LM", num_virtual_tokens=virtual, prompt_tuning_init="SAMPLE_VOCAB")
        peft = get_peft_model(model, prompt)
    trained = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=config.weight_decay)
    losses = []
    for step, batch in enumerate(batches):
        input_ids, attention_mask, labels = padded([job.examples[index] for index in batch])
        logits = peft(input_ids=input_ids, attention_mask=attention_mask).logits[:, virtual:]
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
        optimizer.param_groups[0]["lr"] = config.learning_rate * linear_schedule(step, len(batches), 0.1)
        optimizer.step()
        losses.append(loss.item())
    return losses, get_peft_model_state_dict(peft, save_embedding_layers=False)


@methods
@pytest.mark.parametrize("tokens_per_pass", [40, 2048])
def test_training_equals_plain_peft_and_torch(tiny_base: Path, method: str, tokens_per_pass: int) -> None:
    double = load_base(tiny_base, name="tiny", fingerprint="tiny", dtype=torch.float64)
    (job,) = jobs(1)
    seen: list[int] = []
    (run,) = train_with_peft(
        double,
        [job],
        CONFIGS[method],
        tokens_per_step=tokens_per_pass,
        on_step=lambda runs, tokens: seen.append(tokens),
    )
    losses, weights = by_hand(tiny_base, job, CONFIGS[method])
    assert run.losses == pytest.approx(losses, rel=1e-6)
    assert len(losses) == 12 and min(losses[6:]) < losses[0]
    mine = run.adapter.tensors()
    assert mine.keys() == weights.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(mine[name], tensor.to(mine[name].dtype), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(mine[name], torch.ones_like(mine[name]), atol=1e-3)
    assert run.job is job and run.tokens == sum(seen) and len(seen) == 12 and run.seconds > 0


@methods
def test_training_a_model_of_pictures_equals_plain_peft(tiny_base: Path, tmp_path: Path, method: str) -> None:
    tried = next(one for one in TABLE if one.name == "Gemma 3, with pictures")
    folder = write_base(tmp_path / "base", tiny_base, tried.kind, tried.architecture, **tried.changes)
    base = load_base(folder, name="base", fingerprint="base", dtype=torch.float64)
    (job,), config = jobs(1), CONFIGS[method].model_copy(update={"epochs": 1})
    (run,) = train_with_peft(base, [job], config)
    modules = {key: run.adapter.config[key] for key in ("target_modules", "feedforward_modules") if method == "ia3"}
    losses, weights = by_hand(folder, job, config, **modules)
    assert run.losses == pytest.approx(losses, rel=1e-5)
    mine = run.adapter.tensors()
    assert mine.keys() == weights.keys() and not any("vision" in name for name in mine)
    for name, tensor in weights.items():
        torch.testing.assert_close(mine[name], tensor.to(mine[name].dtype), atol=1e-4, rtol=1e-4)


def test_virtual_tokens_have_no_embeddings_for_each_layer(tiny_base: Path, tmp_path: Path) -> None:
    tried = next(one for one in TABLE if one.name == "Gemma 4")
    base = load_base(write_base(tmp_path / "base", tiny_base, tried.kind, **tried.changes), name="b", fingerprint="b")
    with (
        pytest.raises(BaseModelError, match=r"Prompt tuning cannot be used.*for each layer"),
        fresh_adapter(base.model, CONFIGS["prompt"], 0),
    ):
        pass
    with fresh_adapter(base.model, CONFIGS["ia3"], 0) as attached:
        assert attached.tensors()


def state(base: BaseLM) -> dict[str, object]:
    """Everything about the model that training could have changed; weights as copies."""
    model = base.model
    return {
        "weights": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "modules": [(name, id(module), dict(vars(module)).keys()) for name, module in model.named_modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "grads": [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()],
        "config": dict(vars(model.config)),
        "training": model.training,
        "random": torch.get_rng_state(),
    }


def differences(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """What is no longer as it was, bit for bit."""
    differ = [key for key in before if key not in ("weights", "random") and before[key] != after[key]]
    old, new = before["weights"], after["weights"]
    if old.keys() != new.keys() or not all(torch.equal(old[name], new[name]) for name in old):
        differ.append("weights")
    return differ + ([] if torch.equal(before["random"], after["random"]) else ["random"])


@methods
def test_nothing_is_left_on_the_base(base: BaseLM, method: str) -> None:
    before = state(base)
    running = train_with_peft(base, jobs(), CONFIGS[method])
    next(running)
    assert differences(before, state(base)) == []  # between two people
    running.close()
    assert differences(before, state(base)) == []

    def stop(runs: list[Run], tokens: int) -> None:
        assert "modules" in differences(before, state(base))  # else this test would see nothing
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(train_with_peft(base, jobs(), CONFIGS[method], on_step=stop))
    assert differences(before, state(base)) == []


@methods
def test_company_order_and_chance_do_not_matter(base: BaseLM, method: str) -> None:
    people = jobs()
    together = {run.job.user: run for run in train_with_peft(base, people, CONFIGS[method])}
    torch.manual_seed(12345)
    backwards = {run.job.user: run for run in train_with_peft(base, people[::-1], CONFIGS[method])}
    for job in people:
        (alone,) = train_with_peft(base, [job], CONFIGS[method])
        assert alone.losses == together[job.user].losses == backwards[job.user].losses
        assert alone.adapter == together[job.user].adapter == backwards[job.user].adapter
    assert len({run.adapter.weights for run in together.values()}) == 3
    (other,) = train_with_peft(base, [Job(people[0].user, people[0].examples, seed=8)], CONFIGS[method])
    assert other.adapter.weights != together[people[0].user].adapter.weights


@methods
def test_a_loss_that_is_no_number_fails_its_person_alone(tiny_base: Path, method: str) -> None:
    base = load_base(tiny_base, name="tiny", fingerprint="tiny")
    base.model.lm_head.weight = torch.nn.Parameter(base.model.lm_head.weight.detach().clone(), requires_grad=False)
    people = jobs()
    clean = [run.adapter for run in train_with_peft(base, [people[0], people[2]], CONFIGS[method])]
    with torch.no_grad():
        base.model.get_input_embeddings().weight[200] = float("nan")  # its embedding alone, not the tied head's row
    bad = Job("bad", [TokenizedExample([5, 200, 6], [7, 2])], seed=7)
    one, failed, other = train_with_peft(base, [people[0], bad, people[2]], CONFIGS[method])
    assert isinstance(failed.error, TrainingError) and failed.adapter is None and failed.losses == []
    assert "'bad'" in str(failed.error) and [one.adapter, other.adapter] == clean


def test_virtual_tokens_need_room(base: BaseLM) -> None:
    full = Job("full", [TokenizedExample([5] * (base.max_tokens - 2), [7, 2])], seed=7)
    failed, after = train_with_peft(base, [full, *jobs(1)], CONFIGS["prompt"])
    assert isinstance(failed.error, TrainingError) and "virtual tokens" in str(failed.error)
    assert after.adapter is not None


def test_ia3_finds_modules_where_peft_knows_none() -> None:
    shape = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1,
             "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0}  # fmt: skip
    with fresh_adapter(Olmo2ForCausalLM(Olmo2Config(**shape)), CONFIGS["ia3"], 0) as attached:
        adapter = attached.read()
    assert sorted(adapter.config["target_modules"]) == ["down_proj", "k_proj", "v_proj"]
    assert sorted(tensor.numel() for tensor in adapter.tensors().values()) == [8, 8, 12]  # the input of the last
    with (
        pytest.raises(BaseModelError, match="no modules to scale"),
        fresh_adapter(Phi3ForCausalLM(Phi3Config(**shape)), CONFIGS["ia3"], 0),
    ):
        pass


def test_an_adapter_is_what_peft_keeps(base: BaseLM) -> None:
    for method, names in (("ia3", 6), ("prompt", 1)):
        (run,) = train_with_peft(base, jobs(1), CONFIGS[method])
        adapter = run.adapter
        assert isinstance(adapter, PeftAdapter) and len(load(adapter.to_bytes())) == names
        assert adapter.shape()["base_model_name_or_path"] is None and adapter.shape()["inference_mode"]
        assert str(base.folder) not in str(adapter.shape())
