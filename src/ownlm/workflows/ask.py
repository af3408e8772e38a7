"""Asking: each query is answered by its user's own adapter, in mixed batches."""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Self

from ownlm.config import PromptConfig, TrainConfig
from ownlm.errors import NotFoundError, OwnlmError, TaskError, quoted
from ownlm.history.record import History, Query
from ownlm.history.task import Task
from ownlm.inference.engine import Engine
from ownlm.inference.label_scoring import answer_tokens
from ownlm.inference.load import RECIPE
from ownlm.inference.request import Request
from ownlm.model.base import BaseLM
from ownlm.oppu.examples import encode_within
from ownlm.progress import Progress
from ownlm.prompt.example import query_prompt
from ownlm.store.records import unknown_user
from ownlm.store.rows import AdapterInfo, BaseInfo
from ownlm.store.store import Store
from ownlm.workflows.adapters import learnt_from_gone, remake_command, stale_warning
from ownlm.workflows.options import AskOptions
from ownlm.workflows.plan import pick_base
from ownlm.workflows.profile import shown
from ownlm.workflows.report import Answer


@dataclass(frozen=True, slots=True)
class Assignment:
    """What answers a user: one version of their adapter, or the base.

    Attributes:
        user: Name of the user; empty where the base answers without a user.
        task: The task that the adapter was made for, whatever the task's file says now.
        request: What the engine is asked; the prompt is empty until it is made.
        warning: Why the base answers, or what is wrong with the adapter.
        known: Whether the user has records and no adapter.
        retrieved: Ids of the user's records that the prompt shows.
        profile: The user's profile where the prompt shows it.
    """

    user: str
    task: Task
    request: Request
    warning: str | None = None
    known: bool = False
    retrieved: tuple[str, ...] = ()
    profile: str = ""

    @classmethod
    def of(
        cls, user: str, task: Task, base: BaseInfo, adapter: AdapterInfo | None = None, warning: str | None = None
    ) -> Self:
        """The assignment to an adapter on its base, or to the base alone."""
        return cls(user, task, Request(base, adapter, "", task.max_new_tokens, one_line=task.one_line), warning)

    @property
    def order(self) -> tuple[str, str, str, str]:
        """Sort key: neighbours can share a batch, and adapters of one shape follow each other."""
        adapter, base = self.request.adapter, self.request.base.name
        if adapter is None:
            return base, "", "", ""
        alone = "" if adapter.method in ("lora", RECIPE) else adapter.id
        return base, alone, adapter.pool or "", json.dumps(adapter.shape, sort_keys=True)


def assign(store: Store, user: str, task: Task, base: BaseInfo | None = None, base_only: bool = False) -> Assignment:
    """Returns the user's newest adapter on its base; or the base alone.

    Args:
        base: Base to answer with; None for the base of the newest adapter. `base_only` needs one.

    Raises:
        NotFoundError: The home does not know the user, or has no adapter of theirs (on this base).
    """
    if not store.knows(task.name, user):
        raise unknown_user(store, user, task.name)
    if base_only and base is not None:
        return Assignment.of(user, task, base)
    if base is None:
        mine = list(store.latest_adapters(task.name, [user]).values())
    else:
        mine = [one for one in store.adapters(task.name, user) if one.base == base.name]
    if not mine:
        on, option = ("", "") if base is None else (f" on the base {base.name!r}", f" --base {base.name}")
        raise NotFoundError(
            f"User {user!r} has no adapter for task {task.name!r}{on}",
            hint="ask the base alone, or train one",
            command=f"ownlm train --task {task.name} --user {quoted(user)}{option}",
        )
    newest = mine[-1]
    made_for, its_base = Task.model_validate(newest.provenance["task"]), store.base(newest.base)
    if newest.stale is not None:
        return Assignment.of(user, made_for, its_base, None, stale_warning(store, newest))
    warning = None
    if (gone := learnt_from_gone(newest)) is not None:
        warning = f"The adapter of user {user!r} {gone}: {remake_command(store, newest)} makes one without"
    return Assignment.of(user, made_for, its_base, newest, warning)


def answer_queries(
    store: Store, engine: Engine, queries: Sequence[Query], task: Task, options: AskOptions, progress: Progress
) -> Iterator[Answer]:
    """Yields the answers in the order of the queries, each as soon as those before it are known.

    A query that cannot be answered gets an Answer with the error.

    Raises:
        NotFoundError: There is no such base.
        BaseModelError: A base cannot be loaded.
    """
    base = pick_base(store, task.name, options.base) if options.base is not None or options.base_only else None
    answers, assigned = dict[int, Answer](), list[tuple[int, Assignment]]()
    first_place: dict[str, int] = {}
    for place, query in enumerate(queries):
        first_place.setdefault(query.user_id, place)
        try:
            assigned.append((place, assign(store, query.user_id, task, base, options.base_only)))
        except NotFoundError as error:
            answers[place] = Answer(query=query, error=error)
    assigned.sort(key=lambda one: (one[1].order, first_place[one[1].user]))
    done, following = len(answers), 0
    if assigned:
        progress("answers", done, len(queries))
    for place, answer in _answers(store, engine, queries, assigned, options):
        answers[place] = answer
        done += 1
        progress("answers", done, len(queries))
        while following in answers:
            yield answers.pop(following)
            following += 1
    yield from (answers[place] for place in sorted(answers))


def _answers(
    store: Store,
    engine: Engine,
    queries: Sequence[Query],
    assigned: Iterable[tuple[int, Assignment]],
    options: AskOptions,
) -> Iterator[tuple[int, Answer]]:
    """Yields answers with the places of their queries, base by base."""
    for _, members in groupby(assigned, key=lambda one: one[1].request.base.name):
        group = list(members)
        prompts = _Prompts(store, engine.load(group[0][1].request.base), queries, options)
        for output in engine.generate(prompts.requests(group)):
            place, answer = prompts.asked.popleft()
            outcome = {"error": output.error} if output.error else {"answer": output.text}
            yield place, answer.model_copy(update=outcome)
        yield from prompts.failed


class _Prompts:
    """Makes the requests of one base's queries as the engine takes them.

    Attributes:
        asked: What is known of the answers, with the places of their queries, in the order of the requests.
        failed: Answers of the queries that have no request.
    """

    def __init__(self, store: Store, base: BaseLM, queries: Sequence[Query], options: AskOptions) -> None:
        self.asked, self.failed = deque[tuple[int, Answer]](), list[tuple[int, Answer]]()
        self._store, self._base, self._queries, self._options = store, base, queries, options
        self._histories: dict[str, History] = {}  # of the last user

    def requests(self, assigned: Iterable[tuple[int, Assignment]]) -> Iterator[Request]:
        """Yields the requests of queries that have one."""
        for place, one in assigned:
            query, adapter = self._queries[place], one.request.adapter
            base, adapter_id = one.request.base.name, adapter.id if adapter else None
            answer = Answer(query=query, adapter=adapter_id, base=base, warning=one.warning)
            try:
                request, retrieved = self._request(one, query)
            except OwnlmError as error:
                self.failed.append((place, answer.model_copy(update={"error": error})))
            else:
                self.asked.append((place, answer.model_copy(update={"retrieved": retrieved})))
                yield request

    def _request(self, one: Assignment, query: Query) -> tuple[Request, tuple[str, ...]]:
        task, adapter = one.task, one.request.adapter
        if self._options.choose and not task.labels:
            raise TaskError(f"Task {task.name!r} has no labels to choose among", hint="ask for a generated answer")
        labels = tuple(task.labels or ()) if self._options.choose else ()
        if one.user not in self._histories:
            self._histories.clear()
        how = prompt_settings(self._store, one, self._options)
        text, retrieved = prompt_of(self._store, one, query.fields, how, self._histories)
        virtual = adapter.shape.get("num_virtual_tokens", 0) if adapter else 0
        room = virtual + answer_tokens(self._base, labels, task.max_new_tokens)
        what = f"The query {query.id!r} of user" if query.id else "The text asked of user"
        prompt = tuple(encode_within(self._base, text, room, f"{what} {one.user!r}"))
        return replace(one.request, prompt=prompt, labels=labels), retrieved


def prompt_of(
    store: Store,
    one: Assignment,
    fields: Mapping[str, str],
    how: Mapping[str, Any],
    histories: dict[str, History] | None = None,
) -> tuple[str, tuple[str, ...]]:
    """Returns the prompt of an input, and the ids of the user's records in it.

    Args:
        fields: The task's input.
        how: What `prompt_settings` gives.
        histories: Histories looked up before, by user; others are added.
    """
    histories = {} if histories is None else histories
    if how["rag"] and one.user not in histories:
        histories[one.user] = store.history(one.task.name, one.user)
    return query_prompt(one.task, fields, histories.get(one.user, History(one.user, ())), **how)


def prompt_settings(store: Store, one: Assignment, options: AskOptions) -> dict[str, Any]:
    """Returns what a prompt shows, as arguments of `query_prompt`: as in training, `options` apart."""
    made = one.request.adapter.provenance if one.request.adapter else one.request.base.provenance
    config = TrainConfig.model_validate(made["config"]).prompt if made else PromptConfig()
    changes = {"rag": options.rag, "profile": options.profile}
    config = config.model_copy(update={name: value for name, value in changes.items() if value is not None})
    profile = store.profile(one.task.name, one.user) if config.profile else None
    if profile is None and options.profile is None:  # it was forgotten since training
        config = config.model_copy(update={"profile": False})
    return shown(config, one.user, profile)
