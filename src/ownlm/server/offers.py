"""Jobs that a user can ask for now, decided by the same code as the job itself."""

from collections.abc import Collection
from typing import Literal

from ownlm.errors import NotFoundError, OwnlmError
from ownlm.server.jobs import job_settings
from ownlm.server.state import State
from ownlm.store.pools import pools
from ownlm.store.rows import JobInfo
from ownlm.workflows.assemble import is_up_to_date
from ownlm.workflows.options import AssembleOptions, TrainOptions
from ownlm.workflows.plan import assembly_plan, train_plan
from ownlm.workflows.selection import UP_TO_DATE, candidates

Kind = Literal["train", "assemble"]
Reason = Literal["at_work", "no_base", "no_pieces", "no_records", "up_to_date", "waits"]


def offers(state: State, user: str, task: str, at_work: Collection[str]) -> dict[Kind, Reason | None]:
    """For each kind of job, the reason why it cannot be asked for or would change nothing; None if it can.

    Args:
        state: state of the server.
        user: name of the user.
        task: name of the task.
        at_work: kinds of the user's unfinished jobs in the task.
    """
    if not state.home.store.knows(task, user):
        return {"train": "no_records", "assemble": "no_records"}
    return {
        "train": "at_work" if "train" in at_work else _train(state, user, task),
        "assemble": "at_work" if "assemble" in at_work else _assemble(state, user, task),
    }


def _train(state: State, user: str, task: str) -> Reason | None:
    store = state.home.store
    try:
        how = job_settings(store, JobInfo("", "train", user, task))
        options = TrainOptions(task=task, users=(user,), **how)
        candidate = next(candidates(train_plan(store, state.home.task(task), options)))
    except NotFoundError:
        return "no_base"
    except OwnlmError:  # the job itself reports what is wrong
        return None
    return "up_to_date" if candidate.skipped == UP_TO_DATE else None


def _assemble(state: State, user: str, task: str) -> Reason | None:
    store = state.home.store
    if not pools(store, task):
        return "no_pieces"
    try:
        how = job_settings(store, JobInfo("", "assemble", user, task))
        plan = assembly_plan(store, state.home.task(task), AssembleOptions(task=task, users=(user,), **how))
        if plan.pool.waits:
            return "waits"
        last = store.latest_adapters(task, [user]).get((task, user))
        (info,) = store.histories(task, [user])
        profile = store.profile(task, user) if plan.config.prompt.profile else None
    except (OwnlmError, ValueError):  # the job itself reports what is wrong
        return None
    return "up_to_date" if last and is_up_to_date(plan, info, last, profile) else None
