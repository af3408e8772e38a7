"""Results on held-back records, measured beside training; training itself is unchanged.

A new adapter learns from every record, so no record is left to judge it by. Measured is the next best thing. Where
training continues from the user's last adapter: that adapter on the new records, before it learns them. Else: a trial
adapter, trained with the same settings on all records but the latest, on the latest.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from math import sqrt
from statistics import fmean, stdev
from typing import Any, Literal

from ownlm.errors import OwnlmError
from ownlm.model.adapter import Adapter
from ownlm.model.base import BaseLM
from ownlm.oppu.fleet import Job, Run, train_fleet
from ownlm.oppu.memory import room_for
from ownlm.oppu.minibatches import TokenizedExample
from ownlm.perpcs.adapt import answer_loss
from ownlm.workflows.plan import TrainPlan
from ownlm.workflows.selection import candidates, seat

LEAST, MOST = 5, 50  # records to judge by
LEAST_IN_ALL = 15  # records of a history from which some can be held back
MOST_STEPS = 100  # of training; a longer one is not repeated as a trial
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Loss of the base and of an adapter on the same unseen records.

    Attributes:
        how: "trial", an adapter trained on all but the latest records; or "last", the user's last adapter on new ones.
        records: number of unseen records.
        base, adapter: mean over records of the mean loss per answer token, in nats.
        gain: base minus adapter.
        low, high: 95% confidence interval of the gain over records (paired, Student's t).
    """

    how: Literal["trial", "last"]
    records: int
    base: float
    adapter: float
    gain: float
    low: float
    high: float

    @classmethod
    def of(cls, how: Literal["trial", "last"], base_N: Sequence[float], adapter_N: Sequence[float]) -> "HeldBack":
        """The result of N records' losses, N at least 2."""
        from scipy.stats import t

        gain_N = [base - adapter for base, adapter in zip(base_N, adapter_N, strict=True)]
        gain, n = fmean(gain_N), len(gain_N)
        reach = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * stdev(gain_N) / sqrt(n)
        numbers = fmean(base_N), fmean(adapter_N), gain, gain - reach, gain + reach
        return cls(how, n, *(round(number, 4) for number in numbers))


def measure(
    plan: TrainPlan, load: Callable[[], BaseLM], on_step: Callable[[list[Run], int], None]
) -> dict[str, dict[str, Any]]:
    """Results of the users who are about to be trained and have enough records: by user, as stored in provenance.

    Errors of single users are left to the training, which reports them.
    """
    measured, unseen = dict[str, dict[str, Any]](), dict[str, Sequence[TokenizedExample]]()
    if plan.config.method != "lora":
        return measured

    def trials() -> Iterator[Job]:
        for one in candidates(plan):
            if one.skipped is not None:
                continue
            model = load()
            try:
                _, job = seat(plan, model, one)
            except OwnlmError:
                continue
            if job is not None and job.start is not None:
                if len(job.examples) >= LEAST:
                    measured[job.user] = _compared("last", model, job.start, job.examples[-MOST:])
            elif job is not None and _worth_a_trial(job, plan):
                back = min(max(LEAST, len(job.examples) // 5), MOST)
                unseen[job.user] = job.examples[-back:]
                yield replace(job, examples=job.examples[:-back])

    jobs = trials()
    if (first := next(jobs, None)) is None:
        return measured
    model = load()
    room = room_for(model, plan.config, plan.options.slots, plan.options.tokens_per_step)
    for run in train_fleet(
        model, chain([first], jobs), plan.config, slots=room.slots, tokens_per_step=room.tokens_per_step,
        workers=room.workers, on_step=on_step,
    ):  # fmt: skip
        latest = unseen.pop(run.job.user)
        if isinstance(run.adapter, Adapter):
            measured[run.job.user] = _compared("trial", model, run.adapter, latest)
    return measured


def _worth_a_trial(job: Job, plan: TrainPlan) -> bool:
    return len(job.examples) >= LEAST_IN_ALL and plan.config.steps_for(len(job.examples)) <= MOST_STEPS


def _compared(
    how: Literal["trial", "last"], model: BaseLM, adapter: Adapter, examples: Sequence[TokenizedExample]
) -> dict[str, Any]:
    base_N = [answer_loss(model, None, [one]) for one in examples]
    return asdict(HeldBack.of(how, base_N, [answer_loss(model, adapter, [one]) for one in examples]))
