"""Cold start: chooses by a user's number of records between base, assembly, adapted assembly and own adapter.

no usable record -> the (adapted) base answers     few -> assembled from a pool
more -> assembled, then adapted                     many -> an own adapter
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ownlm.errors import NotFoundError, OwnlmError
from ownlm.history.record import History
from ownlm.model.base import BaseLM
from ownlm.perpcs.adapt import HELD_BACK
from ownlm.perpcs.sharers import MIN_RECORDS
from ownlm.progress import Progress
from ownlm.prompt.example import history_examples
from ownlm.store import pools
from ownlm.store.consents import check_known
from ownlm.store.records import no_user_has_records
from ownlm.store.rows import AdapterInfo
from ownlm.workflows.assemble import assemble_users
from ownlm.workflows.options import AssembleOptions
from ownlm.workflows.plan import AssemblyPlan, TrainPlan, assembly_plan
from ownlm.workflows.report import ColdStart, Placed, Tier
from ownlm.workflows.selection import FORGOTTEN, PAGE, candidates, learnt_by_base
from ownlm.workflows.train import train_users

ADAPT_FROM = HELD_BACK  # records: of fewer none can be held back, to see whether adapting helped
OWN_FROM = 50  # records: of fewer, four epochs in batches of 16 make about 12 steps, which teach little (LOG.md)
ADAPT_STEPS = 20  # ours; an adaptation that makes an assembly worse is not kept

TIERS: tuple[Tier, ...] = ("base", "assembled", "adapted", "own")  # the lowest first


@dataclass(frozen=True, slots=True)
class ColdStartPlan:
    """The plan of `Home.ladder`.

    Attributes:
        own: users, and the training of own adapters.
        assembly: assembling, without adapting; None if users cannot be assembled.
        no_assembly: the reason why users cannot be assembled.
    """

    own: TrainPlan
    assembly: AssemblyPlan | None
    no_assembly: str | None = None


def cold_start_plan(own: TrainPlan, pool: str | None) -> ColdStartPlan:
    """The plan for users who are trained as `own` says.

    Args:
        own: users, and the training of own adapters.
        pool: first digits of a pool's digest; by default the task's newest pool for the base.

    Raises:
        NotFoundError: there is no such pool.
    """
    name, base = own.task.name, own.base.name
    try:
        asked = AssembleOptions(task=name, pool=pool, base=base, seed=own.options.seed)
        plan = assembly_plan(own.store, own.task, asked.but(recent=own.config.recent) if own.config.recent else asked)
    except NotFoundError:
        if pool is not None:
            raise
        return ColdStartPlan(own, None, f"there is no pool for task {name!r} on the base {base!r}")
    if plan.pool.sharers < plan.options.top_k:
        needed = plan.options.top_k
        few = f"the pool {plan.pool.digest[:12]} has {plan.pool.sharers} of the {needed} sharers that it takes"
        return ColdStartPlan(own, None, few)
    return ColdStartPlan(own, plan)


def cold_start(plan: ColdStartPlan, load: Callable[[], BaseLM], progress: Progress, report: ColdStart) -> None:
    """Places all users, then assembles and trains them; users with an up-to-date adapter are skipped.

    Args:
        plan: users and settings.
        load: gives the base; called if there is a user to assemble or train.
        progress: called with what is done.
        report: filled as users are done.

    Raises:
        NotFoundError: the home does not know a named user, or no user has records.
        PoolError: the pool is damaged, or a sharer withdrew consent.
        StoreError: the home cannot be written.
    """
    report.placed += place(plan, report.training.skipped)
    if users := _still_there(plan, "own", report):  # first: it needs no pool
        train_users(plan.own.for_users(users), load, progress, report.training)
    if plan.assembly is not None:
        steps: dict[Tier, int] = {"assembled": 0, "adapted": ADAPT_STEPS}
        for tier in steps:
            if users := _still_there(plan, tier, report):
                assembly = plan.assembly.for_users(users, adapt_steps=steps[tier])
                assemble_users(assembly, load, progress, report.assemblies)


def place(plan: ColdStartPlan, left_out: list[tuple[str, str]] | None = None) -> list[Placed]:
    """Every user's tier, and the reason; nothing is written.

    Users whom the options `top` or `min_records` exclude are not placed; they go into `left_out`, with the reason.

    A tier follows from the number of records that an own adapter would learn from. Sharers of the pool train their own
    adapter, as they did for the pool. A user with a higher tier than their records give keeps it, unless named. An
    outsider stays with the base, unless named.

    Raises:
        NotFoundError: the home does not know a named user, or no user has records.

    Source: ours.
    """
    own, store, name, named = plan.own, plan.own.store, plan.own.task.name, bool(plan.own.options.users)
    sharers = set(pools.users_of(store, pool=plan.assembly.pool.digest).values()) if plan.assembly else set()
    outsiders = set() if named else store.outsiders(own.base.name)
    placed, left_out = list[Placed](), [] if left_out is None else left_out
    for user, history in _histories(own, left_out):
        last = store.latest_adapters(name, [user]).get((name, user))
        records = _usable(own, history)
        if user in outsiders and not (last and last.forgotten):
            placed.append(Placed(user, records, "base", learnt_by_base(own.base.name)))
            continue
        tier, why = tier_for(records, user in sharers, plan.no_assembly)
        held = _current_tier(last, own)
        if held and not named and TIERS.index(held) > TIERS.index(tier):
            tier, why = held, f"stands there already; {why}, which decides for a named user"
        placed.append(Placed(user, records, tier, why))
    if not placed and not left_out:
        raise no_user_has_records(name)
    return placed


def tier_for(records: int, sharer: bool, no_assembly: str | None) -> tuple[Tier, str]:
    """A user's tier by their records, and the reason.

    Args:
        records: number of records that an own adapter would learn from.
        sharer: whether the pool holds pieces of this user.
        no_assembly: the reason why users cannot be assembled; None if they can.

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


def _current_tier(last: AdapterInfo | None, own: TrainPlan) -> Tier | None:
    """The tier of a user's newest adapter; None without a usable one on this base."""
    if last is None or last.base_fingerprint != own.base.fingerprint or not last.knows(last.history):
        return None
    if not last.is_recipe:
        return "own"
    return "adapted" if last.provenance["assembly"]["adapt_steps"] else "assembled"


def _usable(own: TrainPlan, history: History) -> int:
    """Number of records that an own adapter would learn from; all if one is broken, which training then reports."""
    try:
        return len(history_examples(own.task, history, recent=own.config.recent, since=own.config.since))
    except OwnlmError:
        return len(history)


def _histories(own: TrainPlan, left_out: list[tuple[str, str]]) -> Iterator[tuple[str, History]]:
    """The plan's users with their records; a named user may have none, but must be known."""
    named = bool(own.options.users)
    for one in candidates(own):
        if not one.selected:
            left_out.append((one.user, one.skipped or ""))
            continue
        if one.records == 0 and named:
            check_known(own.store, one.user)
        history = own.store.history(own.task.name, one.user)
        if history.records or named:  # else forgotten just now
            yield one.user, history


def _still_there(plan: ColdStartPlan, tier: Tier, report: ColdStart) -> Sequence[str]:
    """The users of a tier; those forgotten since they were placed are reported."""
    task, users = plan.own.task.name, [one.user for one in report.placed if one.tier == tier]
    there = set[str]()
    for at in range(0, len(users), PAGE):
        there.update(info.user for info in plan.own.store.histories(task, users[at : at + PAGE]))
    report.training.skipped += [(user, FORGOTTEN) for user in users if user not in there]
    return [user for user in users if user in there]
