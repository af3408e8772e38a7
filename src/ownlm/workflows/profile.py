"""Writes users' text profiles, which their prompts show."""

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from ownlm.config import PromptConfig
from ownlm.errors import ConfigError, DataError, NotFoundError, OwnlmError, argument, many
from ownlm.history.record import Record
from ownlm.history.task import Task
from ownlm.progress import Progress
from ownlm.prompt.profile import OPENING, RECORDS, answered, cleaned, counted, request
from ownlm.store.records import no_user_has_records, unknown_user
from ownlm.store.rows import BaseInfo, ProfileInfo, history_digest
from ownlm.store.store import Store
from ownlm.workflows.plan import pick_raw_base
from ownlm.workflows.report import Profiles

if TYPE_CHECKING:  # counting and endpoints need no torch
    from ownlm.inference.endpoint import Endpoint
    from ownlm.inference.engine import Engine
    from ownlm.model.base import BaseLM

KEY = "OWNLM_PROFILE_KEY"  # the environment variable with an endpoint's key
USERS_AT_ONCE = 64  # requests to a base that are in memory together
NEW_TOKENS = 96
NAMED = 10  # users that are named before their records leave the machine


def shown(config: PromptConfig, user: str, profile: ProfileInfo | None) -> dict[str, Any]:
    """The settings of a user's prompts, as arguments of `history_examples` and `query_prompt`.

    Raises:
        NotFoundError: prompts show a profile, and the user has none.
    """
    if config.profile and profile is None:
        raise NotFoundError(f"User {user!r} has no profile", hint="write it", command="ownlm profile --task T")
    return config.model_dump() | {"profile": profile.text if config.profile and profile else ""}


@dataclass(frozen=True, slots=True)
class Subject:
    """A user to write a profile of."""

    user: str
    history: str  # digest of the whole history
    records: tuple[Record, ...]  # the records for the profile, oldest first


Texts = Generator[tuple[Subject, str | OwnlmError], None, None]  # each user's profile, or the error of writing it


@dataclass(frozen=True, slots=True)
class Writer:
    """A way of writing profiles."""

    name: str  # stored with the profiles
    records: int | None  # number of latest records that it reads; None for all
    write: Callable[[Iterator[Subject]], Texts]


def pick_writer(
    store: Store,
    engine: Callable[[], "Engine"],
    task: Task,
    base: str | None,
    url: str | None,
    model: str | None,
    counted: bool,
    tell: Callable[[str], None],
) -> Writer:
    """The writer that the settings name: a base of the home, an endpoint, or counting.

    Raises:
        ConfigError: the settings name several writers, or an endpoint that cannot be used.
        NotFoundError: the home has no such base.
        TaskError: the task has no labels to count.
    """
    if (base is not None) + (url is not None) + counted > 1 or (url is None) != (model is None):
        raise ConfigError("Name exactly one profile writer", expected="a base, an endpoint with its model, or counting")
    if counted:
        return _counting(task)
    if url is not None and model is not None:
        from ownlm.inference.endpoint import Endpoint

        endpoint = Endpoint(url, model, os.environ.get(KEY, "").strip() or None)
        name = f"{model} at {endpoint.host}"
        return Writer(name, RECORDS, lambda subjects: _by_endpoint(endpoint, task, list(subjects), tell))
    info = pick_raw_base(store, base)
    return Writer(f"base {info.name}", RECORDS, lambda subjects: _by_base(engine(), info, task, subjects))


def write_profiles(
    store: Store, task: Task, users: Sequence[str], writer: Writer, progress: Progress, report: Profiles
) -> Profiles:
    """Writes the profiles of users that have none from this writer and their current history.

    Each profile is stored at once, and each outcome goes into the report.

    Raises:
        NotFoundError: a named user has no records, or no user has any.
        OwnlmError: the writer cannot be used; profiles so far are stored.
    """
    histories = {one.user: one.history for one in store.histories(task.name)}
    if missing := [user for user in users if user not in histories]:
        raise unknown_user(store, missing[0], task.name)
    if not histories:
        raise no_user_has_records(task.name)
    latest, wanted = store.latest_profiles(task.name), list[str]()
    for user in dict.fromkeys(users) or histories:
        last = latest.get(user)
        if last and (last.history, last.writer) == (histories[user], writer.name):
            report.skipped.append((user, "up to date"))
        else:
            wanted.append(user)
    if not wanted:
        return report
    place = {user: number for number, user in enumerate(wanted)}
    done = 0
    progress("profiles", done, len(wanted))
    try:
        with closing(writer.write(_subjects(store, task, wanted, writer.records, report))) as texts:
            for done, (subject, text) in enumerate(texts, 1):
                _keep(store, task, writer, subject, text, report)
                progress("profiles", done, len(wanted))
        if done < len(wanted):  # the others have no records to write from
            progress("profiles", len(wanted), len(wanted))
    finally:  # an endpoint answers in any order
        report.written.sort(key=lambda written: place.get(written[0].user, -1))
        report.failed.sort(key=lambda failed: place.get(failed[0], -1))
    return report


def _subjects(store: Store, task: Task, users: Sequence[str], count: int | None, report: Profiles) -> Iterator[Subject]:
    for user in users:
        history = store.history(task.name, user)
        records = answered(task, history)
        if not history.records:
            report.skipped.append((user, "forgotten during this run"))
        elif records:
            yield Subject(user, history_digest(history), tuple(records if count is None else records[-count:]))
        else:
            what = f"User {user!r} has no record with an answer, and so nothing to write a profile from"
            error = DataError(what, hint="look at the records", command=f"ownlm history show {argument(user)}")
            report.failed.append((user, error))


def _keep(store: Store, task: Task, writer: Writer, subject: Subject, text: str | OwnlmError, report: Profiles) -> None:
    """Stores a profile, or reports why there is none."""
    if isinstance(text, str) and not (text := cleaned(text)):
        text = OwnlmError(
            f"The profile of user {subject.user!r} is empty", expected="a few words", hint="try another writer"
        )
    if isinstance(text, OwnlmError):
        report.failed.append((subject.user, text))
        return
    profile = ProfileInfo(task.name, subject.user, text, writer.name, subject.history)
    try:
        store.add_profile(profile)
    except NotFoundError as error:
        if store.knows(task.name, subject.user):
            report.failed.append((subject.user, error))
        else:
            report.skipped.append((subject.user, "forgotten during this run"))
    else:
        report.written.append((profile, len(subject.records)))


def _counting(task: Task) -> Writer:
    counted(task, [])  # raises an error for a task without labels
    return Writer("counted", None, lambda subjects: ((one, counted(task, one.records)) for one in subjects))


def _by_base(engine: "Engine", info: BaseInfo, task: Task, subjects: Iterator[Subject]) -> Texts:
    """Profiles by a base, many users in one batch."""
    from ownlm.inference.request import Request

    base = engine.load(info)
    while some := list(islice(subjects, USERS_AT_ONCE)):
        fitting, requests = list[Subject](), list[Request]()
        for subject in some:
            try:
                shortened, tokens = _fitted(base, task, subject)
            except DataError as error:
                yield subject, error
            else:
                fitting.append(shortened)
                requests.append(Request(info, None, tuple(tokens), NEW_TOKENS))
        for subject, output in zip(fitting, engine.generate(requests), strict=True):
            yield subject, output.error or (f"{OPENING} {output.text}" if cleaned(output.text) else "")


def _fitted(base: "BaseLM", task: Task, subject: Subject) -> tuple[Subject, list[int]]:
    """A subject with as many latest records as the base's context holds, and the request's tokens."""
    for first in range(len(subject.records)):
        records = subject.records[first:]
        tokens = base.encode_chat(request(task, records), OPENING)
        if len(tokens) + NEW_TOKENS <= base.max_tokens:
            return replace(subject, records=records), tokens
    raise DataError(
        f"The latest record of user {subject.user!r} is longer than the context of the base {base.name!r}",
        got=f"{len(tokens) + NEW_TOKENS} tokens, with the request and the answer",
        expected=f"at most {base.max_tokens}",
        hint="choose a base with a longer context",
    )


def _by_endpoint(endpoint: "Endpoint", task: Task, subjects: Sequence[Subject], tell: Callable[[str], None]) -> Texts:
    """Profiles by an endpoint; the users are named before their records are sent."""
    from ownlm.inference.endpoint import answers

    if not subjects:
        return
    named = ", ".join(f"{one.user} ({len(one.records)})" for one in subjects[:NAMED])
    others = f" and {len(subjects) - NAMED:,} more users" if len(subjects) > NAMED else ""
    tell(
        f"sending {many(sum(len(one.records) for one in subjects), 'record')} to {endpoint.host}, for the model "
        f"{endpoint.model}{'' if endpoint.encrypted or endpoint.local else ', NOT ENCRYPTED'}: {named}{others}"
    )
    by_user = {one.user: one for one in subjects}
    questions = {user: request(task, one.records) for user, one in by_user.items()}
    with closing(answers(endpoint, questions)) as given:
        for user, text in given:
            yield by_user[user], text
