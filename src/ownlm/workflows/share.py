"""Sharing: users who agree have adapters and gates trained, and pieces of them go into a pool."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from uuid import uuid4

from torch import Tensor

from ownlm.errors import ConfigError, NotFoundError, OwnlmError
from ownlm.filesystem import folder_bytes
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
from ownlm.workflows.plan import SharePlan
from ownlm.workflows.report import Shared


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
        people, licences = {ids[user]: user for user in chosen}, dict.fromkeys(chosen, licence)
        pools.add_pool(store, info, people, histories, licences, version_of(pool, key=pool.manifest.publisher))
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
    return embed_histories(model, texts()) if embedder is None else embed_with(embedder, texts())


def _centred(drafting: Drafting, gates: dict[str, Gates]) -> dict[str, Gates]:
    """Gates that are blind to what these users' histories have in common."""
    if len(gates) == 1:
        raise ConfigError("Centring needs two sharers or more", got="one", hint="share without centring")
    jobs = drafting.jobs(drafting.plan.gate, gates)
    people = [Target(job.user, job.examples) for job in jobs]
    mean = mean_features(drafting.model, drafting.plan.config.lora, people)
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


def new_pool_folder(store: Store) -> Path:
    """A new folder for a pool of this home."""
    return store.folder / pools.FOLDER / uuid4().hex


def pool_info(task: str, base: BaseInfo, pool: Pool, own: bool) -> PoolInfo:
    """A pool as it is registered in the home."""
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
