"""Assembling: a personal adapter for each user, out of a pool's pieces, stored as a recipe."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from ownlm.errors import OwnlmError, many
from ownlm.inference.load import RECIPE, open_usable
from ownlm.model.base import BaseLM
from ownlm.oppu.examples import tokenize
from ownlm.oppu.minibatches import TokenizedExample
from ownlm.perpcs.adapt import Adapted, Start, adapt, adapt_config, split
from ownlm.perpcs.assemble import Assembled, Target, assemble, check_pool
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import Recipe
from ownlm.progress import Progress
from ownlm.store import pools
from ownlm.store.blobs import blob_name
from ownlm.store.rows import WAITS, AdapterInfo, HistoryInfo, ProfileInfo, history_digest, is_chosen
from ownlm.workflows.plan import AssemblyPlan
from ownlm.workflows.report import Assemblies, Assembly
from ownlm.workflows.selection import CHOSEN, FORGOTTEN, UP_TO_DATE, TrainingSeat, looked_up, own_examples
from ownlm.workflows.train import Meter

ADAPT_RATE = 1e-2  # of weights; of a residual adapter, the sharers' rate
AT_ONCE = 16  # users looked up, assembled and stored at a time


def assemble_users(plan: AssemblyPlan, load: Callable[[], BaseLM], progress: Progress, report: Assemblies) -> None:
    """Assembles the plan's users; each recipe is stored soon after it is made.

    Args:
        plan: users, pool and settings.
        load: gives the base; called if there is a user to assemble.
        progress: called with what is done.
        report: filled as users are done.

    Raises:
        NotFoundError: a named user has no records, or no user has any.
        PoolError: the pool is damaged, for another base, has too few sharers, or waits for a withdrawal; also if that
            happens during the call: finished recipes are kept.
        StoreError: the home cannot be written; finished recipes are kept.
    """
    users, asked = list(_selected(plan, report)), plan.options
    if not users:
        return
    model, pool = load(), open_usable(plan.store, plan.pool.digest)
    check_pool(model, pool, asked.top_k)
    bars = _Bars(progress, plan, len(users), len(pool.modules), report)
    for at in range(0, len(users), AT_ONCE):
        pools.usable(plan.store, pool.digest)
        seated, targets = dict[str, TrainingSeat](), list[Target]()
        for user in users[at : at + AT_ONCE]:
            try:
                own, examples = _seat(model, plan, user)
            except OwnlmError as error:
                _fail(plan, user, error, report)
                bars.on_module(1, len(pool.modules))
            else:
                seated[user] = own
                targets.append(Target(user, examples))
        for made in _made(model, pool, plan, targets, report, bars):
            _store(model, pool, plan, seated[made.user], made, report)
    bars.end()


class _Bars:
    """Progress of assembling, in modules of users; and of adapting, in steps."""

    def __init__(self, progress: Progress, plan: AssemblyPlan, users: int, modules: int, report: Assemblies) -> None:
        self.progress, self.report, steps = progress, report, plan.options.adapt_steps
        self.total, self.done = users * modules, 0
        self.steps = Meter(progress, "adapting, steps", users * steps) if steps else None
        self.on_module(0)

    def on_module(self, users: int, modules: int = 1) -> None:
        """Pieces of some modules are selected for some users."""
        self.done += users * modules
        note = f"{many(len(self.report.assembled), 'user')} assembled"
        self.progress("assembling, modules", self.done, self.total, note)

    def end(self) -> None:
        """All users are done, also those with too few records to adapt to."""
        self.on_module(0)
        if self.steps:
            self.progress(self.steps.stage, self.steps.steps, self.steps.steps, self.steps.note)


def _selected(plan: AssemblyPlan, report: Assemblies) -> Iterator[str]:
    """Users to assemble. Others are reported, each with the reason.

    Raises:
        NotFoundError: a named user has no records, or no user has any.
    """
    store, named = plan.store, plan.options.users
    sharers, outsiders = set(pools.users_of(store, pool=plan.pool.digest).values()), store.outsiders(plan.base.name)
    done = f"{WAITS}; `ownlm doctor` says whose" if plan.pool.waits else UP_TO_DATE
    for user, info, last, profile in looked_up(plan, check=True):
        if info is None:
            continue  # forgotten just now
        why = None
        if last and is_up_to_date(plan, info, last, profile):
            why = done
        elif not named and is_chosen(last, info.history):
            why = CHOSEN
        elif not named and last and not last.is_recipe:
            why = "has an adapter of their own; naming the user assembles anyway"
        elif not named and user in sharers:
            why = "is a sharer of this pool; naming the user assembles anyway"
        elif not named and user in outsiders:
            why = f"the base {plan.base.name!r} has learnt from these records; naming the user assembles anyway"
        if why is None:
            yield user
        else:
            report.skipped.append((user, why))


def is_up_to_date(plan: AssemblyPlan, info: HistoryInfo, last: AdapterInfo, profile: ProfileInfo | None) -> bool:
    """Whether assembling would make a user's newest adapter again."""
    same = last.is_recipe and last.pool == plan.pool.digest and last.key == plan.key(profile)
    return same and last.knows(info.history) and plan.store.has_weights(last)


def _seat(model: BaseLM, plan: AssemblyPlan, user: str) -> tuple[TrainingSeat, list[TokenizedExample]]:
    """A user's history as it is now, and its examples; an OwnlmError where none can be made."""
    history, numbers = plan.store.numbered_history(plan.task.name, user)
    profile = plan.store.profile(plan.task.name, user)
    config = plan.config.model_copy(update={"recent": plan.options.recent, "since": None})
    examples = own_examples(plan.task, history, config, profile)
    own = TrainingSeat(history, max(numbers.values(), default=0), profile, None)
    return own, tokenize(model, user, examples)


@dataclass(frozen=True, slots=True)
class _Made:
    """A recipe, and the result of adapting it."""

    user: str
    recipe: Recipe
    tokens: int
    seconds: float
    adapted: Adapted | None = None


def _made(
    model: BaseLM, pool: Pool, plan: AssemblyPlan, targets: list[Target], report: Assemblies, bars: _Bars
) -> Iterator[_Made]:
    """The recipes of these users, adapted if asked for, and if the user has enough records to hold some back."""
    asked = plan.options
    parts = {one.user: split(one.examples) if asked.adapt_steps else (one.examples, ()) for one in targets}
    shown_part = {one.user: replace(one, examples=parts[one.user][0]) for one in targets}
    made, starts = dict[str, Assembled](), list[Start]()
    for one in assemble(
        model, pool, shown_part.values(), top_k=asked.top_k, tau=asked.tau, combine=asked.combine,
        on_module=bars.on_module,
    ):  # fmt: skip
        if held_back := parts[one.user][1]:
            made[one.user] = one
            starts.append(Start(shown_part[one.user], one.recipe, held_back))
        else:
            yield _Made(one.user, one.recipe, one.tokens, one.seconds)
    if not starts:
        return
    residual = asked.residual_rank is not None
    rate = plan.config.learning_rate if residual else ADAPT_RATE
    config = adapt_config(pool, asked.adapt_steps, rate, asked.residual_rank)
    on_step = bars.steps.on_step if bars.steps else None
    for outcome in adapt(model, pool, starts, config, seed=asked.seed, residual=residual, on_step=on_step):
        if isinstance(outcome, Adapted):
            one = made[outcome.user]
            tokens, seconds = one.tokens + outcome.run.tokens, one.seconds + outcome.run.seconds
            yield _Made(outcome.user, outcome.recipe, tokens, seconds, outcome)
        else:
            _fail(plan, *outcome, report)


def _store(model: BaseLM, pool: Pool, plan: AssemblyPlan, own: TrainingSeat, made: _Made, report: Assemblies) -> None:
    """Stores a recipe, unless its records were forgotten, or its pool removed, while it was made."""
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
        provenance=plan.provenance() | model.computed_in | how,
        steps=adapted.run.step if adapted else 0,
        tokens=made.tokens,
        loss_first=adapted.run.losses[0] if adapted else None,
        loss_last=adapted.run.losses[-1] if adapted else None,
        seconds=round(made.seconds, 3),
        recipe=recipe,
        pool=plan.pool.digest,
    )
    (error,) = plan.store.add_adapters([(info, weights)])
    if error:
        _fail(plan, info.user, error, report)
    else:
        report.assembled.append(Assembly.of(info, top_sharers(pool, made.recipe)))


def top_sharers(pool: Pool, recipe: Recipe, most: int = 3) -> list[tuple[str, float]]:
    """Random ids of the sharers with the largest weights in a recipe, each with its share of all weight."""
    weight: dict[str, float] = {}
    for name, place_K, weight_K in zip(pool.modules, recipe.place_MK.tolist(), recipe.weight_MK.tolist(), strict=True):
        for place, w in zip(place_K, weight_K, strict=True):
            if w:
                sharer = pool.sharer(name, place)
                weight[sharer] = weight.get(sharer, 0.0) + abs(w)
    total = sum(weight.values()) or 1.0
    ordered = sorted(weight.items(), key=lambda one: (-one[1], one[0]))[:most]
    return [(sharer, round(w / total, 4)) for sharer, w in ordered]


def _fail(plan: AssemblyPlan, user: str, error: OwnlmError, report: Assemblies) -> None:
    """Reports why a user has no new recipe."""
    if plan.store.knows(plan.task.name, user):
        error.__traceback__ = error.__context__ = None
        report.failed.append((user, error))
    else:
        report.skipped.append((user, FORGOTTEN))
