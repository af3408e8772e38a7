"""Assigns what answers a request when it comes, and checks once more before the answer leaves."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ownlm.errors import NotFoundError, SupersededError
from ownlm.history.task import Task, parse_input
from ownlm.home import Home
from ownlm.server.retrieval import LONG_BYTES, Retrieval
from ownlm.store.records import has_records, history_bytes
from ownlm.workflows.adapters import learnt_from_gone
from ownlm.workflows.ask import Assignment, assign, prompt_of, prompt_settings
from ownlm.workflows.options import AskOptions
from ownlm.workflows.plan import pick_base


class LongHistory(Exception):
    """The history that a prompt shows records of is too long to be searched in this process."""


def bind_question(
    home: Home, user: str | None, task: Task, text: str, base_only: bool, rag: int | None,
    search: Retrieval | None = None,
) -> Assignment:  # fmt: skip
    """A question in the task's own words: the prompt is made as in training.

    Args:
        user: None for the base alone.
        text: the task's input; where it has several fields, a JSON object with them.
        search: makes prompts that show records of a long history.

    Raises:
        TaskError: the text is no input of the task. NotFoundError: there is no base. LongHistory: it needs `search`.
    """
    fields = parse_input(task, text)
    one = _assigned(home, user, task, base_only)
    how = prompt_settings(home.store, one, AskOptions(rag=0 if user is None else rag))
    retrieved: Sequence[str]
    if how["rag"] and history_bytes(home.store, one.task.name, one.user) > LONG_BYTES:
        if search is None:
            raise LongHistory
        prompt, retrieved = search(one.task.model_dump_json(), one.user, fields, how)
    else:
        prompt, retrieved = prompt_of(home.store, one, fields, how)
    one = with_changes(one, {"prompt": prompt})
    return replace(one, retrieved=tuple(retrieved), profile=how["profile"])


def bind_text(home: Home, user: str | None, task: Task, text: str | tuple[int, ...], base_only: bool) -> Assignment:
    """A text, or token ids, to be continued as they stand.

    Raises:
        NotFoundError: there is no base.
    """
    changes = {"prompt": text, "max_tokens": 16, "one_line": False, "continues": True}
    return with_changes(_assigned(home, user, task, base_only), changes)


def _assigned(home: Home, user: str | None, task: Task, base_only: bool) -> Assignment:
    """A user's newest adapter; the task's base where they have none yet, or where it may not be used."""
    store, one = home.store, None
    if user is not None and not base_only:
        try:
            one = assign(store, user, task)
        except NotFoundError:
            why = "There is no adapter of yours yet; the base answers"
            one = Assignment.of(user, task, pick_base(store, task.name, None), None, why)
        else:
            one = replace(one, warning=_worded_for_client(one))
    one = one or Assignment.of(user or "", task, pick_base(store, task.name, None))
    return replace(one, known=user is not None and one.request.adapter is None and store.knows(one.task.name, user))


def _worded_for_client(one: Assignment) -> str | None:
    """The warning without an operator's commands."""
    adapter = one.request.adapter
    if adapter is not None and (gone := learnt_from_gone(adapter)) is not None:
        again = "assembled" if adapter.is_recipe else "trained"
        return f"Your adapter {gone}: ask to be {again} again, and the new one is made without it"
    return one.warning and "Your assembly is stale, and waits to be made again; the base answers"


def with_changes(one: Assignment, changes: Mapping[str, Any]) -> Assignment:
    """Returns the same with other settings of its request, where they are given."""
    return replace(one, request=replace(one.request, **{k: v for k, v in changes.items() if v is not None}))


def check_answered(one: Assignment, adapter: str | None) -> None:
    """Raises a SupersededError where the adapter that answered is not the assigned one."""
    own = one.request.adapter
    if adapter != (own.id if own else None):
        raise SupersededError("Another adapter answered than was asked; the answer is kept back", hint="ask again")


def check_there(home: Home, one: Assignment) -> None:
    """Raises a SupersededError where something that the answer is made from was deleted since the request came."""
    store, own, task = home.store, one.request.adapter, one.task.name
    if own is not None and not store.still_there([own.id]):
        raise _deleted("The adapter was")
    if one.known and not store.knows(task, one.user):
        raise _deleted("The user was")
    if one.retrieved and not has_records(store, task, one.user, one.retrieved):
        raise _deleted("A record that the prompt shows was")
    if one.profile:
        profile = store.profile(task, one.user)
        if profile is None or profile.text != one.profile:
            raise _deleted("The profile that the prompt shows was replaced or")


def _deleted(what: str) -> SupersededError:
    return SupersededError(f"{what} deleted during the answer; the answer is kept back", hint="ask again")
