"""Selection: which users a plan trains, and the training job of each."""

from collections.abc import Collection, Container, Iterator, Sequence, Set
from dataclasses import dataclass

from ownlm.config import TrainConfig
from ownlm.history.labels import check_history
from ownlm.history.record import History
from ownlm.history.task import Task
from ownlm.inference.load import load_adapter
from ownlm.model.base import BaseLM
from ownlm.oppu.examples import tokenize
from ownlm.oppu.fleet import Job
from ownlm.prompt.example import Example, history_examples
from ownlm.store.records import no_user_has_records, unknown_user
from ownlm.store.rows import AdapterInfo, HistoryInfo, ProfileInfo, is_chosen
from ownlm.store.store import Store
from ownlm.workflows.plan import AssemblyPlan, TrainPlan
from ownlm.workflows.profile import shown

PAGE = 256  # users looked up at a time
UP_TO_DATE = "up to date"
FORGOTTEN = "forgotten during this run"
CHOSEN = "uses a version that was chosen, and no records came since; naming the user trains anyway"
NOTHING_NEW = "nothing new to learn from"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A user before training.

    Attributes:
        records: number of the user's records; 0 for a named user without records.
        last: the adapter that training continues from, if any.
        restarted: True if the last adapter was trained with other settings.
        skipped: the reason why the user is not trained; None for a user who is.
        selected: False for users whom the options `top` or `min_records` exclude.
    """

    user: str
    records: int
    last: AdapterInfo | None = None
    restarted: bool = False
    skipped: str | None = None
    selected: bool = True

    def steps(self, config: TrainConfig) -> int:
        """Estimated number of training steps."""
        new = self.records - (self.last.records if self.last else 0)
        return config.steps_for(min(new, config.recent or new))


def candidates(plan: TrainPlan, *, check: bool = False) -> Iterator[Candidate]:
    """The plan's users: those named, in their order, or all by name.

    Args:
        check: raise the errors below; without, a user without records is reported as forgotten.

    Raises:
        NotFoundError: a named user has no records; or, where none is named, no user has any.
    """
    outsiders = set() if plan.options.users else plan.store.outsiders(plan.base.name)
    excluded = _excluded(plan, outsiders)
    for user, info, last, profile in looked_up(plan, excluded, check=check):
        if user in excluded:
            yield excluded[user]
        elif info is None:
            yield Candidate(user, 0, skipped=FORGOTTEN)
        else:
            yield _candidate(plan, info, last, profile, user in outsiders)


def looked_up(
    plan: TrainPlan | AssemblyPlan, left_out: Container[str] = (), *, check: bool = False
) -> Iterator[tuple[str, HistoryInfo | None, AdapterInfo | None, ProfileInfo | None]]:
    """Each of the plan's users with their history, newest adapter and profile, as far as they exist.

    Users are looked up page by page: one page is in memory at a time, and no transaction stays open between pages.

    Args:
        left_out: users of whom nothing is looked up.
        check: as for `candidates`.
    """
    store, task, named, found = plan.store, plan.task.name, plan.options.users, False
    for names in pages(store, task, named):
        wanted = [user for user in names if user not in left_out]
        histories = {one.user: one for one in store.histories(task, wanted)}
        latest = store.latest_adapters(task, wanted)
        profiles = store.latest_profiles(task, wanted) if plan.config.prompt.profile else {}
        for user in names:
            if check and named and user not in histories and user not in left_out:
                raise unknown_user(store, user, task)
            found = True
            yield user, histories.get(user), latest.get((task, user)), profiles.get(user)
    if check and not found:
        raise no_user_has_records(task)


def _excluded(plan: TrainPlan, outsiders: Set[str]) -> dict[str, Candidate]:
    """Users whom `top` and `min_records` exclude. Of users with equally many records, the first by name are taken.

    Outsiders take no place among the top. Users with an up-to-date adapter keep theirs: running the same plan again
    never moves on to the next users.
    """
    top, least = plan.options.top, plan.options.min_records or 0
    if top is None and not least:
        return {}
    name = plan.task.name
    histories = (
        one for names in pages(plan.store, name, plan.options.users) for one in plan.store.histories(name, names)
    )
    counts = {info.user: info.records for info in histories}
    why = {user: f"fewer than {least:,} records" for user, count in counts.items() if count < least}
    if top is not None:
        ranked = sorted((-counts[user], user) for user in counts.keys() - why.keys() - outsiders)
        why |= {user: f"not among the top {top:,} by number of records" for _, user in ranked[top:]}
    return {user: Candidate(user, counts[user], skipped=reason, selected=False) for user, reason in why.items()}


def pages(store: Store, task: str, users: Sequence[str]) -> Iterator[list[str]]:
    """Names of the users named, each once; or of all users with records of a task."""
    if users:
        named = list(dict.fromkeys(users))
        yield from (named[at : at + PAGE] for at in range(0, len(named), PAGE))
        return
    page = store.names(task, None, PAGE)
    while page:
        yield page
        page = store.names(task, page[-1], PAGE)


def learnt_by_base(base: str) -> str:
    """The reason to skip an outsider."""
    return f"the base {base!r} has learnt from these records; naming the user trains anyway"


def _candidate(
    plan: TrainPlan, info: HistoryInfo, last: AdapterInfo | None, profile: ProfileInfo | None, outsider: bool
) -> Candidate:
    if outsider and not (last and last.forgotten):  # an adapter that learnt forgotten records is replaced
        return Candidate(info.user, info.records, skipped=learnt_by_base(plan.base.name))
    if is_chosen(last, info.history) and not plan.options.users:
        return Candidate(info.user, info.records, skipped=CHOSEN)
    restarted = last is not None and not last.is_recipe and last.key != plan.key(profile)
    if last and (restarted or last.is_recipe or last.forgotten or not plan.store.has_weights(last)):
        last = None
    if last and last.knows(info.history) and not (plan.options.from_scratch and last.parent):
        return Candidate(info.user, info.records, skipped=UP_TO_DATE)
    goes_on = not plan.options.from_scratch and plan.config.method == "lora"
    return Candidate(info.user, info.records, last if goes_on else None, restarted)


@dataclass(frozen=True, slots=True)
class TrainingSeat:
    """The data that a user in flight is trained on, as it was when training began.

    Attributes:
        upto: number of the latest record.
        last: the adapter that training continues from.
    """

    history: History
    upto: int
    profile: ProfileInfo | None
    last: AdapterInfo | None


def seat(plan: TrainPlan, model: BaseLM, one: Candidate) -> tuple[TrainingSeat, Job | None]:
    """A candidate's job; None where the last adapter has learnt all there is.

    Raises:
        OwnlmError: no examples can be made of the records, or the last adapter cannot be read.
    """
    user, last = one.user, one.last
    history, numbers = plan.store.numbered_history(plan.task.name, user)
    profile = plan.store.profile(plan.task.name, user)  # read after the records: forgetting one removes the profile
    learnt = {record for record, number in numbers.items() if last and number <= last.upto}
    examples = own_examples(plan.task, history, plan.config, profile, learnt)
    seated = TrainingSeat(history, max(numbers.values(), default=0), profile, last)
    if last and not examples:
        return seated, None
    start = load_adapter(plan.store, last, model) if last else None
    invocation = plan.config_for(model).lora.alora_invocation_tokens
    return seated, Job(user, tokenize(model, user, examples, invocation), plan.options.seed, start)


def own_examples(
    task: Task, history: History, config: TrainConfig, profile: ProfileInfo | None, learnt: Collection[str] = ()
) -> list[Example]:
    """The examples of a user's records, as the config says which and what their prompts show.

    Args:
        learnt: ids of records that make no example.

    Raises:
        DataError: a record does not fit the task.
        NotFoundError: prompts show a profile, and the user has none.
    """
    check_history(task, history)
    show = shown(config.prompt, history.user_id, profile)
    return history_examples(task, history, recent=config.recent, since=config.since, learnt=learnt, **show)
