"""Features of histories at the modules of the base alone, without an adapter."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ownlm.config import LoraConfig
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.model.forward_context import ForwardContext
from ownlm.oppu.malloc import keeping_freed_memory
from ownlm.perpcs.assemble import TOKENS_PER_PASS, Target, features_of, rows_of


@torch.inference_mode()
def mean_features(base: BaseLM, lora: LoraConfig, users: Sequence[Target]) -> dict[str, Tensor]:
    """The mean over users of `history_feature`, by module: m_D, float64 on the CPU.

    Args:
        lora: target modules at which features are measured; its rank is ignored.
        users: users to average over; each history goes through the model once.

    Source: ours; for `centred`.
    """
    bank = LoraBank(base.model, lora.model_copy(update={"r": 1}), 1)  # of zeros, which add nothing
    mean: dict[str, Tensor] = {}

    def look(name: str, x_1TD: Tensor, now: ForwardContext) -> None:
        own_D = features_of(x_1TD[0], now.batch).sum(0).cpu() / len(users)
        mean[name] = mean[name] + own_D if name in mean else own_D

    bank.before = look
    with keeping_freed_memory(), bank.attached():
        for user in users:
            for row in rows_of([user], TOKENS_PER_PASS):
                base.logits(row.pack(base.device), bank)
    return mean
