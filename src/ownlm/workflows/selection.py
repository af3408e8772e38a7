"""Whom to train, page by page, and what each is trained on. However many they are, a page of them is in memory."""

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

from ownlm.config import TrainConfig
from ownlm.errors import ConfigError, NotFoundError
from ownlm.history.labels import check_history
from ownlm.history.record import History
from ownlm.history.task import Task
from ownlm.inference.load import load_adapter
from ownlm.model.base import BaseLM
from ownlm.oppu.examples import tokenize
from ownlm.oppu.fleet import Job
from ownlm.prompt.example import history_examples
from ownlm.store.records import unknown_user
from ownlm.store.rows import AdapterInfo, BaseInfo, Person, ProfileInfo, is_chosen
from ownlm.store.store import Store
from ownlm.workflows.bases import pick_base
from ownlm.workflows.profile import shown
from ownlm.workflows.settings import digest, provenance, settings

PAGE = 256  # people looked up at a time
UP_TO_DATE = "up to date"
FORGOTTEN = "forgotten meanwhile"
CHOSEN = "uses a version that was chosen, and no records came since; --user trains anyway"
NOTHING_NEW = "nothing new to learn from"


@dataclass(frozen=True, slots=True)
class Plan:
    """What everybody's training has in common.

    Attributes:
        users: whom to train; everybody, if none are named.
        from_scratch: with fresh weights, even where training could go on from a person's last adapter.
        slots, tokens_per_step: as for `room_for`; no adapter's key depends on them.
        held_back: whether results on held-back records are measured, too; no adapter depends on it.
        top: train only this many of the users, those with most records of the task.
        min_records: train only users with at least this many records of the task.
    """

    task: Task
    base: BaseInfo
    config: TrainConfig
    seed: int
    users: Sequence[str] = ()
    from_scratch: bool = False
    slots: int | None = None
    tokens_per_step: int | None = None
    held_back: bool = False
    top: int | None = None
    min_records: int | None = None

    def key(self, profile: ProfileInfo | None) -> str:
        """A digest of all that a person's adapter depends on, beside who they are and what they did."""
        about = profile.text if profile and self.config.prompt.profile else ""
        return digest(
            self.task.model_dump_json(), self.base.fingerprint, self.config.model_dump_json(), self.seed, about
        )  # fmt: skip

    def provenance(self) -> dict[str, Any]:
        """What everybody's adapter is made with."""
        return provenance(self.config, self.seed) | {"task": self.task.model_dump(mode="json")}


def plan_for(
    store: Store,
    task: Task,
    users: Sequence[str] = (),
    base: str | None = None,
    preset: str | None = None,
    from_scratch: bool = False,
    seed: int = 0,
    slots: int | None = None,
    tokens_per_step: int | None = None,
    held_back: bool = False,
    top: int | None = None,
    min_records: int | None = None,
    **changes: Any,
) -> Plan:
    """The plan that these settings come to; arguments as for `Home.train` and `Plan`.

    Raises:
        NotFoundError: there is no such base, or none at all.
        ConfigError: a setting is unknown or out of range, or does not go with another.
    """
    for name, value in (("top", top), ("min_records", min_records)):
        if value is not None and value < 1:
            raise ConfigError(f"Invalid setting {name}", got=str(value), expected="1 or more")
    info = pick_base(store, task.name, base)
    config = settings("adapter", info.parameters, preset, changes, info.folder)
    rest = from_scratch, slots, tokens_per_step, held_back, top, min_records
    return Plan(task, info, config, seed, users, *rest)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A person as they stand before training.

    Attributes:
        records: how many they have; 0 where a person named has none.
        last: the adapter to go on from, if any.
        anew: whether their last adapter was trained with other settings.
        skipped: why they need no training, or get none; None for who is to be trained.
        selected: False for users whom the plan's `top` or `min_records` leaves out.
    """

    user: str
    records: int
    last: AdapterInfo | None = None
    anew: bool = False
    skipped: str | None = None
    selected: bool = True

    def steps(self, config: TrainConfig) -> int:
        """About how many steps their training takes."""
        new = self.records - (self.last.records if self.last else 0)
        return config.steps_for(min(new, config.recent or new))


def candidates(store: Store, plan: Plan) -> Iterator[Candidate]:
    """Everybody the plan is about, as they are named, else by name. No transaction is open between two pages."""
    outsiders = set() if plan.users else store.outsiders(plan.base.name)
    left_out = _left_out(store, plan, outsiders)
    for names in pages(store, plan.task.name, plan.users):
        wanted = [user for user in names if user not in left_out]
        people = {person.user: person for person in store.people(plan.task.name, wanted)}
        latest = store.latest_adapters(plan.task.name, wanted)
        profiles = store.latest_profiles(plan.task.name, wanted) if plan.config.prompt.profile else {}
        for user in names:
            if user in left_out:
                yield left_out[user]
            elif user not in people:
                yield Candidate(user, 0, skipped=FORGOTTEN)
            else:
                last = latest.get((plan.task.name, user))
                yield _student(store, plan, people[user], last, profiles.get(user), user in outsiders)


def _left_out(store: Store, plan: Plan, outsiders: Set[str]) -> dict[str, Candidate]:
    """Users whom `top` and `min_records` leave out. Of equal users, the first by name are taken.

    Outsiders take no place among the top, and users whose adapter is up to date keep theirs: the same plan, run again,
    never goes on to the next users.
    """
    if plan.top is None and plan.min_records is None:
        return {}
    name, least = plan.task.name, plan.min_records or 0
    people = (one for names in pages(store, name, plan.users) for one in store.people(name, names))
    counts = {person.user: person.records for person in people}
    why = {user: f"fewer than {least:,} records" for user, count in counts.items() if count < least}
    if plan.top is not None:
        ranked = sorted((-counts[user], user) for user in counts.keys() - why.keys() - outsiders)
        rest = (user for _, user in ranked[plan.top :])
        why |= dict.fromkeys(rest, f"not among the top {plan.top:,} by number of records")
    return {user: Candidate(user, counts[user], skipped=reason, selected=False) for user, reason in why.items()}


def checked(store: Store, people: Iterable[Candidate], plan: Plan) -> Iterator[Candidate]:
    """The same people.

    Raises:
        NotFoundError: a user named, or everybody, has no records.
    """
    nobody = True
    for student in people:
        if student.records == 0 and student.user in plan.users:  # else they were forgotten just now
            raise unknown_user(store, student.user, plan.task.name)
        nobody = False
        yield student
    if nobody:
        raise NotFoundError(f"Nobody in the home has records for task {plan.task.name!r}", hint="`ownlm history add`")


def pages(store: Store, task: str, users: Sequence[str]) -> Iterator[list[str]]:
    """Names, a page at a time: these, each once; if there are none, of everybody with records of a task."""
    if users:
        named = list(dict.fromkeys(users))
        yield from (named[at : at + PAGE] for at in range(0, len(named), PAGE))
        return
    page = store.names(task, None, PAGE)
    while page:
        yield page
        page = store.names(task, page[-1], PAGE)


def _student(
    store: Store, plan: Plan, person: Person, last: AdapterInfo | None, profile: ProfileInfo | None, outsider: bool
) -> Candidate:
    if outsider and not (last and last.forgotten):  # what learnt from the forgotten is to be replaced
        why = f"the base {plan.base.name!r} has learnt from these records; --user trains anyway"
        return Candidate(person.user, person.records, skipped=why)
    if is_chosen(last, person.history) and not plan.users:
        return Candidate(person.user, person.records, skipped=CHOSEN)
    anew = last is not None and not last.is_recipe and last.key != plan.key(profile)
    if last and (anew or last.is_recipe or last.forgotten or not store.has_weights(last)):
        last = None
    if last and last.knows(person.history) and not (plan.from_scratch and last.parent):
        return Candidate(person.user, person.records, skipped=UP_TO_DATE)
    goes_on = not plan.from_scratch and plan.config.method == "lora"
    return Candidate(person.user, person.records, last if goes_on else None, anew)


@dataclass(frozen=True, slots=True)
class TrainingSeat:
    """What a person in flight is trained on; the store may learn more, or forget, meanwhile."""

    history: History
    upto: int
    profile: ProfileInfo | None
    last: AdapterInfo | None


def seat(store: Store, model: BaseLM, plan: Plan, student: Candidate) -> tuple[TrainingSeat, Job | None]:
    """A person's job; none where everything that can be learnt was learnt by the adapter to go on from.

    Raises:
        OwnlmError: no examples can be made of their records, or their last adapter cannot be read.
    """
    user, last = student.user, student.last
    history, numbers = store.numbered_history(plan.task.name, user)
    profile = store.profile(plan.task.name, user)  # after the records: forgetting one of them takes it away too
    learnt = {record for record, number in numbers.items() if last and number <= last.upto}
    check_history(plan.task, history)
    examples = history_examples(
        plan.task,
        history,
        recent=plan.config.recent,
        since=plan.config.since,
        learnt=learnt,
        **shown(plan.config.prompt, user, profile),
    )
    seated = TrainingSeat(history, max(numbers.values(), default=0), profile, last)
    if last and not examples:
        return seated, None
    start = load_adapter(store, last, model) if last else None
    return seated, Job(user, tokenize(model, user, examples), plan.seed, start)
