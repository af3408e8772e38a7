"""OPPU and Per-Pcs in one file: train eight users, pool their pieces, assemble an adapter for a newcomer, answer.

    python examples/minimal_loop.py                        seconds, on a random base: shows the steps, learns little
    python examples/minimal_loop.py --base smollm2-135m    minutes

Plain torch, one user at a time. `train_fleet` gives the same weights. Left out: OPPU's stage 1, retrieval, storage.
Shapes: B batch, T tokens, D module input, O module output, R rank, N sharers, K selected, V vocabulary.
"""

import tempfile
from contextlib import contextmanager
from pathlib import Path

import torch
import typer
from community import FOLDERS, make_community
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from ownlm.model.bases.random_base import make_random_base
from ownlm.model.bases.source import resolve_source
from ownlm.model.lora import lora_update
from ownlm.oppu.optim import linear_schedule
from ownlm.perpcs.equations import gated, history_feature, product, scores, select

TARGETS, RANK, SCALING = ("q_proj", "k_proj", "v_proj", "o_proj"), 8, 1.0  # of LoRA; SCALING is alpha / r
BATCH, EPOCHS, LR, MAX_NORM, WARMUP = 4, 2, 2e-3, 0.3, 0.1  # of training: OPPU's, but for a higher rate
TOP_K, TAU = 3, 1.0  # of assembly
PROMPT = f"File the message into one of these folders: {', '.join(FOLDERS)}.\n\nmessage: {{text}}\nfolder:"

Adapter = dict[str, tuple[Tensor, Tensor]]  # by module: A_RD and B_OR


@contextmanager
def adapted(model, update):
    """y = W x + update(module's name, x) in each target module; W is frozen."""
    modules = [(name, module) for name, module in model.named_modules() if name.endswith(TARGETS)]
    hooks = [m.register_forward_hook(lambda _, args, y, name=name: y + update(name, args[0])) for name, m in modules]
    yield
    for hook in hooks:
        hook.remove()


def to_batch(examples: list) -> tuple[Tensor, Tensor]:
    """Pairs (prompt, answer) of token ids as ids_BT, padded, and target_BT: the next token of an answer, else -100."""
    width = max(len(prompt + answer) for prompt, answer in examples)
    ids = [(prompt + answer + width * [0])[:width] for prompt, answer in examples]
    target = [((len(prompt) - 1) * [-100] + answer + width * [-100])[:width] for prompt, answer in examples]
    return torch.tensor(ids), torch.tensor(target)


def train(model, examples, trained, update, draw, weight_decay) -> list[float]:
    """OPPU, section 3.2: minimise -log p(answer | prompt) over one user's history. Returns the loss of each step."""
    optimizer, losses = torch.optim.AdamW(trained, weight_decay=weight_decay), []
    orders = [torch.randperm(len(examples), generator=draw).tolist() for _ in range(EPOCHS)]
    batches = [order[at : at + BATCH] for order in orders for at in range(0, len(order), BATCH)]
    for step, batch in enumerate(batches):
        ids_BT, target_BT = to_batch([examples[place] for place in batch])
        with adapted(model, update):
            logits_BTV = model(ids_BT).logits
        loss = nn.functional.cross_entropy(logits_BTV.flatten(0, 1), target_BT.flatten())  # mean over answer tokens
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, MAX_NORM)
        optimizer.param_groups[0]["lr"] = LR * linear_schedule(step, len(batches), WARMUP)
        optimizer.step()
        losses.append(loss.item())
    return losses


def train_adapter(model, examples: list, draw: torch.Generator) -> tuple[Adapter, list[float]]:
    """OPPU: dy = (alpha / r) B A x, with A and B of one user. A starts uniform within 1 / sqrt(D), B at zero."""
    adapter: Adapter = {}
    for name, module in model.named_modules():
        if name.endswith(TARGETS):
            out, width = module.weight.shape
            A_RD = module.weight.new_empty(RANK, width).uniform_(-(width**-0.5), width**-0.5, generator=draw)
            adapter[name] = A_RD.requires_grad_(), module.weight.new_zeros(out, RANK).requires_grad_()
    trained = [matrix for pair in adapter.values() for matrix in pair]
    losses = train(model, examples, trained, lambda name, x: lora_update(x, *adapter[name], SCALING), draw, 0.01)
    return {name: (A_RD.detach(), B_OR.detach()) for name, (A_RD, B_OR) in adapter.items()}, losses


def train_gates(model, examples: list, adapter: Adapter, draw: torch.Generator) -> dict[str, Tensor]:
    """Per-Pcs, section 3.1: dy = (alpha / r) B A (sigmoid(g . x) x). Only the gates g_D train, from zero."""
    gates = {name: torch.zeros_like(A_RD[0], requires_grad=True) for name, (A_RD, _) in adapter.items()}
    gate = lambda name, x_BTD: gated(x_BTD.flatten(0, 1), gates[name]).view_as(x_BTD)  # noqa: E731
    update = lambda name, x_BTD: lora_update(gate(name, x_BTD), *adapter[name], SCALING)  # noqa: E731
    train(model, examples, list(gates.values()), update, draw, weight_decay=0.0)
    return {name: gate_D.detach() for name, gate_D in gates.items()}


@torch.no_grad()
def assemble(model, examples: list, pool: dict[str, tuple[Tensor, Tensor, Tensor]]):
    """Per-Pcs, section 3.2: one pass over a newcomer's history. A module's pieces are in place before the next module
    sees its input. `pool` is A_NRD, B_NOR, gate_ND by module; returns the recipe and the adapter that it makes."""
    ids_BT, target_BT = to_batch(examples)
    asked_BT, recipe, adapter = target_BT >= 0, {}, {}
    share_BT = asked_BT / (len(examples) * asked_BT.sum(1, keepdim=True))  # mean over records of means over positions

    def update(name: str, x_BTD: Tensor) -> Tensor:
        A_NRD, B_NOR, gate_ND = pool[name]
        h_D = history_feature(x_BTD[asked_BT], share_BT[asked_BT])  # h = sum of a_t LN(x_t)
        score_1N = scores(h_D[None], gate_ND)  # s_n = h . LN(g_n) / sqrt(D)
        (place_K,), (weight_K,) = select(score_1N, TOP_K, TAU)  # top k; w = softmax(s / tau)
        recipe[name] = place_K, weight_K
        adapter[name] = product(weight_K.to(x_BTD), A_NRD[place_K], B_NOR[place_K])  # sum of w_k B_k A_k, rank K R
        return lora_update(x_BTD, *adapter[name], SCALING)

    with adapted(model, update):
        model(ids_BT)
    return recipe, adapter


@torch.no_grad()
def answer(model, prompt: list[int], labels: dict[str, list[int]], adapter: Adapter) -> str:
    """The label of the largest log p(label | prompt), a sum over the label's tokens."""
    ids_BT, target_BT = to_batch([(prompt, tokens) for tokens in labels.values()])
    with adapted(model, lambda name, x: lora_update(x, *adapter[name], SCALING)):
        nll_BT = nn.functional.cross_entropy(model(ids_BT).logits.transpose(1, 2), target_BT, reduction="none")
    return list(labels)[int(nll_BT.sum(1).argmin())]


def main(base: str = "random") -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_random_base(Path(scratch)) if base == "random" else resolve_source(base)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).requires_grad_(False)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt_of = lambda row: tokenizer(PROMPT.format(text=row["text"])).input_ids  # noqa: E731
    labels = {name: [*tokenizer(f" {name}").input_ids, tokenizer.eos_token_id] for name in FOLDERS}
    people = make_community(9, records=20, queries=4)
    histories = [[(prompt_of(row), labels[row["folder"]]) for row in person.records] for person in people]
    adapters, pieces = [], []  # of sharers
    for number, examples in enumerate(histories[:8]):
        adapter, losses = train_adapter(model, examples, torch.Generator().manual_seed(number))
        gates = train_gates(model, examples, adapter, torch.Generator().manual_seed(number))
        adapters.append(adapter)
        pieces.append({name: (*adapter[name], gates[name]) for name in gates})
        print(f"{people[number].name}: {len(losses)} steps, loss {losses[0]:.2f} -> {losses[-1]:.2f}")
    pool = {name: [torch.stack(part) for part in zip(*(own[name] for own in pieces), strict=True)] for name in gates}
    recipe, assembled = assemble(model, histories[8], pool)
    for name, (place_K, weight_K) in recipe.items():
        print(name, *(f"{people[n].name} {weight:.2f}" for n, weight in zip(place_K, weight_K, strict=True)))
    for user, adapter in zip(people, [*adapters, assembled], strict=True):
        right = sum(answer(model, prompt_of(row), labels, adapter) == row["gold"] for row in user.queries)
        print(f"{user.name}: {right} of {len(user.queries)} held-out messages filed as {user.name} would")


if __name__ == "__main__":
    typer.run(main)
