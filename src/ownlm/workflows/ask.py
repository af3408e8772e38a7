"""Asking: each query answered by its person's own adapter, many people's in one batch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ownlm.config import PromptConfig, TrainConfig
from ownlm.errors import NotFoundError, OwnlmError, PoolError, TaskError, quoted
from ownlm.history.record import History, Query
from ownlm.history.task import Task
from ownlm.inference.ask import Question, answer
from ownlm.inference.label_scoring import answer_tokens
from ownlm.inference.load import (
    RECIPE,
    is_mix,
    load_adapter,
    load_peft_adapter,
    load_pool,
    load_recipe,
)
from ownlm.inference.peft_answer import answer_with_peft
from ownlm.model.adapter import Adapter
from ownlm.model.base import BaseLM
from ownlm.model.peft_adapter import PeftAdapter
from ownlm.oppu.examples import encode_within
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import Recipe
from ownlm.progress import Progress
from ownlm.prompt.example import query_prompt
from ownlm.store.records import unknown_user
from ownlm.store.rows import AdapterInfo, BaseInfo
from ownlm.store.store import Store
from ownlm.workflows.profile import shown
from ownlm.workflows.recipes import remake_command, stale_warning
from ownlm.workflows.report import Answer
from ownlm.workflows.standing import learnt_from_gone

PEOPLE_AT_ONCE = 16  # whose adapters are in memory together
QUERIES_AT_ONCE = 256  # how many answers may wait for each other

Show = Mapping[str, int | bool | None]  # settings of `PromptConfig`; None as in training


@dataclass(frozen=True, slots=True)
class Assignment:
    """A query, and what is to answer it: an adapter on its base, or a base alone."""

    query: Query
    task: Task  # the one the adapter was made for, whatever the task file says now
    base: BaseInfo
    adapter: AdapterInfo | None
    warning: str | None = None

    @property
    def together(self) -> tuple[str, str, str]:
        """What assignments that are answered together have in common; nobody joins an adapter that peft puts on."""
        alone = self.adapter.id if self.adapter and self.adapter.method not in ("lora", RECIPE) else ""
        return self.base.name, alone, self.task.model_dump_json()

    @property
    def shape(self) -> str | None:
        """The shape of the slot it takes; None where it takes none."""
        if self.adapter is None or self.in_pool is not None:
            return None
        made = self.adapter.provenance.get("assembly", {}) if self.adapter.is_recipe else {}
        return str([sorted(self.adapter.shape.items()), made.get("combine"), made.get("top_k"), self.adapter.pool])

    @property
    def in_pool(self) -> str | None:
        """The pool whose pieces it is a mix of; None where it needs matrices of its own."""
        return self.adapter.pool if self.adapter and is_mix(self.adapter) else None


def assign(store: Store, query: Query, task: Task, base: BaseInfo | None, base_only: bool) -> Assignment:
    """A person's newest adapter on its base; or the base alone.

    Args:
        base: answer with this one; needed for `base_only`.

    Raises:
        NotFoundError: the home does not know the person, or has no adapter of theirs (on this base).
    """
    if not store.knows(task.name, query.user_id):
        raise unknown_user(store, query.user_id, task.name)
    if base_only and base is not None:
        return Assignment(query, task, base, None)
    if base is None:
        mine = list(store.latest_adapters(task.name, [query.user_id]).values())
    else:
        mine = [one for one in store.adapters(task.name, query.user_id) if one.base == base.name]
    if not mine:
        on, option = ("", "") if base is None else (f" on the base {base.name!r}", f" --base {base.name}")
        raise NotFoundError(
            f"User {query.user_id!r} has no adapter for task {task.name!r}{on}",
            hint=f"`ownlm train --task {task.name} --user {quoted(query.user_id)}{option}`, or ask with --base-only",
        )
    newest = mine[-1]
    made_for, its_base = Task.model_validate(newest.provenance["task"]), store.base(newest.base)
    if newest.stale is not None:
        return Assignment(query, made_for, its_base, None, stale_warning(store, newest))
    if (gone := learnt_from_gone(newest)) is not None:
        warning = f"The adapter of user {query.user_id!r} {gone}: {remake_command(store, newest)} makes one without"
        return Assignment(query, made_for, its_base, newest, warning)
    return Assignment(query, made_for, its_base, newest)


def assign_all(
    store: Store, queries: Sequence[Query], task: Task, base: BaseInfo | None, base_only: bool
) -> list[Assignment | Answer]:
    """`assign` for each query; an Answer with the error where there is nothing to answer it."""
    assigned: list[Assignment | Answer] = []
    for query in queries:
        try:
            assigned.append(assign(store, query, task, base, base_only))
        except NotFoundError as error:
            assigned.append(Answer(query, error=error))
    return assigned


def answer_queries(
    store: Store,
    load: Callable[[BaseInfo], BaseLM],
    assigned: Sequence[Assignment | Answer],
    *,
    choose: bool,
    show: Show,
    progress: Progress,
) -> Iterator[Answer]:
    """Answers in mixed batches, and yields them in the given order, each as soon as those before it are there.

    Args:
        load: gives a base, ready to run.
        assigned: queries with what answers them; an Answer (an error) is passed through in its place.
        choose: pick the likeliest label instead of generating.
        show: what prompts show, where it differs from training.
    """
    ready = {place: one for place, one in enumerate(assigned) if isinstance(one, Answer)}
    waiting = {place: one for place, one in enumerate(assigned) if isinstance(one, Assignment)}
    done, following = len(ready), 0

    def on_done(count: int) -> None:
        nonlocal done
        done += count
        progress("answers", done, len(assigned))

    if waiting:
        on_done(0)
    for batch in _batches(waiting):
        base = load(batch[0][1].base)
        together = [one for _, one in batch]
        for (place, _), result in zip(batch, _answer_batch(store, base, together, choose, show, on_done), strict=True):
            ready[place] = result
        while following in ready:
            yield ready.pop(following)
            following += 1
    yield from (ready[place] for place in sorted(ready))


def _batches(waiting: dict[int, Assignment]) -> Iterator[list[tuple[int, Assignment]]]:
    """Assignments that can share a bank: one base, one shape of adapter, not too many people."""
    first: dict[str, int] = {}
    for place, one in waiting.items():
        first.setdefault(one.query.user_id, place)
    batch: list[tuple[int, Assignment]] = []
    people: set[str] = set()
    shape = pool = None
    order = sorted(
        waiting.items(),
        key=lambda item: (
            item[1].together, item[1].in_pool or "", item[1].shape or "", first[item[1].query.user_id]
        ),
    )  # fmt: skip
    for place, one in order:
        people.add(one.query.user_id)
        fits = len(people) <= PEOPLE_AT_ONCE and len(batch) < QUERIES_AT_ONCE
        alike = one.shape in (shape, None) or shape is None
        alike = alike and (one.in_pool in (pool, None) or pool is None)
        if batch and not (fits and alike and one.together == batch[0][1].together):
            yield batch
            batch, people, shape, pool = [], {one.query.user_id}, None, None
        batch.append((place, one))
        shape, pool = one.shape or shape, one.in_pool or pool
    if batch:
        yield batch


def _answer_batch(
    store: Store,
    base: BaseLM,
    batch: Sequence[Assignment],
    choose: bool,
    show: Show,
    on_done: Callable[[int], None],
) -> list[Answer]:
    adapters: dict[str, Adapter] = {}
    recipes: dict[str, Recipe] = {}
    opened: dict[str, Pool | OwnlmError] = {}
    pool: Pool | None = None  # of everybody's `recipes`
    other: PeftAdapter | None = None  # of another method than LoRA: everybody's then, see `Assignment.shape`
    histories: dict[str, History] = {}
    results: list[Answer] = []
    questions: list[Question] = []
    for one in batch:
        own, its_pool = one.adapter, None
        result = Answer(one.query, adapter=own.id if own else None, base=one.base.name, warning=one.warning)
        try:
            if own is not None and own.is_recipe:
                its_pool = _pool_of(store, own, opened)
            if choose and not one.task.labels:
                raise TaskError(f"Task {one.task.name!r} has no labels to choose among", hint="ask without --choose")
            if own is not None and own.method not in ("lora", RECIPE):
                other = other or load_peft_adapter(store, own, base)
            elif own is not None and its_pool is not None and one.in_pool is not None:
                pool = its_pool
                recipes[own.id] = load_recipe(own, pool)
            elif own is not None and own.id not in adapters:
                adapters[own.id] = load_adapter(store, own, base, its_pool)
            room = answer_tokens(base, one.task.labels or () if choose else (), one.task.max_new_tokens)
            prompt, retrieved = _prompt(store, base, one, show, histories, room)
            questions.append(Question(prompt, result.adapter))
            results.append(replace(result, retrieved=retrieved))
        except OwnlmError as error:
            results.append(replace(result, error=error))
            on_done(1)
    task = batch[0].task
    how: dict[str, Any] = {
        "labels": (task.labels or ()) if choose else (),
        "max_new_tokens": task.max_new_tokens,
        "one_line": task.one_line,
        "on_done": on_done,
    }
    told: Iterator[str | OwnlmError]
    if other is None:
        told = iter(_answers(base, adapters, recipes, pool, questions, how))
    else:
        told = iter(answer_with_peft(base, other, questions, **how))
    return [result if result.error else _told(result, next(told)) for result in results]


def _told(result: Answer, said: str | OwnlmError) -> Answer:
    return replace(result, answer=said) if isinstance(said, str) else replace(result, error=said)


def _pool_of(store: Store, own: AdapterInfo, opened: dict[str, Pool | OwnlmError]) -> Pool:
    """The pool of a recipe, opened once for all of a batch."""
    digest = own.pool or ""
    if digest not in opened:
        try:
            opened[digest] = load_pool(store, own)
        except OwnlmError as error:
            opened[digest] = error
    found = opened[digest]
    if isinstance(found, OwnlmError):
        raise found
    return found


def _answers(
    base: BaseLM,
    adapters: dict[str, Adapter],
    recipes: dict[str, Recipe],
    pool: Pool | None,
    questions: list[Question],
    how: dict[str, Any],
) -> Sequence[str | OwnlmError]:
    """Answers; or the error for those whose pool went meanwhile, and the others are answered all the same."""
    try:
        return answer(base, adapters, questions, recipes=recipes, pool=pool, **how)
    except PoolError as error:
        left = [one for one in questions if one.owner not in recipes]
        texts = iter(answer(base, adapters, left, **how))
        how["on_done"](len(questions) - len(left))
        return [error if one.owner in recipes else next(texts) for one in questions]


def _prompt(
    store: Store, base: BaseLM, one: Assignment, show: Show, histories: dict[str, History], room: int
) -> tuple[list[int], tuple[str, ...]]:
    text, retrieved = prompt_of(store, one, show, histories)
    query = one.query
    what = f"The query {query.id!r} of user" if query.id else "The text asked of user"
    virtual = one.adapter.shape.get("num_virtual_tokens", 0) if one.adapter else 0
    return encode_within(base, text, virtual + room, f"{what} {query.user_id!r}"), retrieved


def prompt_of(
    store: Store, one: Assignment, show: Show, histories: dict[str, History] | None = None
) -> tuple[str, tuple[str, ...]]:
    """What the model reads of a query, and the ids of the person's records in it: as in training, where `show` is None.

    Args:
        histories: those looked up before, by user; others are added.
    """
    histories = {} if histories is None else histories
    query, how = one.query, prompt_settings(store, one, show)
    if how["rag"] and query.user_id not in histories:
        histories[query.user_id] = store.history(one.task.name, query.user_id)
    history = histories.get(query.user_id, History(query.user_id, ()))
    return query_prompt(one.task, query.fields, history, **how)


def prompt_settings(store: Store, one: Assignment, show: Show) -> dict[str, Any]:
    """What a query's prompt shows, as arguments of `query_prompt`: as in training, where `show` is None."""
    query, made = one.query, one.adapter.provenance if one.adapter else one.base.provenance
    config = TrainConfig.model_validate(made["config"]).prompt if made else PromptConfig()
    config = config.model_copy(update={name: value for name, value in show.items() if value is not None})
    profile = store.profile(one.task.name, query.user_id) if config.profile else None
    if profile is None and show.get("profile") is None:  # forgotten since training
        config = config.model_copy(update={"profile": False})
    return shown(config, query.user_id, profile)
