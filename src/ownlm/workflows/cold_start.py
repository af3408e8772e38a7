"""The cold-start ladder: the more records a person has, the more of an adapter is their own.

no usable record -> the (adapted) base answers     few -> assembled from a pool
more -> assembled, then adapted                     many -> an own adapter
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ownlm.config import TrainConfig
from ownlm.errors import NotFoundError, OwnlmError
from ownlm.history.record import History
from ownlm.history.task import Task
from ownlm.model.base import BaseLM
from ownlm.perpcs.adapt import HELD_BACK
from ownlm.perpcs.sharers import MIN_RECORDS
from ownlm.progress import Progress
from ownlm.prompt.example import history_examples
from ownlm.store import pools
from ownlm.store.consents import check_known
from ownlm.store.rows import AdapterInfo
from ownlm.store.store import Store
from ownlm.workflows.assemble import AssemblyPlan, assemble_people, assembly_plan
from ownlm.workflows.histories import Added, with_history
from ownlm.workflows.report import Ladder, Placed, Tier
from ownlm.workflows.selection import FORGOTTEN, PAGE, Plan, candidates, plan_for
from ownlm.workflows.train import train_people

ADAPT_FROM = HELD_BACK  # records: of fewer none can be held back, to tell whether adapting helped
OWN_FROM = 50  # records: of fewer, four epochs in batches of 16 make about 12 steps, which teach little (LOG.md)
ADAPT_STEPS = 20  # ours; what they make worse is not kept

RUNGS: tuple[Tier, ...] = ("base", "assembled", "adapted", "own")  # the lowest first


@dataclass(frozen=True, slots=True)
class LadderPlan:
    """How everybody is placed.

    Attributes:
        own: how own adapters are trained, and whom it is about: everybody, if none are named.
        assembly: how people are assembled, without adapting.
        no_assembly: why nobody can be assembled; None where there is an assembly.
    """

    own: Plan
    assembly: AssemblyPlan | None
    no_assembly: str | None = None


def ladder_plan(store: Store, own: Plan, pool: str | None) -> LadderPlan:
    """The ladder for who is to be trained so.

    Args:
        pool: what a pool's digest begins with; by default the task's newest for the base.

    Raises:
        NotFoundError: the pool named is not there.
    """
    name = own.task.name
    try:
        plan = assembly_plan(store, own.task, pool=pool, base=own.base.name, recent=own.config.recent, seed=own.seed)
    except NotFoundError:
        if pool is not None:
            raise
        return LadderPlan(own, None, f"there is no pool for task {name!r} on the base {own.base.name!r}")
    if plan.pool.sharers < plan.top_k:
        few = f"the pool {plan.pool.digest[:12]} has {plan.pool.sharers} of the {plan.top_k} sharers that it takes"
        return LadderPlan(own, None, few)
    return LadderPlan(own, plan)


def start_cold(store: Store, load: Callable[[], BaseLM], plan: LadderPlan, progress: Progress, report: Ladder) -> None:
    """Places everybody, then assembles and trains; whoever is up to date there is left as they are.

    Args:
        load: gives the base; called if anybody is to be assembled or trained.

    Raises:
        NotFoundError: the home does not know a user named, or nobody has records.
        PoolError: the pool is damaged, or somebody took their consent back. StoreError: the home cannot be written.
    """
    report.placed += place(store, plan, report.training.skipped)
    if users := _still_there(store, plan, "own", report):  # first: it needs no pool
        train_people(store, load, replace(plan.own, users=users), progress, report.training)
    if plan.assembly is not None:
        steps: dict[Tier, int] = {"assembled": 0, "adapted": ADAPT_STEPS}
        for rung in steps:
            if users := _still_there(store, plan, rung, report):
                assembly = replace(plan.assembly, users=users, adapt_steps=steps[rung])
                assemble_people(store, load, assembly, progress, report.assemblies)


def place(store: Store, plan: LadderPlan, left_out: list[tuple[str, str]] | None = None) -> list[Placed]:
    """Everybody's rung, and why; nothing is done.

    Users whom the plan's `top` or `min_records` leaves out are not placed; they go into `left_out`, with the reason.

    A rung goes by how many records an own adapter would learn from. Sharers of the pool train their own, as they
    did for the pool. Who stands higher than their records would place them stays there, unless they are named; who
    the base has learnt from stays with it, unless they are named.

    Raises:
        NotFoundError: as `climb`.

    Source: ours.
    """
    name, named = plan.own.task.name, set(plan.own.users)
    sharers = set(pools.people_of(store, pool=plan.assembly.pool.digest).values()) if plan.assembly else set()
    outsiders = set() if named else store.outsiders(plan.own.base.name)
    placed, left_out = [], [] if left_out is None else left_out
    for user, history in _histories(store, plan.own, left_out):
        last = store.latest_adapters(name, [user]).get((name, user))
        records = usable(plan.own, history)
        if user in outsiders and not (last and last.forgotten):
            why = f"the base {plan.own.base.name!r} has learnt from these records; --user trains anyway"
            placed.append(Placed(user, records, "base", why))
            continue
        rung, why = tier_for(records, user in sharers, plan.no_assembly)
        held = standing(last, plan.own)
        if held and not named and RUNGS.index(held) > RUNGS.index(rung):
            rung, why = held, f"stands there already; {why}, which --user goes by"
        placed.append(Placed(user, records, rung, why))
    if not placed and not left_out:
        raise NotFoundError(f"Nobody in the home has records for task {name!r}", hint="`ownlm history add`")
    return placed


def place_only(
    store: Store, task: Task, data: str | Path | None, pool: str | None, report: Ladder, **asked: Any
) -> Added | None:
    """Reports everybody's rung as if a file's records had been added; nothing is written.

    Args:
        asked: as for `plan_for`.

    Returns:
        Counts of the file's records; None without a file.
    """
    store, task, added = with_history(store, data, task)
    plan = ladder_plan(store, plan_for(store, task, **asked), pool)
    report.placed += place(store, plan, report.training.skipped)
    return added


def tier_for(records: int, sharer: bool, no_assembly: str | None) -> tuple[Tier, str]:
    """A person's rung by their records, and why.

    Args:
        records: how many can be learnt from.
        sharer: whether pieces of theirs lie in the pool.
        no_assembly: why nobody can be assembled; None where they can.

    >>> tier_for(3, False, None)
    ('assembled', 'fewer than 5 records')
    """
    if records == 0:
        return "base", "no record to learn from"
    if records >= OWN_FROM:
        return "own", f"{OWN_FROM} records or more"
    if sharer and records > MIN_RECORDS:
        return "own", f"is a sharer of the pool, with more than {MIN_RECORDS} records"
    if no_assembly is not None:
        return "own", no_assembly
    if records < ADAPT_FROM:
        return "assembled", f"fewer than {ADAPT_FROM} records"
    return "adapted", f"{ADAPT_FROM} to {OWN_FROM - 1} records"


def standing(last: AdapterInfo | None, own: Plan) -> Tier | None:
    """The rung of a person's newest adapter; None where they have none on this base that can be used."""
    if last is None or last.base_fingerprint != own.base.fingerprint or not last.knows(last.history):
        return None
    if not last.is_recipe:
        return "own"
    return "adapted" if last.provenance["assembly"]["adapt_steps"] else "assembled"


def usable(own: Plan, history: History) -> int:
    """How many records an own adapter would learn from; all of them, where a broken one is the trainer's to report."""
    config: TrainConfig = own.config
    try:
        return len(history_examples(own.task, history, recent=config.recent, since=config.since))
    except OwnlmError:
        return len(history)


def _histories(store: Store, own: Plan, left_out: list[tuple[str, str]]) -> Iterator[tuple[str, History]]:
    """Everybody the plan is about, with their records; who is named may have none, but must be known."""
    for student in candidates(store, own):
        if not student.selected:
            left_out.append((student.user, student.skipped or ""))
            continue
        if student.records == 0 and own.users:
            check_known(store, student.user)
        history = store.history(own.task.name, student.user)
        if history.records or own.users:  # else they were forgotten just now
            yield student.user, history


def _still_there(store: Store, plan: LadderPlan, rung: Tier, report: Ladder) -> Sequence[str]:
    """Who stands on a rung; those forgotten since they were placed are reported."""
    task, users = plan.own.task.name, [one.user for one in report.placed if one.rung == rung]
    there = set[str]()
    for at in range(0, len(users), PAGE):
        there.update(person.user for person in store.people(task, users[at : at + PAGE]))
    report.training.skipped += [(user, FORGOTTEN) for user in users if user not in there]
    return [user for user in users if user in there]
