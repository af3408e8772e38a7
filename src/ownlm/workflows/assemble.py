"""Assembling: a personal adapter for each person, out of a pool's pieces, kept as a recipe."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from ownlm.config import TrainConfig
from ownlm.errors import ConfigError, NotFoundError, OwnlmError, many
from ownlm.history.labels import check_history
from ownlm.history.task import Task
from ownlm.inference.load import RECIPE, open_usable
from ownlm.model.base import BaseLM
from ownlm.oppu.examples import tokenize
from ownlm.oppu.minibatches import TokenizedExample
from ownlm.perpcs.adapt import Adapted, Start, adapt, adapt_config, split
from ownlm.perpcs.assemble import Assembled, Target, assemble, check_pool
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import Combine, Recipe
from ownlm.progress import Progress
from ownlm.prompt.example import history_examples
from ownlm.store import pools
from ownlm.store.blobs import blob_name
from ownlm.store.records import unknown_user
from ownlm.store.rows import WAITS, AdapterInfo, BaseInfo, HistoryInfo, PoolInfo, ProfileInfo, history_digest, is_chosen
from ownlm.store.store import Store
from ownlm.workflows.plan import digest, versions
from ownlm.workflows.profile import shown
from ownlm.workflows.report import Assemblies, Assembly
from ownlm.workflows.selection import CHOSEN, FORGOTTEN, UP_TO_DATE, TrainingSeat, pages
from ownlm.workflows.train import Meter

RECENT = 2000  # the latest records are read
ADAPT_RATE = 1e-2  # of weights; of a residual adapter, the sharers' rate
AT_ONCE = 16  # people looked up, assembled and stored at a time


@dataclass(frozen=True, slots=True)
class AssemblyPlan:
    """What everybody's assembly has in common.

    Attributes:
        users: whom; if none are named, everybody but sharers, outsiders, and who has an adapter of their own.
        top_k, tau, combine: as for `perpcs.assemble`.
        adapt_steps: of training from the assembled start; 0 for none.
        residual_rank: train a small adapter of this rank on top, instead of the recipe's weights.
    """

    task: Task
    base: BaseInfo
    pool: PoolInfo
    seed: int = 0
    users: Sequence[str] = ()
    top_k: int = 3
    tau: float = 1.0
    combine: Combine = "product"
    recent: int = RECENT
    adapt_steps: int = 0
    residual_rank: int | None = None

    def __post_init__(self) -> None:
        least = {"top_k": 1, "recent": 1, "adapt_steps": 0, "residual_rank": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError(f"The setting {name!r} is out of range", got=value, expected=f"{low} or more")
        if not 0 < self.tau < float("inf"):
            raise ConfigError("The setting 'tau' is out of range", got=self.tau, expected="a number above 0")
        if self.adapt_steps and self.combine != "product":
            raise ConfigError("Only recipes of `product` can be adapted", got=self.combine, hint="leave --combine out")
        if self.residual_rank is not None and not self.adapt_steps:
            raise ConfigError("A residual adapter is trained", hint="say how long with --adapt-steps")

    @property
    def config(self) -> TrainConfig:
        """What the pool's pieces were trained with, and how their prompts were made."""
        return TrainConfig.model_validate(self.pool.provenance["config"])

    def key(self, profile: ProfileInfo | None) -> str:
        """A digest of all that a person's recipe depends on, beside the pool, who they are and what they did.

        Whose pieces are not used may leave the pool: what all others select stays as it is.
        """
        about = profile.text if profile and self.config.prompt.profile else ""
        how = self.top_k, self.tau, self.combine, self.recent, self.adapt_steps, self.residual_rank, self.seed
        return digest(self.task.model_dump_json(), self.base.fingerprint, *how, about)

    def provenance(self) -> dict[str, Any]:
        """What everybody's recipe is made with."""
        how = {
            name: getattr(self, name) for name in ("top_k", "tau", "combine", "recent", "adapt_steps", "residual_rank")
        }
        return {
            "config": self.config.model_dump(mode="json"),
            "assembly": how,
            "seed": self.seed,
            "versions": versions(),
            "task": self.task.model_dump(mode="json"),
        }


def assembly_plan(
    store: Store, task: Task, *, pool: str | None = None, base: str | None = None, **asked: Any
) -> AssemblyPlan:
    """The plan that these settings come to; arguments as for `Home.assemble`.

    Raises:
        NotFoundError: there is no such pool or base.
        ConfigError: settings do not go together.
    """
    named = store.base(base) if base is not None else None
    info = pools.pool(store, pool, task.name, named)
    given = {name: value for name, value in asked.items() if value is not None}
    return AssemblyPlan(task, named or store.base(info.base), info, **given)


def assemble_people(
    store: Store, load: Callable[[], BaseLM], plan: AssemblyPlan, progress: Progress, report: Assemblies
) -> None:
    """Assembles everybody who is to be assembled; each recipe is kept as it is done.

    Args:
        load: gives the base; called if anybody is to be assembled.

    Raises:
        NotFoundError: a user named, or everybody, has no records.
        PoolError: the pool is damaged, for another base, or has too few sharers; or somebody took their consent back,
            also meanwhile: what is done is kept then.
        StoreError: the home cannot be written; what is done is kept.
    """
    waiting = list(_waiting(store, plan, report))
    if not waiting:
        return
    model, pool = load(), open_usable(store, plan.pool.digest)
    check_pool(model, pool, plan.top_k)
    bars = _Bars(progress, plan, len(waiting), len(pool.modules), report)
    for at in range(0, len(waiting), AT_ONCE):
        pools.usable(store, pool.digest)
        seated, targets = dict[str, TrainingSeat](), list[Target]()
        for user in waiting[at : at + AT_ONCE]:
            try:
                own, examples = _seat(store, model, plan, user)
            except OwnlmError as error:
                _fail(store, plan, user, error, report)
                bars.on_module(1, len(pool.modules))
            else:
                seated[user] = own
                targets.append(Target(user, examples))
        for made in _made(model, pool, plan, targets, report, store, bars):
            _keep(store, pool, plan, seated[made.user], made, report)
    bars.end()


class _Bars:
    """How far assembling is, in modules of people; and adapting, in steps."""

    def __init__(self, progress: Progress, plan: AssemblyPlan, people: int, modules: int, report: Assemblies) -> None:
        self.progress, self.report = progress, report
        self.total, self.done = people * modules, 0
        self.steps = Meter(progress, "adapting, steps", people * plan.adapt_steps) if plan.adapt_steps else None
        self.on_module(0)

    def on_module(self, people: int, modules: int = 1) -> None:
        """Pieces of a module, or of several, are chosen for some people."""
        self.done += people * modules
        note = f"{many(len(self.report.assembled), 'user')} assembled"
        self.progress("assembling, modules", self.done, self.total, note)

    def end(self) -> None:
        """Everybody is done: who was too short of records to adapt to, as well."""
        self.on_module(0)
        if self.steps:
            self.progress(self.steps.stage, self.steps.steps, self.steps.steps, self.steps.note)


def _waiting(store: Store, plan: AssemblyPlan, report: Assemblies) -> Iterator[str]:
    """Who is to be assembled; why others are not is reported.

    Raises:
        NotFoundError: a user named, or everybody, has no records.
    """
    task, nobody = plan.task.name, True
    sharers, outsiders = set(pools.people_of(store, pool=plan.pool.digest).values()), store.outsiders(plan.base.name)
    done = f"{WAITS}; `ownlm doctor` says whose" if plan.pool.waits else UP_TO_DATE
    for names in pages(store, task, plan.users):
        people = {person.user: person for person in store.histories(task, names)}
        latest = store.latest_adapters(task, names)
        profiles = store.latest_profiles(task, names) if plan.config.prompt.profile else {}
        for user in names:
            if user not in people:
                if plan.users:
                    raise unknown_user(store, user, task)
                continue  # forgotten just now
            nobody, last, why = False, latest.get((task, user)), None
            if last and is_up_to_date(store, plan, people[user], last, profiles.get(user)):
                why = done
            elif not plan.users and is_chosen(last, people[user].history):
                why = CHOSEN
            elif not plan.users and last and not last.is_recipe:
                why = "has an adapter of their own; --user assembles anyway"
            elif not plan.users and user in sharers:
                why = "is a sharer of this pool; --user assembles anyway"
            elif not plan.users and user in outsiders:
                why = f"the base {plan.base.name!r} has learnt from these records; --user assembles anyway"
            if why is None:
                yield user
            else:
                report.skipped.append((user, why))
    if nobody:
        raise NotFoundError(f"Nobody in the home has records for task {task!r}", hint="`ownlm history add`")


def is_up_to_date(
    store: Store, plan: AssemblyPlan, person: HistoryInfo, last: AdapterInfo, profile: ProfileInfo | None
) -> bool:
    """Whether a person's newest adapter is what assembling would make again."""
    same = last.is_recipe and last.pool == plan.pool.digest and last.key == plan.key(profile)
    return same and last.knows(person.history) and store.has_weights(last)


def _seat(store: Store, model: BaseLM, plan: AssemblyPlan, user: str) -> tuple[TrainingSeat, list[TokenizedExample]]:
    """A person's history as it is now, and its examples; an OwnlmError where none can be made."""
    history, numbers = store.numbered_history(plan.task.name, user)
    profile = store.profile(plan.task.name, user)
    prompt = plan.config.prompt
    check_history(plan.task, history)
    examples = history_examples(plan.task, history, recent=plan.recent, **shown(prompt, user, profile))
    own = TrainingSeat(history, max(numbers.values(), default=0), profile, None)
    return own, tokenize(model, user, examples)


@dataclass(frozen=True, slots=True)
class _Made:
    """A recipe, and what adapting it came to."""

    user: str
    recipe: Recipe
    tokens: int
    seconds: float
    adapted: Adapted | None = None


def _made(
    model: BaseLM,
    pool: Pool,
    plan: AssemblyPlan,
    targets: list[Target],
    report: Assemblies,
    store: Store,
    bars: _Bars,
) -> Iterator[_Made]:
    """Everybody's recipes, adapted where that is asked for and the person has records enough to hold some back."""
    parts = {one.user: split(one.examples) if plan.adapt_steps else (one.examples, ()) for one in targets}
    shown_part = {one.user: replace(one, examples=parts[one.user][0]) for one in targets}
    made, starts = dict[str, Assembled](), list[Start]()
    for one in assemble(
        model, pool, shown_part.values(), top_k=plan.top_k, tau=plan.tau, combine=plan.combine, on_module=bars.on_module
    ):
        if held_back := parts[one.user][1]:
            made[one.user] = one
            starts.append(Start(shown_part[one.user], one.recipe, held_back))
        else:
            yield _Made(one.user, one.recipe, one.tokens, one.seconds)
    if not starts:
        return
    rate = ADAPT_RATE if plan.residual_rank is None else plan.config.learning_rate
    config, residual = adapt_config(pool, plan.adapt_steps, rate, plan.residual_rank), plan.residual_rank is not None
    on_step = bars.steps.on_step if bars.steps else None
    for outcome in adapt(model, pool, starts, config, seed=plan.seed, residual=residual, on_step=on_step):
        if isinstance(outcome, Adapted):
            one = made[outcome.user]
            tokens, seconds = one.tokens + outcome.run.tokens, one.seconds + outcome.run.seconds
            yield _Made(outcome.user, outcome.recipe, tokens, seconds, outcome)
        else:
            _fail(store, plan, *outcome, report)


def _keep(store: Store, pool: Pool, plan: AssemblyPlan, own: TrainingSeat, made: _Made, report: Assemblies) -> None:
    """Stores a recipe, unless its records were forgotten, or its pool withdrawn, while it was made."""
    recipe, adapted = made.recipe.to_bytes(), made.adapted
    weights = adapted.residual.to_bytes() if adapted and adapted.residual else b""
    how: dict[str, Any] = {}
    if adapted:
        how = {"kept": adapted.kept, "held_back_losses": adapted.losses}
    info = AdapterInfo(
        id=uuid4().hex,
        user=own.history.user_id,
        task=plan.task.name,
        base=plan.base.name,
        base_fingerprint=plan.base.fingerprint,
        key=plan.key(own.profile),
        history=history_digest(own.history),
        records=len(own.history),
        upto=own.upto,
        blob=blob_name(weights) if weights else None,
        bytes=len(recipe) + len(weights),
        method=RECIPE,
        shape=(adapted.residual if adapted and adapted.residual else pool).lora.model_dump(mode="json"),
        provenance=plan.provenance() | how,
        steps=adapted.run.step if adapted else 0,
        tokens=made.tokens,
        loss_first=adapted.run.losses[0] if adapted else None,
        loss_last=adapted.run.losses[-1] if adapted else None,
        seconds=round(made.seconds, 3),
        recipe=recipe,
        pool=plan.pool.digest,
    )
    (error,) = store.add_adapters([(info, weights)])
    if error:
        _fail(store, plan, info.user, error, report)
    else:
        report.assembled.append(Assembly.of(info, top_sharers(pool, made.recipe)))


def top_sharers(pool: Pool, recipe: Recipe, most: int = 3) -> list[tuple[str, float]]:
    """Whose pieces weigh most in a recipe: random ids, with their share of all weight."""
    weight: dict[str, float] = {}
    for name, place_K, weight_K in zip(pool.modules, recipe.place_MK.tolist(), recipe.weight_MK.tolist(), strict=True):
        for place, w in zip(place_K, weight_K, strict=True):
            if w:
                sharer = pool.sharer(name, place)
                weight[sharer] = weight.get(sharer, 0.0) + abs(w)
    total = sum(weight.values()) or 1.0
    ordered = sorted(weight.items(), key=lambda one: (-one[1], one[0]))[:most]
    return [(sharer, round(w / total, 4)) for sharer, w in ordered]


def _fail(store: Store, plan: AssemblyPlan, user: str, error: OwnlmError, report: Assemblies) -> None:
    """Tells why a person has no new recipe."""
    if store.knows(plan.task.name, user):
        error.__traceback__ = error.__context__ = None
        report.failed.append((user, error))
    else:
        report.skipped.append((user, FORGOTTEN))
