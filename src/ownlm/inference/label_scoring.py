"""Labels scored by their likelihood as the answer to a prompt, for many users in one pass."""

from collections.abc import Iterable
from itertools import groupby

import torch
from torch import Tensor

from ownlm.inference.sequence import Sequence
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.model.packed import BatchBuilder, common_prefix
from ownlm.model.piece_bank import Banks
from ownlm.model.segments import BASE, to_device


def encode_labels(base: BaseLM, labels: Iterable[str]) -> list[list[int]]:
    """Returns the token ids of labels as answers, the end-of-text token included."""
    return [base.encode_answer(f" {label}") for label in labels]


def answer_tokens(base: BaseLM, labels: Iterable[str], max_new_tokens: int) -> int:
    """Returns how many tokens of the context must be left for the answer.

    Args:
        labels: Labels to choose among, of which the longest counts; empty for generation.
        max_new_tokens: Largest number of generated tokens.
    """
    return max(map(len, encode_labels(base, labels)), default=max_new_tokens)


def label_log_likelihood(logits_PV: Tensor, target_P: Tensor, label_P: Tensor, labels: int) -> Tensor:
    """Sums the log-probabilities of each label's tokens, end of text included.

        log p(label) = sum over its tokens t of  log softmax(logits_t)[token_t]

    Args:
        logits_PV: Logits at each predicting position.
        target_P: Token of the label at that position.
        label_P: Index of the label that the position belongs to.
        labels: Number of labels, L.

    Returns:
        log_p_L.

    Source: ours. Differs: OPPU generates and searches the text for a label.
    """
    wide_PV = logits_PV.to(torch.promote_types(logits_PV.dtype, torch.float32))
    log_p_P = wide_PV.gather(1, target_P[:, None])[:, 0] - wide_PV.logsumexp(dim=1)
    return torch.zeros(labels, dtype=log_p_P.dtype, device=log_p_P.device).index_add_(0, label_P, log_p_P)


@torch.inference_mode()
def score_labels(
    base: BaseLM, banks: LoraBank | Banks | None, sequences: list[Sequence], labels: list[list[int]]
) -> list[list[float]]:
    """Returns log p(label | prompt) of each label for each sequence, computed in one pass.

    A prompt is computed once for all labels, the common beginning of one adapter's prompts once for all of them, and an
    instruction on which activated adapters do not act once for all users.

    Args:
        banks: Attached banks with the slots that sequences name; None for the base alone.
        labels: Token ids of the labels, from `encode_labels`. Likelihoods are of whole labels, not per token.
    """
    row, label_P = BatchBuilder(), list[int]()

    def group(place: int) -> tuple[int, list[int]]:
        return sequences[place].slot, sequences[place].prompt[: sequences[place].unadapted]

    order = sorted(range(len(sequences)), key=group)
    before = {tokens: row.add(BASE, tokens) for tokens in dict.fromkeys(tuple(group(place)[1]) for place in order)}
    for (slot, unadapted), places in groupby(order, key=group):
        prompts = {place: sequences[place].prompt for place in places}
        shared = min(common_prefix(list(prompts.values())), min(map(len, prompts.values())) - 1)
        prefix = row.add(slot, next(iter(prompts.values()))[len(unadapted) : shared], after=before[tuple(unadapted)])
        for place, prompt in prompts.items():
            chain = row.add(slot, prompt[shared:], after=prefix)
            for number, tokens in enumerate(labels):
                whole = row.add(slot, tokens[:-1], after=chain)
                row.predict(slot, whole[len(chain) - 1 :], tokens)
                label_P += [place * len(labels) + number] * len(tokens)
    batch = row.pack(base.device)
    index_P = to_device((torch.tensor(label_P),), base.device)[0]
    logits_PV = base.logits(batch, banks)
    log_p = label_log_likelihood(logits_PV, batch.target_P, index_P, len(sequences) * len(labels))
    scores: list[list[float]] = log_p.view(len(sequences), len(labels)).tolist()
    return scores
