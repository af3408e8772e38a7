"""Assembly: a personal adapter out of a pool's pieces, in one forward pass over a user's history.

It is autoregressive in depth: the pieces that a module selects are installed before the next module sees its input.
A long history, or the histories of many users, are several rows. Each row runs in its own thread, and all threads wait
for each other at every module, where the pieces are chosen for all users. A waiting thread keeps little more than its
hidden states, so a history may be long.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier, BrokenBarrierError, Semaphore

import torch
import torch.nn.functional as F
from torch import Tensor

from ownlm.errors import PoolError
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.model.forward_context import ForwardContext
from ownlm.model.packed import BatchBuilder, PackedBatch
from ownlm.oppu import memory
from ownlm.oppu.malloc import in_halves, keeping_freed_memory
from ownlm.oppu.minibatches import TokenizedExample, shared_prefix
from ownlm.perpcs.equations import history_features, scores, select
from ownlm.perpcs.materialise import pieces
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import Combine, Recipe, assembled_shape, combined, made_of, rounded

AT_ONCE = 16  # users in one group: their chosen pieces are in memory together
TOKENS = 65_536  # of one group, unless one user alone has more; their hidden states are in memory together
FEWEST_TOKENS = 128  # of one row, where memory runs out
TOKENS_PER_PASS, PASSES = 2048, 64  # of one row; of very long histories the rows are longer, not more


@dataclass(frozen=True, slots=True)
class Target:
    """A user to assemble an adapter for, with their records as tokenized examples."""

    user: str
    examples: Sequence[TokenizedExample]


@dataclass(frozen=True, slots=True)
class Assembled:
    """The recipe assembled for one target user, with its cost.

    Attributes:
        tokens: number of the user's tokens in the forward pass.
        seconds: share of the machine time, split by tokens.
    """

    user: str
    recipe: Recipe
    tokens: int
    seconds: float


def assemble(
    base: BaseLM,
    pool: Pool,
    targets: Iterable[Target],
    *,
    top_k: int = 3,
    tau: float = 1.0,
    combine: Combine = "product",
    tokens_per_pass: int | None = None,
    workers: int | None = None,
    on_group: Callable[[list[Assembled]], None] | None = None,
    on_module: Callable[[int], None] | None = None,
) -> Iterator[Assembled]:
    """Assembles the adapters of many users; each is the same as if assembled alone.

        per module, in the order of the pass:  x -> h -> scores -> select -> combine -> y = W x + (alpha / r) B A x

    No head, no last MLP, nothing behind the last adapted module.

    Args:
        base: the base the pool was made for.
        pool: the pieces.
        targets: users to assemble; read one by one, and run through the model in groups.
        top_k: number K of pieces selected at each module.
        tau: temperature of their weights.
        combine: `product` or `factors`.
        tokens_per_pass: approximate number of tokens in a packed row; by default as memory allows.
        workers: number of rows that run at once; by default one per CPU core, or one on a GPU.
        on_module: called after each module with the number of users assembled there; may run in a worker thread.

    Yields:
        Each target's recipe, group by group.

    Raises:
        PoolError: the pool has fewer sharers than K, or is for another base.

    Source: Per-Pcs (arXiv 2406.10471), section 3.2. Differs: many users at once; `product` by default, which is the
        paper's sum; their released code averages A and B apart (`factors`).
    """
    check_pool(base, pool, top_k)
    most = tokens_per_pass or memory.tokens_per_pass(base, TOKENS_PER_PASS)
    with keeping_freed_memory():
        for group in _groups(targets):

            def run(part: Sequence[Target]) -> list[Assembled]:
                tokens = most
                while True:
                    try:
                        return _Group(base, pool, list(part), top_k, tau, combine, tokens, workers, on_module).run()
                    except torch.OutOfMemoryError:
                        if len(part) > 1 or tokens <= FEWEST_TOKENS:
                            raise
                    tokens //= 2  # of one user: shorter rows

            done = [one for part in in_halves(run, group, "The history of one user", _tokens) for one in part]
            if on_group:
                on_group(done)
            yield from done


def check_pool(base: BaseLM, pool: Pool, top_k: int) -> None:
    """Raises a PoolError where a pool is for another base, or has fewer sharers than are to be selected."""
    if pool.manifest.base_fingerprint != base.fingerprint:
        raise PoolError(
            "The pool was made for another base",
            got=f"{base.name!r} ({base.fingerprint[:12]})",
            expected=f"a base with the fingerprint {pool.manifest.base_fingerprint[:12]}",
        )
    if len(pool.manifest.sharers) < top_k:
        raise PoolError(
            "The pool has fewer sharers than are to be selected",
            got=f"{len(pool.manifest.sharers)} sharers, top_k {top_k}",
            hint="choose a smaller top_k, or share more",
        )


def _tokens(target: Target) -> int:
    return sum(len(example.prompt) + len(example.answer) for example in target.examples)


def _groups(targets: Iterable[Target]) -> Iterator[list[Target]]:
    group, tokens = list[Target](), 0
    for target in targets:
        own = _tokens(target)
        if group and (len(group) == AT_ONCE or tokens + own > TOKENS):
            yield group
            group, tokens = [], 0
        group.append(target)
        tokens += own
    if group:
        yield group


class _Chosen(Exception):
    """The last module has chosen; the rest of the pass is not needed."""


class _Group:
    """Users in one pass through the model. The row that reaches a module last selects the pieces for all of them."""

    def __init__(
        self,
        base: BaseLM,
        pool: Pool,
        targets: list[Target],
        top_k: int,
        tau: float,
        combine: Combine,
        tokens_per_pass: int,
        workers: int | None,
        on_module: Callable[[int], None] | None,
    ) -> None:
        self.base, self.pool, self.targets = base, pool, targets
        self.top_k, self.tau, self.combine, self.on_module = top_k, tau, combine, on_module
        self.batches = [row.pack(base.device) for row in rows_of(targets, tokens_per_pass)]
        cores = torch.get_num_threads() if base.device.type == "cpu" else 1
        self.workers = min(workers or cores, cores, len(self.batches))
        self.bank = LoraBank(base.model, assembled_shape(pool.lora, combine, top_k), len(targets))
        self.bank.before = self._before
        self.running = Semaphore(self.workers)
        self.meeting = Barrier(len(self.batches), action=self._choose)
        self.features: dict[int, Tensor] = {}  # by row: h_WD of the users in it
        self.module = ""
        self.chosen: dict[str, tuple[Tensor, Tensor]] = {}  # by module: place_UK, weight_UK

    def run(self) -> list[Assembled]:
        """Runs the pass; returns all users' results."""
        started = time.perf_counter()
        errors = self._passes()
        for error in sorted((e for e in errors if e), key=lambda e: isinstance(e, BrokenBarrierError)):
            raise error  # the first cause, rather than what it broke
        seconds, tokens = time.perf_counter() - started, [0] * len(self.targets)
        for batch in self.batches:
            for slot, at in batch.segments.rows():
                tokens[slot] += at.stop - at.start
        return [
            Assembled(target.user, self._recipe(slot), tokens[slot], seconds * tokens[slot] / sum(tokens))
            for slot, target in enumerate(self.targets)
        ]

    def _passes(self) -> list[BaseException | None]:
        """Runs all rows; returns what went wrong in each."""
        cores = torch.get_num_threads()
        each = max(1, cores // self.workers)
        try:
            with self.bank.attached(), ThreadPoolExecutor(len(self.batches)) as pool:
                try:
                    passes = [pool.submit(self._pass, number, each) for number in range(len(self.batches))]
                    return [one.exception() for one in passes]
                except BaseException:  # Ctrl-C: waiting threads must not wait for ever
                    self.meeting.abort()
                    raise
        finally:
            torch.set_num_threads(cores)  # for threads that start later

    def _recipe(self, slot: int) -> Recipe:
        chosen = [self.chosen[name] for name in self.pool.modules]
        return made_of(
            self.combine,
            torch.stack([place_UK[slot] for place_UK, _ in chosen]),
            torch.stack([weight_UK[slot] for _, weight_UK in chosen]),
        )

    @torch.inference_mode()
    def _pass(self, number: int, threads: int) -> None:
        """A row through the model, up to the last adapted module."""
        torch.set_num_threads(threads)
        try:
            with self.running:
                self.base.logits(self.batches[number], self.bank)
        except _Chosen:
            pass
        except BaseException:
            self.meeting.abort()
            raise

    def _before(self, name: str, x_1TD: Tensor, now: ForwardContext) -> None:
        """Records a row's features at this module, and waits until its pieces are chosen."""
        batch = now.batch
        self.features[id(batch)] = features_of(x_1TD[0], batch)
        self.module = name
        self.running.release()
        try:
            self.meeting.wait()
        finally:
            self.running.acquire()
        if len(self.chosen) == len(self.pool.modules):
            raise _Chosen

    def _choose(self) -> None:
        """Selects all users' pieces for a module, and installs them."""
        name, gate_ND = self.module, self.pool.gates(self.module)
        feature_UD = torch.zeros(len(self.targets), gate_ND.shape[1], dtype=torch.float64)
        for batch in self.batches:  # always in this order, whoever came first
            feature_UD[list(batch.segments.slots)] += self.features[id(batch)].cpu()
        if not feature_UD.isfinite().all():
            raise PoolError(f"Features at module {name!r} are not finite", hint="use another pool, or check the base")
        k = min(self.top_k, len(gate_ND))
        place_UK, weight_UK = select(scores(feature_UD, gate_ND), k, self.tau)
        weight_UK = rounded(weight_UK).float()  # as it will be kept: what follows sees the same
        missing = self.top_k - k  # of a module that fewer sharers give
        for slot, place_K in enumerate(place_UK.tolist()):
            A_KRD, B_KOR = pieces(self.pool, name, place_K + [None] * missing)
            weight_K = F.pad(weight_UK[slot], (0, missing))
            self.bank.load_pair(slot, name, *combined(self.combine, weight_K, A_KRD, B_KOR))
        self.chosen[name] = F.pad(place_UK, (0, missing)), F.pad(weight_UK, (0, missing))
        if self.on_module:
            self.on_module(len(self.targets))


def rows_of(targets: list[Target], tokens_per_pass: int) -> list[BatchBuilder]:
    """All users' records in rows, each user's shared prefix once a row, with the weights of `history_feature`."""
    total = sum(len(e.prompt) + len(e.answer) for target in targets for e in target.examples)
    most, rows = max(tokens_per_pass, total // PASSES), [BatchBuilder()]
    for slot, target in enumerate(targets):
        shared = shared_prefix(target.examples)
        prefix = None
        for example in target.examples:
            tokens = (example.prompt + example.answer[:-1])[shared:]
            if rows[-1].tokens and len(rows[-1].tokens) + len(tokens) + (shared if prefix is None else 0) > most:
                rows.append(BatchBuilder())
                prefix = None
            if prefix is None:
                prefix = rows[-1].add(slot, example.prompt[:shared])
            chain = rows[-1].add(slot, tokens, after=prefix)
            weight = 1 / (len(target.examples) * len(example.answer))
            rows[-1].predict(slot, chain[len(example.prompt) - 1 :], weight=weight)
    return rows


def features_of(x_TD: Tensor, batch: PackedBatch) -> Tensor:
    """h_WD of the W users in a row, summed over their answer positions in this row."""
    trimmed = len(x_TD) != batch.tokens  # the last MLP sees the asked positions alone
    x_PD = x_TD.index_select(0, torch.searchsorted(batch.asked_A, batch.at_P) if trimmed else batch.at_P)
    return history_features(x_PD, batch.weight_P, batch.place_P, len(batch.segments.slots))
