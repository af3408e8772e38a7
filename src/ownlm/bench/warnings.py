"""Warnings about answers and training that make a score hard to trust: phrases for the report."""

from collections import Counter
from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Final

from ownlm.history.task import Task
from ownlm.store.rows import AdapterInfo
from ownlm.workflows.adapters import FEW_STEPS, worth_of

MOSTLY: Final = 0.95  # share of equal answers that is reported
LEAST: Final = 5  # fewest queries for which equal answers are reported


def of_answers(task: Task, outputs: Sequence[str], golds: Sequence[str], lengths: Sequence[int] = ()) -> Iterator[str]:
    """Warnings about a method's answers: one answer to nearly all queries, empty answers, no labels, cut answers.

    One answer to 95% of the queries or more is reported unless one right answer is as common.

    Args:
        outputs: Answer to each query.
        golds: Right answer to each query.
        lengths: Tokens of each answer, where answers were generated.
    """
    said, right = (Counter(text.strip() for text in texts) for texts in (outputs, golds))
    count = len(outputs)
    most, times = said.most_common(1)[0]
    if count >= LEAST and times >= MOSTLY * count and max(right.values()) < MOSTLY * count:
        which = repr(most) if most in (task.labels or ()) else "the same text"
        yield f"it answers {which} to {'all' if times == count else f'{times:,} of {count:,}'} queries"
    if empty := said[""]:
        yield f"{empty:,} of {count:,} answers are empty"
    if task.labels and (other := sum(times for text, times in said.items() if text and text not in task.labels)):
        yield f"{other:,} of {count:,} answers are none of the task's labels"
    if cut := sum(length >= task.max_new_tokens for length in lengths):
        yield f"{cut:,} of {count:,} answers may be cut: they have all of the {task.max_new_tokens} tokens allowed"


def of_adapters(adapters: Sequence[AdapterInfo]) -> list[str]:
    """Warnings about the training of users' adapters: few steps, losses that hardly moved, warm-up only."""
    found, count = few_steps("training", [one.steps for one in adapters]), f"{len(adapters):,}"
    if little := sum(worth_of(one).verdict == "little" for one in adapters):
        found.append(f"the training loss of {little:,} of {count} adapters hardly moved")
    if broken := sum(one.loss_last is not None and not isfinite(one.loss_last) for one in adapters):
        found.append(f"the training loss of {broken:,} of {count} adapters is no number")
    if warming := sum(_warms_up_only(one) for one in adapters):
        found.append(f"the learning rate of {warming:,} of {count} adapters was in warm-up to the last step")
    return found


def few_steps(what: str, steps: Sequence[int]) -> list[str]:
    """A warning about training with few optimizer steps.

    >>> few_steps("training", [3, 4, 200])
    ['training took 12 optimizer steps or fewer for 2 of 3 adapters (fewest: 3)']
    >>> few_steps("stage 1", [2])
    ['stage 1 took 2 optimizer steps']
    """
    few = [count for count in steps if count <= FEW_STEPS]
    if not few:
        return []
    if len(steps) == 1:
        return [f"{what} took {few[0]} optimizer step{'' if few[0] == 1 else 's'}"]
    some = f"{len(few):,} of {len(steps):,} adapters (fewest: {min(few)})"
    return [f"{what} took {FEW_STEPS} optimizer steps or fewer for {some}"]


def _warms_up_only(adapter: AdapterInfo) -> bool:
    ratio = adapter.provenance.get("config", {}).get("warmup_ratio", 0.0)
    return adapter.steps > 1 and -int(-adapter.steps * ratio // 1) >= adapter.steps
