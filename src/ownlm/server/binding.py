"""Requests bound to what answers them, when they come; and looked at once more before the answer leaves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ownlm.errors import NotFoundError, SupersededError
from ownlm.history.record import Query
from ownlm.history.task import Task, parse_input
from ownlm.home import Home
from ownlm.inference.request import Request
from ownlm.server.retrieval import LONG_BYTES, Retrieval
from ownlm.store.records import has_records, history_bytes
from ownlm.workflows.adapters import learnt_from_gone
from ownlm.workflows.ask import Assignment, assign, prompt_of, prompt_settings
from ownlm.workflows.options import AskOptions
from ownlm.workflows.plan import pick_base


@dataclass(frozen=True, slots=True)
class Bound:
    """A request, bound to a user and to one version of their adapter.

    Attributes:
        request: What the engine is asked.
        known: whether the user has records in the task and no adapter: the base answers about them.
        retrieved: ids of the user's records that the prompt shows.
        profile: the user's profile where the prompt shows it.
        warning: why the base answers, where the user may expect their adapter.
    """

    user: str | None
    task: Task
    request: Request
    known: bool = False
    retrieved: tuple[str, ...] = ()
    profile: str = ""
    warning: str | None = None

    def extras(self, ignored_messages: int | None = None) -> dict[str, Any]:
        """Fields of an answer beside those of OpenAI's API."""
        answered = {
            "adapter": self.request.adapter.id if self.request.adapter else None,
            "base": self.request.base.name,
            "warning": self.warning,
            "retrieved": list(self.retrieved),
        }
        return answered if ignored_messages is None else answered | {"ignored_messages": ignored_messages}


class LongHistory(Exception):
    """The history that a prompt shows records of is too long to be searched in this process."""


def bind_question(
    home: Home, user: str | None, task: Task, text: str, base_only: bool, rag: int | None,
    search: Retrieval | None = None,
) -> Bound:  # fmt: skip
    """A question in the task's own words: the prompt is made as in training.

    Args:
        user: None for the base alone.
        text: the task's input; where it has several fields, a JSON object with them.
        search: makes prompts that show records of a long history.

    Raises:
        TaskError: the text is no input of the task. NotFoundError: there is no base. LongHistory: it needs `search`.
    """
    query = Query(user or "", "", parse_input(task, text))
    one = _assigned(home, query, task, base_only or user is None)
    options = AskOptions(rag=0 if user is None else rag)
    how = prompt_settings(home.store, one, options)
    retrieved: Sequence[str]
    if how["rag"] and history_bytes(home.store, one.task.name, query.user_id) > LONG_BYTES:
        if search is None:
            raise LongHistory
        prompt, retrieved = search(one.task.model_dump_json(), query.user_id, query.fields, how)
    else:
        prompt, retrieved = prompt_of(home.store, one, options)
    request = Request(one.base, one.adapter, prompt, one.task.max_new_tokens, one_line=one.task.one_line)
    return Bound(user, one.task, request, _knows(home, user, one), tuple(retrieved), how["profile"], one.warning)


def bind_text(home: Home, user: str | None, task: Task, text: str | tuple[int, ...], base_only: bool) -> Bound:
    """A text, or token ids, to be continued as they stand.

    Raises:
        NotFoundError: there is no base.
    """
    one = _assigned(home, Query(user or "", "", {}), task, base_only or user is None)
    request = Request(one.base, one.adapter, text, 16, continues=True)
    return Bound(user, one.task, request, _knows(home, user, one), warning=one.warning)


def _knows(home: Home, user: str | None, one: Assignment) -> bool:
    return user is not None and one.adapter is None and home.store.knows(one.task.name, user)


def _assigned(home: Home, query: Query, task: Task, base_only: bool) -> Assignment:
    """A user's newest adapter; the task's base where they have none yet, or where it may not be used."""
    store = home.store
    if not base_only:
        try:
            one = assign(store, query, task, None, False)
        except NotFoundError:
            why = "There is no adapter of yours yet; the base answers"
            return Assignment(query, task, pick_base(store, task.name, None), None, why)
        if one.adapter is not None and (gone := learnt_from_gone(one.adapter)) is not None:
            again = "assembled" if one.adapter.is_recipe else "trained"
            return replace(
                one, warning=f"Your adapter {gone}: ask to be {again} again, and the new one is made without it"
            )
        if one.warning is not None:  # it is stale; what an operator would type is nothing for a client
            return replace(one, warning="Your assembly is stale, and waits to be made again; the base answers")
        return one
    return Assignment(query, task, pick_base(store, task.name, None), None)


def with_changes(bound: Bound, changes: Mapping[str, Any]) -> Bound:
    """Returns the same with other settings of its request, where they are given."""
    return replace(bound, request=replace(bound.request, **{k: v for k, v in changes.items() if v is not None}))


def check_answered(bound: Bound, adapter: str | None) -> None:
    """Raises a SupersededError where the adapter that answered is not the one that the request is bound to."""
    own = bound.request.adapter
    if adapter != (own.id if own else None):
        raise SupersededError("Another adapter answered than was asked; the answer is kept back", hint="ask again")


def check_there(home: Home, bound: Bound) -> None:
    """Raises a SupersededError where something that the answer is made from was deleted since the request came."""
    store, own, task = home.store, bound.request.adapter, bound.task.name
    if own is not None and not store.still_there([own.id]):
        raise _deleted("The adapter was")
    if bound.known and not store.knows(task, bound.user or ""):
        raise _deleted("The user was")
    if bound.retrieved and not has_records(store, task, bound.user or "", bound.retrieved):
        raise _deleted("A record that the prompt shows was")
    if bound.profile:
        profile = store.profile(task, bound.user or "")
        if profile is None or profile.text != bound.profile:
            raise _deleted("The profile that the prompt shows was replaced or")


def _deleted(what: str) -> SupersededError:
    return SupersededError(f"{what} deleted during the answer; the answer is kept back", hint="ask again")
