"""The state of a training run between two optimizer steps, and its file."""

from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ownlm.errors import TrainingError

_PARTS = ("param_P", "first_P", "second_P", "loss_S", "spent_2")


@dataclass(frozen=True, slots=True)
class RunState:
    """State of a run, to continue it as if it had not been interrupted. All tensors are on the CPU.

    The order of minibatches is not part of it, as it follows from the job.

    Attributes:
        param_P: P trained parameters.
        first_P, second_P: AdamW's running moments.
        loss_S: mean loss of each of the S minibatches so far; float64.
        tokens: tokens of these minibatches.
        seconds: machine time, as in `Run`.
    """

    param_P: Tensor
    first_P: Tensor
    second_P: Tensor
    loss_S: Tensor
    tokens: int
    seconds: float

    @property
    def step(self) -> int:
        """Number of optimizer steps taken."""
        return len(self.loss_S)

    def to_bytes(self) -> bytes:
        """A safetensors file."""
        spent_2 = torch.tensor([self.tokens, self.seconds], dtype=torch.float64)
        tensors = (self.param_P, self.first_P, self.second_P, self.loss_S, spent_2)
        return save_tensors(dict(zip(_PARTS, tensors, strict=True)))

    @classmethod
    def from_bytes(cls, data: bytes) -> "RunState":
        """The state in a file of `to_bytes`.

        Raises:
            TrainingError: the file is damaged.
        """
        try:
            param_P, first_P, second_P, loss_S, spent_2 = map(load_tensors(data).__getitem__, _PARTS)
        except (SafetensorError, ValueError, KeyError) as error:
            raise TrainingError("A checkpoint cannot be read", got=type(error).__name__) from None
        tokens, seconds = spent_2.tolist()
        return cls(param_P, first_P, second_P, loss_S, int(tokens), seconds)
