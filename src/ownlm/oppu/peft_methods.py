"""Other methods than LoRA, for comparison: trained by peft, one person at a time."""

from collections.abc import Callable, Iterable, Iterator

from ownlm.config import TrainConfig
from ownlm.model.base import BaseLM
from ownlm.oppu.fleet import Job, Run


def train_with_peft(
    base: BaseLM, jobs: Iterable[Job], config: TrainConfig, *, on_round: Callable[[list[Run], int], None] | None = None
) -> Iterator[Run]:
    """Trains jobs one after the other, and yields each as it ends."""
    raise NotImplementedError
    yield
