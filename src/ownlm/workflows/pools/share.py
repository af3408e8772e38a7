"""Sharing: users who agree have adapters and gates trained, and pieces of them go into a pool.

Adapters and gates are stored as drafts, each once it is done. A draft is found again by a digest of all that its
weights depend on. The digest leaves out how sharers are selected, the other sharers, and which pieces go into a pool.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ownlm.config import TrainConfig
from ownlm.errors import ConfigError, NotFoundError, OwnlmError
from ownlm.filesystem import folder_bytes
from ownlm.history.record import History
from ownlm.model.adapter import Adapter
from ownlm.model.base import BaseLM
from ownlm.model.targets import target_modules
from ownlm.oppu.examples import tokenize
from ownlm.oppu.fleet import Job, Run, job_seed, train_fleet
from ownlm.oppu.memory import room_for
from ownlm.perpcs.admission import admit
from ownlm.perpcs.assemble import Target
from ownlm.perpcs.embedding import embed_histories, embed_with
from ownlm.perpcs.equations import centred
from ownlm.perpcs.features import mean_features
from ownlm.perpcs.piece import Piece, kept_modules, new_sharer_id
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.sharers import Candidate, choose_sharers
from ownlm.perpcs.version import PoolHead, write_pool
from ownlm.progress import Progress
from ownlm.prompt.example import retrieval_document
from ownlm.store import pools
from ownlm.store.blobs import blob_name
from ownlm.store.drafts import ADAPTER, GATES, add_drafts, drafts
from ownlm.store.records import no_longer_shared
from ownlm.store.rows import DraftInfo, ProfileInfo, history_digest
from ownlm.workflows.plan import SharePlan, digest, versions
from ownlm.workflows.pools.lineage import new_pool_folder, pool_info, signing_key, version_of
from ownlm.workflows.pools.report import Drafted, Shared
from ownlm.workflows.selection import own_examples
from ownlm.workflows.train import Meter
from ownlm.workflows.writer import BackgroundWriter

Gates = dict[str, Tensor]  # by module, g_D
Weights = TypeVar("Weights")  # an adapter, or gates


@dataclass(frozen=True, slots=True)
class Sharer:
    """The data that a selected user is trained on, as it was when training began."""

    history: History
    profile: ProfileInfo | None

    @classmethod
    def of(cls, plan: SharePlan, user: str) -> "Sharer":
        """A user's data as it is now."""
        history = plan.store.history(plan.task.name, user)
        # read after the records: forgetting one removes the profile
        return cls(history, plan.store.profile(plan.task.name, user) if plan.config.prompt.profile else None)


@dataclass(frozen=True, slots=True)
class Drafting:
    """The making of drafts for the sharers of one plan.

    Attributes:
        model: the base.
        plan: settings.
        sharers: selected users and their data, in order.
        failed: collects users with failed training, each with the error.
        progress: called with steps done.
    """

    model: BaseLM
    plan: SharePlan
    sharers: Mapping[str, Sharer]
    failed: list[tuple[str, OwnlmError]]
    progress: Progress

    def jobs(self, config: TrainConfig, users: Iterable[str], frozen: Mapping[str, Adapter] | None = None) -> list[Job]:
        """The jobs of these users; a user without examples is added to the failed."""
        jobs = []
        for user in users:
            try:
                jobs.append(self._job(config, user, {} if frozen is None else {"frozen": frozen[user]}))
            except OwnlmError as error:
                self.failed.append((user, error))
        return jobs

    def _job(self, config: TrainConfig, user: str, more: Mapping[str, Any]) -> Job:
        one = self.sharers[user]
        examples = own_examples(self.plan.task, one.history, config, one.profile)
        return Job(user, tokenize(self.model, user, examples), secret(self.plan, one.history), **more)


def secret(plan: SharePlan, history: History) -> int:
    """A seed that only the history gives.

    The pool publishes the plan's own seed: with it and a guessed name, fresh weights could be compared with the pieces.
    """
    return job_seed(plan.options.seed, history_digest(history))


def share(plan: SharePlan, load: Callable[[], BaseLM], progress: Progress) -> Shared:
    """Selects sharers, trains their adapters and gates, and makes a pool of the pieces.

    Adapters and gates are stored as drafts soon after they are trained: after an interruption the same call continues
    from there. A pool is made whole or not at all.

    Args:
        plan: users and settings.
        load: gives the base; called if a user agrees to share.
        progress: called with what is done.

    Returns:
        The pool, and the users left out because their training failed. If all failed, the first error is raised.

    Raises:
        NotFoundError: no user agrees; or consent was withdrawn, or a user forgotten, during the call. Others' drafts
            are kept.
        DataError: no user has enough records.
        ConfigError: the selected users agreed to different licences.
        PoolError: a piece is not fit.
        StoreError: the pool cannot be written.
    """
    store, asked, agreed = plan.store, plan.options, pools.consents(plan.store)
    candidates, model = _candidates(plan, set(agreed)), load()
    embed = partial(_embeddings, plan, model, progress)
    chosen = choose_sharers(asked.select, candidates, asked.sharers, asked.seed, embed)
    licence = _one_licence(agreed, chosen)
    failed: list[tuple[str, OwnlmError]] = []
    drafting = Drafting(model, plan, {user: Sharer.of(plan, user) for user in chosen}, failed, progress)
    adapters, of_adapters = adapters_of(drafting)
    gates, of_gates = gates_of(drafting, adapters)
    chosen = [user for user in chosen if user in gates]
    if not chosen:
        raise failed[0][1]
    if asked.centre:
        gates = _centred(drafting, gates)
    ids = {user: new_sharer_id() for user in chosen}
    pool = _write(drafting, ids, adapters, gates, licence)
    try:
        admit(pool, dict(target_modules(model.model, pool.lora)), plan.base.fingerprint)
        info = pool_info(plan.task.name, plan.base, pool, own=True)
        histories = [drafting.sharers[user].history for user in chosen]
        users, licences = {ids[user]: user for user in chosen}, dict.fromkeys(chosen, licence)
        pools.add_pool(store, info, users, histories, licences, version_of(pool, key=pool.manifest.publisher))
    except OwnlmError:  # other exceptions may come after the commit; a folder that nothing names is swept later
        shutil.rmtree(pool.folder)
        raise
    return Shared(
        pool=info, bytes=folder_bytes(info.folder), candidates=len(candidates), sharers=chosen, failed=failed,
        adapters=of_adapters, gates=of_gates,
    )  # fmt: skip


def _one_licence(agreed: Mapping[str, tuple[str, str]], chosen: Sequence[str]) -> str:
    """The licence that all selected users agreed to; a ConfigError where there are several."""
    licences = sorted({agreed[user][0] for user in chosen})
    if len(licences) > 1:
        raise ConfigError(
            "The selected users agreed to share under different licences",
            got=f"{len(licences)} licences",
            expected="one licence for a pool",
            hint="name users with the same one, or ask for consent again",
        )
    return licences[0]


def _candidates(plan: SharePlan, agreed: set[str]) -> list[Candidate]:
    """Users who agree to share and have records of the task."""
    named, hint = set(plan.options.users), "`ownlm users consent USER --share`"
    if missing := sorted(named - agreed):
        raise NotFoundError(f"These users have not agreed to share: {', '.join(missing)}", hint=hint)
    among = sorted(named or agreed)
    found = [Candidate(one.user, one.records) for one in plan.store.histories(plan.task.name, among)]
    if not found:
        raise NotFoundError(f"No user with records for task {plan.task.name!r} has agreed to share", hint=hint)
    return found


def _embeddings(plan: SharePlan, model: BaseLM, progress: Progress, users: list[str]) -> Tensor:
    def texts() -> Iterator[list[str]]:
        for number, user in enumerate(users, 1):
            progress("embedding histories", number, len(users))
            records = plan.store.history(plan.task.name, user).records
            yield [retrieval_document(plan.task, record) for record in records]

    embedder = plan.options.embedder
    if embedder is None:
        return embed_histories(model, texts())
    return embed_with(embedder, texts(), str(model.device))


def _centred(drafting: Drafting, gates: dict[str, Gates]) -> dict[str, Gates]:
    """Gates that are blind to what these users' histories have in common."""
    if len(gates) == 1:
        raise ConfigError("Centring needs two sharers or more", got="one", hint="share without centring")
    jobs = drafting.jobs(drafting.plan.gate, gates)
    targets = [Target(job.user, job.examples) for job in jobs]
    mean = mean_features(drafting.model, drafting.plan.config.lora, targets)
    return {user: {n: centred(g_D[None], mean[n])[0] for n, g_D in own.items()} for user, own in gates.items()}


def _write(
    drafting: Drafting, ids: dict[str, str], adapters: dict[str, Adapter], gates: dict[str, Gates], licence: str
) -> Pool:
    """Writes the pool of these users' pieces, under random ids."""
    plan, modules = drafting.plan, target_modules(drafting.model.model, drafting.plan.config.lora)
    names = [name for name, _ in modules]
    seeds = {user: secret(plan, drafting.sharers[user].history) for user in ids}
    kept = {user: set(kept_modules(seed, user, names, plan.options.ratio)) for user, seed in seeds.items()}

    def pieces() -> Iterator[tuple[str, list[tuple[str, Piece]]]]:
        for name in names:
            pairs = {user: adapters[user].pairs[name] for user in ids if name in kept[user]}
            yield name, [(ids[user], Piece(own.A_RD, own.B_OR, gates[user][name])) for user, own in pairs.items()]

    head = PoolHead(plan.base.fingerprint, plan.config.lora, licence, plan.provenance(), list(ids.values()))
    shapes = {name: (module.out_features, module.in_features) for name, module in modules}
    return write_pool(new_pool_folder(plan.store), head, pieces(), shapes=shapes, key=signing_key(plan.store))


@dataclass(frozen=True, slots=True)
class _Kind(Generic[Weights]):
    """A kind of draft.

    Attributes:
        name: its name in the store.
        stage: its name in progress.
        config: settings of training.
        trained: takes the weights out of a finished run.
        written: turns weights into bytes.
        read: turns bytes into weights.
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
    """All sharers' adapters by user, without failed ones.

    Raises:
        NotFoundError: a user does not agree any more, or was forgotten during training; others' drafts are stored.
        StoreError: the home cannot be written.
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
    """The gates for these adapters by user, without failed ones; errors as for `adapters_of`."""
    plan, sharers = drafting.plan, drafting.sharers

    def trained(run: Run) -> Gates:
        assert run.scales is not None
        return run.scales

    how = {"scaled": "gates", "frozen": plan.config.lora}
    kind = _Kind(GATES, "gates", plan.gate, trained, save_tensors, load_tensors, how)
    keys = {  # gates depend on every bit of the adapter
        user: _key(plan, plan.gate, sharers[user], blob_name(adapter.to_bytes())) for user, adapter in adapters.items()
    }
    return _drafted(drafting, kind, keys, adapters)


def _key(plan: SharePlan, config: TrainConfig, sharer: Sharer, *more: str) -> str:
    """Digest of all that weights depend on, and of the versions of what computes, since a pool names them."""
    about = sharer.profile.text if sharer.profile and config.prompt.profile else ""
    masks = "by counter" if config.lora_dropout else 0  # drafts with masks drawn in another way have another key
    return digest(
        plan.task.model_dump_json(), plan.base.fingerprint, config.model_dump_json(), plan.options.seed, masks,
        sorted(versions().items()), history_digest(sharer.history), about, *more,
    )  # fmt: skip


def _drafted(
    drafting: Drafting,
    kind: _Kind[Weights],
    keys: Mapping[str, str],
    frozen: Mapping[str, Adapter] | None = None,
) -> tuple[dict[str, Weights], Drafted]:
    """All users' weights of a kind: read where a draft has the user's key, else trained upon `frozen` adapters."""
    found = _read(drafting, kind, keys)
    if found:
        drafting.progress(kind.stage, len(found), len(keys), "were there")
    jobs = drafting.jobs(kind.config, [user for user in keys if user not in found], frozen)
    made = _trained(drafting, kind, keys, jobs) if jobs else {}
    every = found | made
    return {user: every[user] for user in keys if user in every}, Drafted(len(made), len(found))


def _read(drafting: Drafting, kind: _Kind[Weights], keys: Mapping[str, str]) -> dict[str, Weights]:
    """The stored weights. A draft with lost or damaged weights is trained again."""
    store, found = drafting.plan.store, dict[str, Weights]()
    for draft in drafts(store, drafting.plan.task.name):
        if draft.kind == kind.name and draft.key == keys.get(draft.user):
            with suppress(OwnlmError):
                found[draft.user] = kind.read(store.blobs.get(draft.blob))
    return found


def _trained(drafting: Drafting, kind: _Kind[Weights], keys: Mapping[str, str], jobs: list[Job]) -> dict[str, Weights]:
    """Trains jobs in a fleet; each draft is stored soon after it is done."""
    plan, config = drafting.plan, kind.config
    room = room_for(drafting.model, config, plan.options.slots, plan.options.tokens_per_step)
    steps = sum(config.steps_for(len(job.examples)) for job in jobs)
    meter, made, gone = Meter(drafting.progress, f"{kind.stage}, steps", steps), dict[str, Weights](), list[str]()
    histories = {user: one.history for user, one in drafting.sharers.items()}

    def on_stored(draft: DraftInfo, error: NotFoundError | None) -> None:
        if error:
            gone.append(draft.user)
        else:
            meter.users += 1

    with BackgroundWriter(partial(add_drafts, plan.store, histories), room.waiting, on_stored) as writer:
        for run in train_fleet(
            drafting.model, jobs, config, slots=room.slots, tokens_per_step=room.tokens_per_step,
            workers=room.workers, states_bytes=room.states_bytes, on_step=meter.on_step, **kind.how,
        ):  # fmt: skip
            user = run.job.user
            if run.error:
                drafting.failed.append((user, run.error))
                continue
            made[user] = kind.trained(run)
            of_run = {"tokens": run.tokens, "seconds": round(run.seconds, 3)}
            writer.put(partial(_stored, plan, kind, user, keys[user], made[user], of_run))
    if gone:
        raise no_longer_shared(plan.task.name, gone)
    return made


def _stored(
    plan: SharePlan, kind: _Kind[Weights], user: str, key: str, made: Weights, of_run: Mapping[str, Any]
) -> tuple[DraftInfo, bytes]:
    """A draft as it is stored."""
    weights = kind.written(made)
    fingerprint, blob = plan.base.fingerprint, blob_name(weights)
    return DraftInfo(user, plan.task.name, fingerprint, kind.name, key, blob, len(weights), **of_run), weights
