"""What sharers' pieces are made of: an adapter each, then the gates upon it, looked up or trained.

Each is kept soon after it is done. It is found again by a key that depends on nothing else than its weights do: not on
how sharers are chosen, on who else is, nor on what of it goes into a pool.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ownlm.config import TrainConfig
from ownlm.errors import NotFoundError, OwnlmError
from ownlm.history.labels import check_history
from ownlm.history.record import History
from ownlm.model.adapter import Adapter
from ownlm.model.base import BaseLM
from ownlm.oppu.examples import tokenize
from ownlm.oppu.fleet import Job, Run, job_seed, train_fleet
from ownlm.oppu.memory import TOKENS_UNDER_DROPOUT, room_for
from ownlm.progress import Progress
from ownlm.prompt.example import history_examples
from ownlm.store.blobs import blob_name
from ownlm.store.drafts import ADAPTER, GATES, add_drafts, drafts
from ownlm.store.records import no_longer_shared
from ownlm.store.rows import DraftInfo, ProfileInfo, history_digest
from ownlm.store.store import Store
from ownlm.workflows.plan import digest, versions
from ownlm.workflows.profile import shown
from ownlm.workflows.report import Drafted
from ownlm.workflows.share_plan import SharePlan
from ownlm.workflows.train import Meter
from ownlm.workflows.writer import BackgroundWriter

Gates = dict[str, Tensor]  # by module, g_D
Weights = TypeVar("Weights")  # an adapter, or gates


@dataclass(frozen=True, slots=True)
class Sharer:
    """What a person who was chosen is trained on; the home may learn more, or forget, meanwhile."""

    history: History
    profile: ProfileInfo | None

    @classmethod
    def of(cls, store: Store, plan: SharePlan, user: str) -> "Sharer":
        """As they are now."""
        history = store.history(plan.task.name, user)
        # After the records: forgetting one of them takes the profile away too.
        return cls(history, store.profile(plan.task.name, user) if plan.config.prompt.profile else None)


@dataclass(frozen=True, slots=True)
class Drafting:
    """Whose drafts are made, with what, and who is told.

    Attributes:
        sharers: whoever was chosen, in their order.
        failed: gets whose training fails.
    """

    store: Store
    model: BaseLM
    plan: SharePlan
    sharers: Mapping[str, Sharer]
    failed: list[tuple[str, OwnlmError]]
    progress: Progress

    def jobs(self, config: TrainConfig, users: Iterable[str], frozen: Mapping[str, Adapter] | None = None) -> list[Job]:
        """These people's jobs; who has none is added to the failed."""
        jobs = []
        for user in users:
            own = {} if frozen is None else {"frozen": frozen[user]}
            try:
                jobs.append(self._job(config, user, **own))
            except OwnlmError as error:
                self.failed.append((user, error))
        return jobs

    def _job(self, config: TrainConfig, user: str, **more: Any) -> Job:
        one = self.sharers[user]
        show = shown(config.prompt, user, one.profile)
        check_history(self.plan.task, one.history)
        examples = history_examples(self.plan.task, one.history, recent=config.recent, since=config.since, **show)
        return Job(user, tokenize(self.model, user, examples), secret(self.plan, one.history), **more)


def secret(plan: SharePlan, history: History) -> int:
    """A seed that nobody knows who has not the history.

    The pool tells the plan's own seed: with it and a guessed name, fresh weights could be compared with the pieces.
    """
    return job_seed(plan.seed, history_digest(history))


@dataclass(frozen=True, slots=True)
class _Kind(Generic[Weights]):
    """A kind of draft.

    Attributes:
        stage: what progress calls the making of them.
        trained: the weights that a run came to.
        written, read: to the bytes that are kept, and back.
        how: arguments of `train_fleet`.
    """

    name: str
    stage: str
    config: TrainConfig
    trained: Callable[[Run], Weights]
    written: Callable[[Weights], bytes]
    read: Callable[[bytes], Weights]
    how: Mapping[str, Any] = field(default_factory=dict)


def adapters_of(drafting: Drafting) -> tuple[dict[str, Adapter], Drafted]:
    """Everybody's adapter, by user, but for whose training failed.

    Raises:
        NotFoundError: somebody does not agree any more, or was forgotten meanwhile; what others' training came to is
            kept. StoreError: the home cannot be written.
    """
    plan = drafting.plan

    def trained(run: Run) -> Adapter:
        assert isinstance(run.adapter, Adapter)
        return run.adapter

    def read(data: bytes) -> Adapter:
        return Adapter.from_bytes(data, plan.config.lora)

    kind = _Kind(ADAPTER, "sharers' adapters", plan.config, trained, Adapter.to_bytes, read)
    return _drafted(drafting, kind, {user: _key(plan, plan.config, one) for user, one in drafting.sharers.items()})


def gates_of(drafting: Drafting, adapters: Mapping[str, Adapter]) -> tuple[dict[str, Gates], Drafted]:
    """The gates upon these adapters, by user, but for whose training failed.

    Raises:
        NotFoundError, StoreError: as `adapters_of`.
    """
    plan, sharers = drafting.plan, drafting.sharers

    def trained(run: Run) -> Gates:
        assert run.scales is not None
        return run.scales

    how = {"scaled": "gates", "frozen": plan.config.lora}
    kind = _Kind(GATES, "gates", plan.gate, trained, save_tensors, load_tensors, how)
    keys = {  # trained upon other numbers, be it by a rounding, gates are others
        user: _key(plan, plan.gate, sharers[user], blob_name(adapter.to_bytes())) for user, adapter in adapters.items()
    }
    return _drafted(drafting, kind, keys, adapters)


def _key(plan: SharePlan, config: TrainConfig, sharer: Sharer, *more: str) -> str:
    """A digest of all that weights depend on; versions of what computes are among it, since a pool tells them."""
    about = sharer.profile.text if sharer.profile and config.prompt.profile else ""
    tokens = (plan.tokens_per_step or TOKENS_UNDER_DROPOUT) if config.lora_dropout else 0  # they decide the masks
    return digest(
        plan.task.model_dump_json(), plan.base.fingerprint, config.model_dump_json(), plan.seed, tokens,
        sorted(versions().items()), history_digest(sharer.history), about, *more,
    )  # fmt: skip


def _drafted(
    drafting: Drafting,
    kind: _Kind[Weights],
    keys: Mapping[str, str],
    frozen: Mapping[str, Adapter] | None = None,
) -> tuple[dict[str, Weights], Drafted]:
    """Everybody's weights of a kind: read where a draft has the key, else trained.

    Args:
        keys: whose, in their order.
        frozen: the adapters that gates are trained upon.
    """
    there = _read(drafting, kind, keys)
    if there:
        drafting.progress(kind.stage, len(there), len(keys), "were there")
    jobs = drafting.jobs(kind.config, [user for user in keys if user not in there], frozen)
    made = _trained(drafting, kind, keys, jobs) if jobs else {}
    every = there | made
    return {user: every[user] for user in keys if user in every}, Drafted(len(made), len(there))


def _read(drafting: Drafting, kind: _Kind[Weights], keys: Mapping[str, str]) -> dict[str, Weights]:
    """The weights that are there. A draft that has lost its weights, or whose weights are damaged, is trained anew."""
    plan, found = drafting.plan, dict[str, Weights]()
    for draft in drafts(drafting.store, plan.task.name):
        if draft.kind == kind.name and draft.key == keys.get(draft.user):
            with suppress(OwnlmError):
                found[draft.user] = kind.read(drafting.store.blobs.get(draft.blob))
    return found


def _trained(drafting: Drafting, kind: _Kind[Weights], keys: Mapping[str, str], jobs: list[Job]) -> dict[str, Weights]:
    """Trains jobs in a fleet; each is kept soon after it is done, and whose training fails is added to the failed."""
    plan, config = drafting.plan, kind.config
    room = room_for(drafting.model, config, plan.slots, plan.tokens_per_step)
    steps = sum(config.steps_for(len(job.examples)) for job in jobs)
    meter, made, gone = Meter(drafting.progress, f"{kind.stage}, steps", steps), dict[str, Weights](), list[str]()
    histories = {user: one.history for user, one in drafting.sharers.items()}

    def told(draft: DraftInfo, error: NotFoundError | None) -> None:
        if error:
            gone.append(draft.user)
        else:
            meter.users += 1

    with BackgroundWriter(partial(add_drafts, drafting.store, histories), room.waiting, told) as keeper:
        for run in train_fleet(
            drafting.model, jobs, config, slots=room.slots, tokens_per_step=room.tokens_per_step,
            workers=room.workers, on_step=meter.on_step, **kind.how,
        ):  # fmt: skip
            user = run.job.user
            if run.error:
                drafting.failed.append((user, run.error))
                continue
            made[user] = kind.trained(run)
            of_run = {"tokens": run.tokens, "seconds": round(run.seconds, 3)}
            keeper.put(partial(_kept, plan, kind.name, user, keys[user], partial(kind.written, made[user]), of_run))
    if gone:
        raise no_longer_shared(plan.task.name, gone)
    return made


def _kept(
    plan: SharePlan, kind: str, user: str, key: str, written: Callable[[], bytes], of_run: Mapping[str, Any]
) -> tuple[DraftInfo, bytes]:
    """A draft as it is stored."""
    weights = written()
    fingerprint, blob = plan.base.fingerprint, blob_name(weights)
    return DraftInfo(user, plan.task.name, fingerprint, kind, key, blob, len(weights), **of_run), weights
