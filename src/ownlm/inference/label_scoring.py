"""Choosing among labels by their likelihood, for many people at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ownlm.inference.prompt_row import Prompt, add_prompts, in_passes
from ownlm.model.bank import LoraBank
from ownlm.model.banks import Banks
from ownlm.model.base import BaseLM
from ownlm.model.packed import BatchBuilder


@dataclass(frozen=True, slots=True)
class Choice:
    """The most likely label, and log p(label | prompt) of each."""

    label: str
    log_probabilities: dict[str, float]


def label_log_likelihood(logits_PV: Tensor, target_P: Tensor, label_P: Tensor, labels: int) -> Tensor:
    """log p of each label's tokens, end of text included.

        log p(label) = sum over its tokens t of  log softmax(logits_t)[token_t]

    Args:
        logits_PV: what the model says at each predicting position.
        target_P: the label's token there.
        label_P: which label the position belongs to.
        labels: L, the number of labels.

    Returns:
        log_p_L.

    Source: ours. Differs: OPPU generates and searches the text for a label.
    """
    wide_PV = logits_PV.to(torch.promote_types(logits_PV.dtype, torch.float32))
    log_p_P = wide_PV.gather(1, target_P[:, None])[:, 0] - wide_PV.logsumexp(dim=1)
    return torch.zeros(labels, dtype=log_p_P.dtype, device=log_p_P.device).index_add_(0, label_P, log_p_P)


def answer_tokens(base: BaseLM, labels: Sequence[str], max_new_tokens: int) -> int:
    """How many tokens of the context an answer needs after its prompt.

    Args:
        labels: of a task, where one of them is chosen: the longest one counts.
        max_new_tokens: of an answer that is generated.
    """
    return max((len(base.encode_answer(f" {label}")) for label in labels), default=max_new_tokens)


@torch.inference_mode()
def choose(
    base: BaseLM,
    bank: LoraBank | Banks | None,
    prompts: Sequence[Prompt],
    labels: Sequence[str],
    *,
    tokens_per_pass: int = 4096,
    on_done: Callable[[int], None] | None = None,
) -> list[Choice]:
    """The likeliest label for each prompt; the prompt is computed once, whatever the number of labels.

    Args:
        bank: an attached bank that holds the slots the prompts name; None for the base alone.
        labels: answer texts as the prompts would be continued; their likelihoods are compared whole, not per token.
        tokens_per_pass: how many tokens go through the model together.
        on_done: called with the number of prompts answered since the last call.

    Returns:
        One choice a prompt, in the prompts' order.
    """
    encoded = [base.encode_answer(label) for label in labels]
    choices: list[Choice | None] = [None] * len(prompts)
    for indices in in_passes(prompts, sum(map(len, encoded)), tokens_per_pass):
        together = [prompts[index] for index in indices]
        for index, log_p in zip(indices, _choose_pass(base, bank, together, encoded), strict=True):
            best = max(range(len(labels)), key=log_p.__getitem__)
            choices[index] = Choice(
                labels[best].strip(), {name.strip(): p for name, p in zip(labels, log_p, strict=True)}
            )
        if on_done:
            on_done(len(indices))
    return [choice for choice in choices if choice is not None]


def _choose_pass(
    base: BaseLM, bank: LoraBank | Banks | None, prompts: list[Prompt], encoded: list[list[int]]
) -> list[list[float]]:
    row, owners = BatchBuilder(), list[int]()
    for number, (prompt, chain) in enumerate(add_prompts(row, prompts)):
        for place, tokens in enumerate(encoded):
            whole = row.add(prompt.slot, tokens[:-1], after=chain)
            row.predict(prompt.slot, whole[len(chain) - 1 :], tokens)
            owners += [number * len(encoded) + place] * len(tokens)
    batch = row.pack(base.device)
    log_p = label_log_likelihood(
        base.logits(batch, bank),
        batch.target_P,
        torch.from_numpy(np.array(owners)).to(base.device),
        len(prompts) * len(encoded),
    )
    table: list[list[float]] = log_p.view(len(prompts), len(encoded)).tolist()
    return table
