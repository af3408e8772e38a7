"""The same training in plain `peft` and `torch.optim.AdamW`: one person, padded batches, stock attention."""

from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from ownlm.config import TrainConfig
from ownlm.model.bank import LoraBank
from ownlm.model.layers import probe
from ownlm.model.peft_names import peft_targets
from ownlm.model.targets import target_modules
from ownlm.oppu.fleet import Job, job_seed
from ownlm.oppu.minibatches import TokenizedExample, minibatches
from ownlm.oppu.optim import linear_schedule


def start_of(job: Job, model: torch.nn.Module, config: TrainConfig) -> tuple[dict[str, Tensor], list[list[int]]]:
    """The weights a job begins with, by PEFT's names, and its minibatches."""
    bank = LoraBank(model, config.lora, 1)
    generator = torch.Generator().manual_seed(job_seed(job.seed, job.user))
    bank.initialise(0, generator)
    return weights(bank.read(0)), minibatches(len(job.examples), config, generator)


def weights(adapter) -> dict[str, Tensor]:
    """An adapter's tensors under PEFT's names."""
    named = {}
    for name, pair in adapter.pairs.items():
        named[f"base_model.model.{name}.lora_A.default.weight"] = pair.A_RD
        named[f"base_model.model.{name}.lora_B.default.weight"] = pair.B_OR
    return named


def train_with_peft(
    folder: Path, job: Job, config: TrainConfig, dtype: torch.dtype
) -> tuple[list[float], dict[str, Tensor], dict[str, Tensor]]:
    """Losses step by step, the weights before, and the weights after."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    probe(model, "reference")  # which of its modules run on text
    begin, batches = start_of(job, model, config)
    lora = config.lora
    targets = peft_targets(model, [name for name, _ in target_modules(model, lora)])
    layers = None
    if lora.top_layers is not None:
        count = model.config.num_hidden_layers
        targets, layers = list(lora.target_modules), list(range(count - lora.top_layers, count))
    invocation = lora.alora_invocation_tokens and list(lora.alora_invocation_tokens)
    made = PeftLoraConfig(
        r=lora.r, lora_alpha=lora.lora_alpha, target_modules=targets, layers_to_transform=layers,
        alora_invocation_tokens=invocation, task_type="CAUSAL_LM" if invocation else None,
    )  # fmt: skip
    peft = get_peft_model(model, made)
    trainable = {name: parameter for name, parameter in peft.named_parameters() if parameter.requires_grad}
    assert trainable.keys() == begin.keys()
    with torch.no_grad():
        for name, parameter in trainable.items():
            assert parameter.dtype == dtype
            parameter.copy_(begin[name])
    optimizer = torch.optim.AdamW(trainable.values(), lr=config.learning_rate, weight_decay=config.weight_decay)
    losses = []
    for step, batch in enumerate(batches):
        input_ids, attention_mask, labels = padded([job.examples[index] for index in batch])
        logits = peft(input_ids=input_ids, attention_mask=attention_mask).logits  # transformers' own loss is float32
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable.values(), config.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * linear_schedule(step, len(batches), config.warmup_ratio)
        optimizer.step()
        losses.append(loss.item())
    return losses, begin, {name: parameter.detach() for name, parameter in trainable.items()}


def padded(examples: list[TokenizedExample]) -> tuple[Tensor, Tensor, Tensor]:
    """Right-padded input ids, their mask, and labels on the answers alone."""
    width = max(len(one.prompt) + len(one.answer) for one in examples)
    ids, mask, labels = [], [], []
    for one in examples:
        pad = width - len(one.prompt) - len(one.answer)
        ids.append(one.prompt + one.answer + [0] * pad)
        mask.append([1] * (width - pad) + [0] * pad)
        labels.append([-100] * len(one.prompt) + one.answer + [-100] * pad)
    return torch.tensor(ids), torch.tensor(mask), torch.tensor(labels)
