"""Asking: each query answered by its person's own adapter, many people's in one batch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ownlm.answer.ask import Question, answer
from ownlm.answer.peft_answer import answer_with_peft
from ownlm.config import PromptConfig, TrainConfig
from ownlm.errors import NotFoundError, OwnlmError, TaskError
from ownlm.history.record import History, Query
from ownlm.history.task import Task
from ownlm.model.adapter import Adapter
from ownlm.model.base import BaseLM
from ownlm.model.peft_adapter import PeftAdapter
from ownlm.oppu.examples import check_length
from ownlm.progress import Progress
from ownlm.prompt.example import query_prompt
from ownlm.store.rows import AdapterInfo, BaseInfo
from ownlm.store.store import Store
from ownlm.verbs.load import load_adapter, load_peft_adapter
from ownlm.verbs.profile import shown
from ownlm.verbs.report import Answer

PEOPLE_AT_ONCE = 16  # whose adapters are in memory together
QUERIES_AT_ONCE = 256  # how many answers may wait for each other

Show = Mapping[str, int | bool | None]  # settings of `PromptConfig`; None as in training


@dataclass(frozen=True, slots=True)
class Assignment:
    """A query, and what is to answer it: an adapter on its base, or a base alone."""

    query: Query
    task: Task  # the one the adapter was trained for, whatever the task file says now
    base: BaseInfo
    adapter: AdapterInfo | None

    @property
    def shape(self) -> tuple[str, str, str]:
        """What assignments that are answered together have in common: a bank, or one adapter that peft puts on."""
        if self.adapter is None:
            adapter = ""
        elif self.adapter.method == "lora":
            adapter = str(sorted(self.adapter.shape.items()))
        else:
            adapter = self.adapter.id
        return self.base.name, adapter, self.task.model_dump_json()


def assign(store: Store, query: Query, task: Task, base: BaseInfo | None, base_only: bool) -> Assignment:
    """A person's newest adapter on its base; or the base alone.

    Args:
        base: answer with this one; needed for `base_only`.

    Raises:
        NotFoundError: the home does not know the person, or has no adapter of theirs (on this base).
    """
    if not store.knows(task.name, query.user_id):
        raise NotFoundError(
            f"The home has no records of user {query.user_id!r} in task {task.name!r}", hint="`ownlm users ls`"
        )
    if base_only and base is not None:
        return Assignment(query, task, base, None)
    mine = [
        adapter for adapter in store.adapters(task.name, query.user_id) if base is None or adapter.base == base.name
    ]
    if not mine:
        on, option = ("", "") if base is None else (f" on the base {base.name!r}", f" --base {base.name}")
        raise NotFoundError(
            f"User {query.user_id!r} has no adapter for task {task.name!r}{on}",
            hint=f"`ownlm train --task {task.name} --user {query.user_id}{option}`, or ask with --base-only",
        )
    trained_for = Task.model_validate(mine[-1].provenance["task"])
    return Assignment(query, trained_for, store.base(mine[-1].base), mine[-1])


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
    for place, one in sorted(waiting.items(), key=lambda item: (item[1].shape, first[item[1].query.user_id])):
        people.add(one.query.user_id)
        fits = len(people) <= PEOPLE_AT_ONCE and len(batch) < QUERIES_AT_ONCE
        if batch and not (fits and one.shape == batch[0][1].shape):
            yield batch
            batch, people = [], {one.query.user_id}
        batch.append((place, one))
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
    other: PeftAdapter | None = None  # of another method than LoRA: everybody's then, see `Assignment.shape`
    histories: dict[str, History] = {}
    results: list[Answer] = []
    questions: list[Question] = []
    for one in batch:
        result = Answer(one.query, adapter=one.adapter.id if one.adapter else None, base=one.base.name)
        try:
            if choose and not one.task.labels:
                raise TaskError(f"Task {one.task.name!r} has no labels to choose among", hint="ask without --choose")
            if one.adapter is not None and one.adapter.method != "lora":
                other = other or load_peft_adapter(store, one.adapter, base)
            elif one.adapter is not None and one.adapter.id not in adapters:
                adapters[one.adapter.id] = load_adapter(store, one.adapter, base)
            prompt, retrieved = _prompt(store, base, one, show, histories)
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
    if other is None:
        texts = iter(answer(base, adapters, questions, **how))
    else:
        texts = iter(answer_with_peft(base, other, questions, **how))
    return [result if result.error else replace(result, answer=next(texts)) for result in results]


def _prompt(
    store: Store, base: BaseLM, one: Assignment, show: Show, histories: dict[str, History]
) -> tuple[list[int], tuple[str, ...]]:
    query, made = one.query, one.adapter.provenance if one.adapter else one.base.provenance
    config = TrainConfig.model_validate(made["config"]).prompt if made else PromptConfig()
    config = config.model_copy(update={name: value for name, value in show.items() if value is not None})
    if config.rag and query.user_id not in histories:
        histories[query.user_id] = store.history(one.task.name, query.user_id)
    history = histories.get(query.user_id, History(query.user_id, ()))
    profile = store.profile(one.task.name, query.user_id) if config.profile else None
    if profile is None and show.get("profile") is None:  # forgotten since training
        config = config.model_copy(update={"profile": False})
    text, retrieved = query_prompt(one.task, query.fields, history, **shown(config, query.user_id, profile))
    prompt = base.encode_prompt(text)
    what = f"The query {query.id!r} of user" if query.id else "The text asked of user"
    virtual = one.adapter.shape.get("num_virtual_tokens", 0) if one.adapter else 0
    check_length(base, prompt, virtual + one.task.max_new_tokens, f"{what} {query.user_id!r}")
    return prompt, retrieved
