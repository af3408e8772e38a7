"""Asking: each query answered by its person's own adapter, many people's in one batch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ownlm.answer.ask import Question, answer
from ownlm.config import LoraConfig, PromptConfig, TrainConfig
from ownlm.errors import AdapterError, NotFoundError, OwnlmError, TaskError
from ownlm.history.record import Query
from ownlm.history.task import Task
from ownlm.model.adapter import Adapter
from ownlm.model.base import BaseLM
from ownlm.oppu.examples import check_length
from ownlm.progress import Progress
from ownlm.prompt.example import query_prompt
from ownlm.store.store import AdapterInfo, BaseInfo, Store
from ownlm.verbs.report import Answer

PEOPLE_AT_ONCE = 16  # whose adapters are in memory together
QUERIES_AT_ONCE = 256  # how many answers may wait for each other


@dataclass(frozen=True, slots=True)
class Asking:
    """How queries are to be answered."""

    task: Task
    choose: bool
    rag: int | None  # None: as many records as the adapter, or the adapted base, was trained with


@dataclass(frozen=True, slots=True)
class Asked:
    """A query, and what is to answer it: an adapter on its base, or a base alone."""

    query: Query
    base: BaseInfo
    adapter: AdapterInfo | None


def answer_queries(
    store: Store, load: Callable[[BaseInfo], BaseLM], asked: Sequence[Asked], how: Asking, progress: Progress
) -> Iterator[Answer]:
    """Answers in mixed batches, a batch at a time, in the queries' order within a batch.

    A query that cannot be answered gets an Answer that says why; the others go on.
    """
    if how.choose and not how.task.labels:
        raise TaskError(
            f"Task {how.task.name!r} has no labels to choose among",
            hint="ask without --choose, or add labels to the task",
        )
    done = 0
    progress("answers", 0, len(asked))
    for batch in _batches(asked):

        def on_done(count: int) -> None:
            nonlocal done
            done += count
            progress("answers", done, len(asked))

        yield from _answer_batch(store, load(batch[0].base), batch, how, on_done)
    progress("answers", len(asked), len(asked))


def _batches(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    """Queries that can share a bank: one base, one shape of adapter, not too many people."""
    batch: list[Asked] = []
    for one in asked:
        people = {each.query.user_id for each in batch} | {one.query.user_id}
        fits = len(people) <= PEOPLE_AT_ONCE and len(batch) < QUERIES_AT_ONCE
        if batch and not (fits and _shape(one) == _shape(batch[0])):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def _shape(asked: Asked) -> tuple[str, str | None]:
    return asked.base.name, None if asked.adapter is None else str(sorted(asked.adapter.lora.items()))


def _answer_batch(
    store: Store, base: BaseLM, batch: Sequence[Asked], how: Asking, on_done: Callable[[int], None]
) -> Iterator[Answer]:
    adapters: dict[str, Adapter] = {}
    answers: list[Answer] = []
    questions: list[Question] = []
    for one in batch:
        result = Answer(one.query, adapter=one.adapter.id if one.adapter else None, base=one.base.name)
        try:
            if one.adapter is not None and one.adapter.id not in adapters:
                adapters[one.adapter.id] = load_adapter(store, one.adapter, base)
            prompt, retrieved = _prompt(store, base, one, how)
            questions.append(Question(prompt, result.adapter))
            answers.append(replace(result, retrieved=retrieved))
        except OwnlmError as error:
            answers.append(replace(result, error=error))
            on_done(1)
    labels = (how.task.labels or ()) if how.choose else ()
    texts = iter(
        answer(base, adapters, questions, labels=labels, max_new_tokens=how.task.max_new_tokens, on_done=on_done)
    )
    for result in answers:
        yield result if result.error else replace(result, answer=next(texts))


def _prompt(store: Store, base: BaseLM, asked: Asked, how: Asking) -> tuple[list[int], tuple[str, ...]]:
    query, made = asked.query, asked.adapter.provenance if asked.adapter else asked.base.provenance
    shown = TrainConfig.model_validate(made["config"]).prompt if made else PromptConfig()
    if how.rag is not None:
        shown = shown.model_copy(update={"rag": how.rag})
    history = store.history(how.task.name, query.user_id)
    text, retrieved = query_prompt(how.task, query.fields, history, **shown.model_dump())
    prompt = base.encode_prompt(text)
    check_length(base, prompt, how.task.max_new_tokens, f"The query {query.id!r} of user {query.user_id!r}")
    return prompt, retrieved


def load_adapter(store: Store, info: AdapterInfo, base: BaseLM) -> Adapter:
    """A person's adapter, checked against the base it is to run on.

    Raises:
        AdapterError: it was trained on another base.
        StoreError: its blob is missing or damaged.
    """
    if info.base_fingerprint != base.fingerprint:
        raise AdapterError(
            f"The adapter of user {info.user!r} was trained on another base",
            got=f"{base.name!r} ({base.fingerprint[:12]})",
            expected=f"{info.base!r} ({info.base_fingerprint[:12]})",
            hint="train the person again",
        )
    return Adapter.from_bytes(store.blobs.get(info.blob), LoraConfig.model_validate(info.lora))


def who_answers(store: Store, query: Query, task: Task, base: BaseInfo | None, base_only: bool) -> Asked:
    """A person's newest adapter on its base; or the base alone.

    Args:
        base: answer with this one; needed for `base_only`.

    Raises:
        NotFoundError: the home does not know the person, or has no adapter of theirs (on this base).
    """
    mine = store.adapters(task.name, query.user_id)
    if base_only and base is not None:
        return Asked(query, base, None)
    if base is not None:
        mine = [adapter for adapter in mine if adapter.base == base.name]
    if not mine:
        on = "" if base is None else f" on the base {base.name!r}"
        raise NotFoundError(
            f"User {query.user_id!r} has no adapter for task {task.name!r}{on}",
            hint=f"`ownlm train --task {task.name} --user {query.user_id}`, or ask with --base-only",
        )
    return Asked(query, store.base(mine[-1].base), mine[-1])
