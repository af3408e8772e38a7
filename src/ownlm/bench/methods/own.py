"""A LoRA adapter for each user, trained on the user's history (OPPU)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from ownlm.bench.case import AS_PLANNED, BASE, Case, Changes, raise_first
from ownlm.bench.methods.method import Made, Method, Records, asking
from ownlm.bench.results import Costs
from ownlm.bench.warnings import of_adapters
from ownlm.errors import ConfigError
from ownlm.history.record import History, Record
from ownlm.history.task import Task, load_task
from ownlm.home import Home
from ownlm.prompt.example import retrieval_document, retrieval_query

Format = Literal["task", "answers", "inputs", "text"]

FREE: Final = load_task("free-text")


def own(
    case: Case, *, format: Format = "task", rag: Records = 0, profile: bool = False, preset: str | None = None,
    adapt: Changes = AS_PLANNED, **train: Any,
) -> Made:  # fmt: skip
    """Trains a LoRA adapter for each user on the adapted base (stage 2).

    Args:
        format: What is learnt of a record: the task as it is asked; or as plain text its answer, its input, or both.
        rag: Number of the user's records that a prompt shows, in training and in asking.
        profile: Whether a prompt shows the user's text profile, in training and in asking.
        preset: "paper" or "small"; by default the one for the base's size.
        adapt: Settings of stage 1 that differ from the plan's.
        train: Settings that differ from the preset, by their names in `TrainConfig` and its parts: learning_rate,
            epochs, recent, r, ...

    Raises:
        ConfigError: Plain text with records or a profile. OwnlmError: The training of a user failed; finished
            adapters are kept.

    Source: OPPU (arXiv 2402.04401), section 3; formats: its section on history formats.
    """
    check({"format": format, "rag": rag, "profile": profile}, None)
    if format != "task":
        return _on_text(case, format, case.adapted(adapt), {"preset": preset, **train})
    return train_own(case, rag, profile, adapt, {"preset": preset, **train})


def train_own(case: Case, rag: int, profile: bool, adapt: Changes, train: dict[str, Any]) -> Made:
    """Adapters of any method of `Home.train`, for `own`, `ia3` and `prompt`."""
    how = {"rag": rag, "profile": profile, **train}
    home = case.home("own", case.adapted(adapt), how)
    if profile:
        case.profile(home)
    return asking(case, home, _trained(case, home, how), rag=rag, profile=profile)


def _on_text(case: Case, format: Format, base: Path, train: dict[str, Any]) -> Made:
    """Adapters that learn plain text and answer under the prompts of the case's own task."""
    texts = {user: texts_of(case.task, history, format) for user, history in case.histories.items()}
    free = replace(case, data=replace(case.data, task=FREE, targets=texts))
    home = free.home("own", base, train)
    costs = _trained(free, home, train)
    case.loaded(home)
    newest = {user: adapter for (_, user), adapter in home.latest_adapters(FREE.name).items()}
    return Made(lambda queries: case.generate(home, queries, case.retrieving(0), newest), costs)


def _trained(case: Case, home: Home, how: dict[str, Any]) -> Costs:
    """Trains the users' adapters in a home; returns the costs that the home keeps, the same after a killed run."""
    done = home.train(case.task.name, users=case.users, base=BASE, seed=case.seed, progress=case.progress, **how)
    raise_first(done.failed)
    made = case.newest(home)
    case.warnings.extend(of_adapters(made))
    return Costs(
        train_seconds=sum(one.seconds for one in made),
        train_tokens=sum(one.tokens for one in made),
        bytes_per_user=sum(one.bytes for one in made) / len(made),
    )


def texts_of(task: Task, history: History, format: Format) -> History:
    """A history of the free-text task: the text of each record without the task's own words; blank ones left out."""
    said = [(record, _text(task, record, format).strip()) for record in history.records]
    records = (Record(one.user_id, one.id, {"text": text}, one.time) for one, text in said if text)
    return History(history.user_id, tuple(records))


def _text(task: Task, record: Record, format: Format) -> str:
    if format == "answers":
        return record.fields.get(task.options.right if task.options else task.answer_field, "")
    return retrieval_query(task, record.fields) if format == "inputs" else retrieval_document(task, record)


def check(given: Mapping[str, Any], task: Task | None) -> None:
    """Raises a ConfigError where adapters that learn plain text are to be shown records or a profile."""
    format = given.get("format", "task")
    if format != "task" and (given.get("rag") or given.get("profile")):
        raise ConfigError(
            "Plain-text formats cannot be combined with rag or profile",
            got=f"format {format!r} with {'rag' if given.get('rag') else 'profile'}",
            hint="leave one of them out",
        )


METHOD = Method("own", own, check, learns=True)
