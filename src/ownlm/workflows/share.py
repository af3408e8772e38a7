"""Sharing: people who agree have adapters and gates trained, and pieces of them put into a pool."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from uuid import uuid4

from torch import Tensor

from ownlm.errors import ConfigError, NotFoundError, OwnlmError
from ownlm.history.record import History
from ownlm.model.adapter import Adapter
from ownlm.model.base import BaseLM
from ownlm.model.targets import target_modules
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
from ownlm.store.rows import BaseInfo, PoolInfo
from ownlm.store.store import Store
from ownlm.workflows.drafts import Drafting, Gates, Sharer, adapters_of, gates_of, secret
from ownlm.workflows.lineage import signing_key, version_of
from ownlm.workflows.report import Shared
from ownlm.workflows.share_plan import SharePlan


def share(store: Store, load: Callable[[], BaseLM], plan: SharePlan, progress: Progress) -> Shared:
    """Chooses sharers, trains their adapters and gates, and makes a pool of the pieces.

    Each adapter, and the gates upon it, are kept as drafts soon after they are trained: whoever was stopped gives the
    same call again, and it goes on there. A pool comes whole or not at all.

    Args:
        load: gives the base; called if anybody agrees.

    Returns:
        The pool, and whose training failed: they are left out. If everybody's did, the first error is raised.

    Raises:
        NotFoundError: nobody agrees; or somebody took their consent back, or was forgotten, meanwhile. Others' drafts
            are kept.
        DataError: nobody has enough records. ConfigError: those chosen agreed to different licences.
        PoolError, StoreError: a piece is not fit; the pool cannot be written.
    """
    agreed = pools.consents(store)
    candidates, model = _candidates(store, plan, set(agreed)), load()
    chosen = choose_sharers(
        plan.select, candidates, plan.sharers, plan.seed, partial(_embeddings, store, model, plan, progress)
    )
    licence = _one_licence(agreed, chosen)
    failed: list[tuple[str, OwnlmError]] = []
    sharers = {user: Sharer.of(store, plan, user) for user in chosen}
    drafting = Drafting(store, model, plan, sharers, failed, progress)
    adapters, of_adapters = adapters_of(drafting)
    gates, of_gates = gates_of(drafting, adapters)
    chosen = [user for user in chosen if user in gates]
    if not chosen:
        raise failed[0][1]
    if plan.centre:
        gates = _centred(drafting, gates)
    histories = {user: sharers[user].history for user in chosen}
    ids = {user: new_sharer_id() for user in chosen}
    pool = _write(store, model, plan, ids, histories, adapters, gates, licence)
    try:
        admit(pool, dict(target_modules(model.model, pool.lora)), plan.base.fingerprint)
        info = pool_info(plan.task.name, plan.base, pool, own=True)
        people = {ids[user]: user for user in chosen}
        seen = version_of(pool, key=pool.manifest.publisher)
        pools.add_pool(store, info, people, histories.values(), dict.fromkeys(chosen, licence), seen)
    except OwnlmError:  # what ends it otherwise may come after the commit; a folder without a name is swept later
        shutil.rmtree(pool.folder)
        raise
    return Shared(info, len(candidates), chosen, failed, of_adapters, of_gates)


def _one_licence(agreed: Mapping[str, tuple[str, str]], chosen: Sequence[str]) -> str:
    """What everybody agreed to; a ConfigError where that differs: a pool has one licence."""
    licences = sorted({agreed[user][0] for user in chosen})
    if len(licences) > 1:
        raise ConfigError(
            "Those chosen agreed to share under different licences",
            got=f"{len(licences)} licences",
            expected="one licence for a pool",
            hint="name those with the same one by --user, or ask for consent again",
        )
    return licences[0]


def _candidates(store: Store, plan: SharePlan, agreed: set[str]) -> list[Candidate]:
    """Who agrees, and has records of the task."""
    if missing := sorted(set(plan.users) - agreed):
        raise NotFoundError(
            f"These people have not agreed to share: {', '.join(missing)}", hint="`ownlm users consent USER --share`"
        )
    among = agreed & set(plan.users) if plan.users else agreed
    found = [Candidate(one.user, one.records) for one in store.histories(plan.task.name, sorted(among))]
    if not found:
        raise NotFoundError(
            f"Nobody with records for task {plan.task.name!r} has agreed to share",
            hint="`ownlm users consent USER --share`",
        )
    return found


def _embeddings(store: Store, model: BaseLM, plan: SharePlan, progress: Progress, users: list[str]) -> Tensor:
    def texts() -> Iterator[list[str]]:
        for number, user in enumerate(users, 1):
            progress("embedding histories", number, len(users))
            yield [retrieval_document(plan.task, record) for record in store.history(plan.task.name, user).records]

    return embed_histories(model, texts()) if plan.embedder is None else embed_with(plan.embedder, texts())


def _centred(drafting: Drafting, gates: dict[str, Gates]) -> dict[str, Gates]:
    """Gates that are blind to what these people's histories have in common."""
    if len(gates) == 1:
        raise ConfigError("What one history has in common with others, nobody knows", hint="share without centring")
    jobs = drafting.jobs(drafting.plan.gate, gates)
    people = [Target(job.user, job.examples) for job in jobs]
    mean = mean_features(drafting.model, drafting.plan.config.lora, people)
    return {user: {n: centred(g_D[None], mean[n])[0] for n, g_D in own.items()} for user, own in gates.items()}


def _write(
    store: Store,
    model: BaseLM,
    plan: SharePlan,
    ids: dict[str, str],
    histories: dict[str, History],
    adapters: dict[str, Adapter],
    gates: dict[str, Gates],
    licence: str,
) -> Pool:
    modules = target_modules(model.model, plan.config.lora)
    names = [name for name, _ in modules]
    kept = {user: set(kept_modules(secret(plan, histories[user]), user, names, plan.ratio)) for user in ids}

    def pieces() -> Iterator[tuple[str, list[tuple[str, Piece]]]]:
        for name in names:
            yield (
                name,
                [
                    (
                        ids[user],
                        Piece(adapters[user].pairs[name].A_RD, adapters[user].pairs[name].B_OR, gates[user][name]),
                    )
                    for user in ids
                    if name in kept[user]
                ],
            )

    head = PoolHead(plan.base.fingerprint, plan.config.lora, licence, plan.provenance(), list(ids.values()))
    shapes = {name: (module.out_features, module.in_features) for name, module in modules}
    return write_pool(new_pool_folder(store), head, pieces(), shapes=shapes, key=signing_key(store))


def new_pool_folder(store: Store) -> Path:
    """Where a pool of this home is written."""
    return store.folder / pools.FOLDER / uuid4().hex


def pool_info(task: str, base: BaseInfo, pool: Pool, own: bool) -> PoolInfo:
    """What the home notes of a pool."""
    manifest = pool.manifest
    return PoolInfo(
        digest=pool.digest,
        task=task,
        base=base.name,
        base_fingerprint=base.fingerprint,
        version=manifest.version,
        folder=str(pool.folder),
        sharers=len(manifest.sharers),
        own=own,
        provenance=dict(manifest.provenance),
        parent=manifest.parent,
        created=manifest.created,
        publisher=manifest.publisher,
    )
