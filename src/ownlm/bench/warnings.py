"""What the reader of a benchmark should know of its answers and training before trusting a score."""

from collections import Counter
from collections.abc import Iterator, Sequence
from math import isfinite

from ownlm.history.task import Task
from ownlm.store.rows import AdapterInfo
from ownlm.workflows.standing import FEW_STEPS, worth_of

MOSTLY = 0.95  # share of answers, from which on a method gives the same one throughout
LEAST = 5  # queries, of fewer equal answers say nothing


def of_answers(task: Task, outputs: Sequence[str], golds: Sequence[str], lengths: Sequence[int] = ()) -> Iterator[str]:
    """What is odd about a method's answers, a phrase each.

    The same answer throughout is odd where the right answers are not: it is given to 95% of the queries or more, while
    no answer is right for as many.

    Args:
        outputs, golds: answers and right answers, one each for a query.
        lengths: tokens of the answers, where they were generated.
    """
    said, right = (Counter(text.strip() for text in texts) for texts in (outputs, golds))
    count = len(outputs)
    most, times = said.most_common(1)[0]
    if count >= LEAST and times >= MOSTLY * count and max(right.values()) < MOSTLY * count:
        which = repr(most) if most in (task.labels or ()) else "the same text"
        told = "all" if times == count else f"{times:,} of {count:,}"
        yield f"it answers {which} to {told} queries"
    if empty := said[""]:
        yield f"{empty:,} of {count:,} answers are empty"
    if task.labels and (other := sum(times for text, times in said.items() if text and text not in task.labels)):
        yield f"{other:,} of {count:,} answers are none of the task's labels"
    if cut := sum(length >= task.max_new_tokens for length in lengths):
        yield f"{cut:,} of {count:,} answers may be cut: they have all of the {task.max_new_tokens} tokens allowed"


def of_adapters(adapters: Sequence[AdapterInfo]) -> list[str]:
    """What is odd about the training of people's adapters, a phrase each."""
    told = few_steps("training", [one.steps for one in adapters])
    little = sum(worth_of(one).verdict == "little" for one in adapters)
    if little:
        told.append(f"the training loss of {little:,} of {len(adapters):,} adapters hardly moved")
    losses = [one.loss_last for one in adapters if one.loss_last is not None]
    if broken := sum(not isfinite(loss) for loss in losses):
        told.append(f"the training loss of {broken:,} of {len(adapters):,} adapters is no number")
    if warming := sum(_warms_up_only(one) for one in adapters):
        told.append(f"the learning rate of {warming:,} of {len(adapters):,} adapters was in warm-up to the last step")
    return told


def few_steps(what: str, steps: Sequence[int]) -> list[str]:
    """Whether training took few optimizer steps.

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
    return [
        f"{what} took {FEW_STEPS} optimizer steps or fewer for {len(few):,} of {len(steps):,} adapters "
        f"(fewest: {min(few)})"
    ]


def _warms_up_only(adapter: AdapterInfo) -> bool:
    ratio = adapter.provenance.get("config", {}).get("warmup_ratio", 0.0)
    return adapter.steps > 1 and -int(-adapter.steps * ratio // 1) >= adapter.steps
