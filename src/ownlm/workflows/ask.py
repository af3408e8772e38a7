"""Asking: each query is answered by its user's own adapter, in mixed batches."""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

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
    """A query and what answers it.

    Attributes:
        task: The task that the adapter was made for, whatever the task's file says now.
        adapter: None for the base alone.
        warning: Why the base answers, or what is wrong with the adapter.
    """

    query: Query
    task: Task
    base: BaseInfo
    adapter: AdapterInfo | None
    warning: str | None = None

    @property
    def order(self) -> tuple[str, str, str, str]:
        """Sort key: neighbours can share a batch, and adapters of one shape follow each other."""
        adapter = self.adapter
        if adapter is None:
            return self.base.name, "", "", ""
        alone = "" if adapter.method in ("lora", RECIPE) else adapter.id
        return self.base.name, alone, adapter.pool or "", json.dumps(adapter.shape, sort_keys=True)


def assign(store: Store, query: Query, task: Task, base: BaseInfo | None, base_only: bool) -> Assignment:
    """Returns the user's newest adapter on its base; or the base alone.

    Args:
        base: Base to answer with; None for the base of the newest adapter. `base_only` needs one.

    Raises:
        NotFoundError: The home does not know the user, or has no adapter of theirs (on this base).
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
            hint="ask the base alone, or train one",
            command=f"ownlm train --task {task.name} --user {quoted(query.user_id)}{option}",
        )
    newest = mine[-1]
    made_for, its_base = Task.model_validate(newest.provenance["task"]), store.base(newest.base)
    if newest.stale is not None:
        return Assignment(query, made_for, its_base, None, stale_warning(store, newest))
    if (gone := learnt_from_gone(newest)) is not None:
        warning = f"The adapter of user {query.user_id!r} {gone}: {remake_command(store, newest)} makes one without"
        return Assignment(query, made_for, its_base, newest, warning)
    return Assignment(query, made_for, its_base, newest)


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
            assigned.append((place, assign(store, query, task, base, options.base_only)))
        except NotFoundError as error:
            answers[place] = Answer(query=query, error=error)
    assigned.sort(key=lambda one: (one[1].order, first_place[one[1].query.user_id]))
    done, following = len(answers), 0
    if assigned:
        progress("answers", done, len(queries))
    for place, answer in _answers(store, engine, assigned, options):
        answers[place] = answer
        done += 1
        progress("answers", done, len(queries))
        while following in answers:
            yield answers.pop(following)
            following += 1
    yield from (answers[place] for place in sorted(answers))


def _answers(
    store: Store, engine: Engine, assigned: Iterable[tuple[int, Assignment]], options: AskOptions
) -> Iterator[tuple[int, Answer]]:
    """Yields answers with the places of their queries, base by base."""
    for _, members in groupby(assigned, key=lambda one: one[1].base.name):
        group = list(members)
        prompts = _Prompts(store, engine.load(group[0][1].base), options)
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

    def __init__(self, store: Store, base: BaseLM, options: AskOptions) -> None:
        self.asked, self.failed = deque[tuple[int, Answer]](), list[tuple[int, Answer]]()
        self._store, self._base, self._options = store, base, options
        self._histories: dict[str, History] = {}  # of the last user

    def requests(self, assigned: Iterable[tuple[int, Assignment]]) -> Iterator[Request]:
        """Yields the requests of queries that have one."""
        for place, one in assigned:
            adapter = one.adapter.id if one.adapter else None
            answer = Answer(query=one.query, adapter=adapter, base=one.base.name, warning=one.warning)
            try:
                request, answer = self._request(one, answer)
            except OwnlmError as error:
                self.failed.append((place, answer.model_copy(update={"error": error})))
            else:
                self.asked.append((place, answer))
                yield request

    def _request(self, one: Assignment, answer: Answer) -> tuple[Request, Answer]:
        task, query = one.task, one.query
        if self._options.choose and not task.labels:
            raise TaskError(f"Task {task.name!r} has no labels to choose among", hint="ask for a generated answer")
        labels = tuple(task.labels or ()) if self._options.choose else ()
        if query.user_id not in self._histories:
            self._histories.clear()
        text, retrieved = prompt_of(self._store, one, self._options, self._histories)
        virtual = one.adapter.shape.get("num_virtual_tokens", 0) if one.adapter else 0
        room = virtual + answer_tokens(self._base, labels, task.max_new_tokens)
        what = f"The query {query.id!r} of user" if query.id else "The text asked of user"
        prompt = tuple(encode_within(self._base, text, room, f"{what} {query.user_id!r}"))
        request = Request(one.base, one.adapter, prompt, task.max_new_tokens, one_line=task.one_line, labels=labels)
        return request, answer.model_copy(update={"retrieved": retrieved})


def prompt_of(
    store: Store, one: Assignment, options: AskOptions, histories: dict[str, History] | None = None
) -> tuple[str, tuple[str, ...]]:
    """Returns the prompt of a query, and the ids of the user's records in it.

    Args:
        options: `rag` and `profile` where the prompt differs from training.
        histories: Histories looked up before, by user; others are added.
    """
    histories = {} if histories is None else histories
    query, how = one.query, prompt_settings(store, one, options)
    if how["rag"] and query.user_id not in histories:
        histories[query.user_id] = store.history(one.task.name, query.user_id)
    history = histories.get(query.user_id, History(query.user_id, ()))
    return query_prompt(one.task, query.fields, history, **how)


def prompt_settings(store: Store, one: Assignment, options: AskOptions) -> dict[str, Any]:
    """Returns what a query's prompt shows, as arguments of `query_prompt`: as in training, `options` apart."""
    query, made = one.query, one.adapter.provenance if one.adapter else one.base.provenance
    config = TrainConfig.model_validate(made["config"]).prompt if made else PromptConfig()
    changes = {"rag": options.rag, "profile": options.profile}
    config = config.model_copy(update={name: value for name, value in changes.items() if value is not None})
    profile = store.profile(one.task.name, query.user_id) if config.profile else None
    if profile is None and options.profile is None:  # it was forgotten since training
        config = config.model_copy(update={"profile": False})
    return shown(config, query.user_id, profile)
