"""Tests that a model gives the same results on packed rows as alone.

The model itself runs on a short row. Long sequences (windows, chunks, factors of far positions) and adapters are tested
on a small copy, where they are cheap.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ownlm.config import LoraConfig
from ownlm.errors import BaseModelError, in_one_line
from ownlm.model.adapter import Adapter, LoraPair
from ownlm.model.attention import NAME
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM
from ownlm.model.bases.small_copy import VOCABULARY, small_copy
from ownlm.model.forward_context import trim_last_mlp
from ownlm.model.kv_cache import KvCache
from ownlm.model.layers import probe, refuse, why_failed, why_not
from ownlm.model.lora import lora_update
from ownlm.model.packed import BatchBuilder
from ownlm.model.segments import BASE
from ownlm.model.targets import target_modules

USERS = ((12, 30, 9), (25,), (2, 40))  # for each user, the tokens of a prefix and of the segments that continue it
ASKED = 6  # predicting positions at the end of each segment
SMALL_GAP = 1e-3  # relative; models compute norms and angles in float32


def check_packed(base: BaseLM) -> None:
    """Refuses a model with other results on packed rows than alone.

    A short sequence beside long neighbours must get the stock model's logits, whole and with its last token after a
    cached prefix. On a small copy, users in one row must get the logits and gradients of the stock model with each
    user's adapter, on sequences longer than every window.

    Raises:
        BaseModelError: results differ, or the tokenizer has tokens that the model has not.
    """
    embedded = base.model.get_input_embeddings().num_embeddings
    if base.text.size > embedded:  # further control tokens do not matter, as text never becomes them
        refuse(base.name, f"a tokenizer of {base.text.size} tokens for text and embeddings for {embedded}")
    try:
        gap = _gap(base)
    except BaseModelError:
        raise
    except Exception as error:  # modelling code fails in any way on unfamiliar rows
        refuse(base.name, why_failed(base.model, "on a packed row", error))
    if not gap < (1e-3 if next(base.model.parameters()).dtype.itemsize >= 4 else 5e-2):
        refuse(base.name, f"logits that change with the neighbours in a row, by {gap:.1e} relative")
    check_small_copy(base.model.config, base.name)


@torch.inference_mode()
def _gap(base: BaseLM) -> float:
    """The largest relative difference between packed rows and the stock model on one sequence."""
    tokens = [7 + step % 5 for step in range(9)]
    row, cached, last, cache = BatchBuilder(), BatchBuilder(), BatchBuilder(), KvCache()
    for neighbour in (3, 5):
        row.add(BASE, [neighbour + step % 11 for step in range(40)])
    row.predict(BASE, row.add(BASE, tokens))
    places = cache.take(12 + len(tokens))
    cached.add(BASE, [11 + step % 3 for step in range(12)], at=places[:12])
    chain = cached.add(BASE, tokens[:-1], at=places[12:-1])
    cached.predict(BASE, np.array([len(cached.tokens) - 1]))
    base.logits(cached.pack(base.device), cache=cache.writing(places[:-1], base.device))
    last.add(BASE, tokens[-1:], after=chain, at=places[-1:])
    last.predict(BASE, np.array([0]))
    packed = base.logits(row.pack(base.device)).float()
    after_cache = base.logits(last.pack(base.device), cache=cache.writing(places[-1:], base.device)).float()
    with _stock(base):
        alone = base.model(torch.tensor([tokens], device=base.device), use_cache=False).logits[0].float()
    worst = max((packed - alone).abs().max(), (after_cache - alone[-1:]).abs().max())
    return float(worst / alone.abs().max())


@contextmanager
def _stock(base: BaseLM) -> Iterator[None]:
    """Runs the model with transformers' attention within a context."""
    base.model.set_attn_implementation("eager")
    try:
        yield
    finally:
        base.model.set_attn_implementation(NAME)


def check_small_copy(config: Any, name: str) -> None:
    """Tests a bank, long sequences and the cache on a small copy of a model.

    Args:
        config: transformers' configuration of the model.
        name: the base's name, for messages.

    Raises:
        BaseModelError: a user gets other logits or gradients in a row than alone, or no copy can be made.
    """
    try:
        model = small_copy(config, NAME)
    except Exception as error:  # model classes fail in any way on small shapes
        got = f"a model of the type {config.model_type!r}, of which no small copy to try long rows and adapters on"
        refuse(name, f"{got} can be made: {in_one_line(error)}")
    probe(model, name)
    trim_last_mlp(model)
    small = BaseLM(name, "", Path(), model, None)
    linears = {path.rpartition(".")[2] for path, one in model.named_modules() if isinstance(one, nn.Linear)}
    targets = sorted(target for target in linears if _can_adapt(model, target))
    if not any(target != "lm_head" for target in targets):
        refuse(name, why_not(model, f"no linear modules to adapt in a {type(model).__name__}"))
    try:
        if _worst(small, targets) < SMALL_GAP:
            return
        alike = _worst(small, targets, size=0) < SMALL_GAP
        wrong = [target for target in targets if alike and not _worst(small, [target]) < SMALL_GAP]
    except BaseModelError:
        raise
    except Exception as error:
        refuse(name, why_failed(model, "on packed rows with adapters", error))
    what = f"adapters on {', '.join(wrong)}" if wrong else "logits or gradients"
    refuse(name, f"{what} that change with the neighbours in a row")


def _can_adapt(model: nn.Module, target: str) -> bool:
    try:
        return bool(target_modules(model, LoraConfig(target_modules=(target,))))
    except BaseModelError:
        return False


@torch.enable_grad()
def _worst(base: BaseLM, names: Sequence[str], size: float = 0.3) -> float:
    """The largest relative difference of users in one row from the stock model with each user's adapter."""
    bank = LoraBank(base.model, LoraConfig(r=2, lora_alpha=3.0, target_modules=tuple(names)), len(USERS))
    bank.param_UP.normal_(generator=torch.Generator().manual_seed(0)).mul_(size)
    draw = np.random.default_rng(0)
    users = [[draw.integers(3, VOCABULARY, n).tolist() for n in lengths] for lengths in USERS]
    with bank.attached():
        logits, grads_UP = _packed(base, bank, users)
        cached = _cached(base, bank, users)
    gaps = []
    for slot, user in enumerate(users):
        expected, grad_P = _alone(base, bank, slot, user)
        gaps += [_relative(logits[slot], expected), _relative(cached[slot], expected)]
        gaps.append(_relative(grads_UP[slot], grad_P))
    return max(gaps)


def _relative(got: Tensor, expected: Tensor) -> float:
    gap = float((got - expected).abs().max() / expected.abs().max())
    return gap if isfinite(gap) else inf


def _loss(logits_PV: Tensor) -> Tensor:
    return logits_PV.log_softmax(dim=1)[:, :7].sum()


def _ask(row: BatchBuilder, slot: int, tokens: int) -> None:
    """Predicts at the end of a row's last segment, twice at its last token."""
    end = len(row.tokens)
    row.predict(slot, np.arange(end - min(tokens, ASKED), end))
    row.predict(slot, np.array([end - 1]))


def _packed(base: BaseLM, bank: LoraBank, users: list[list[list[int]]]) -> tuple[Sequence[Tensor], Tensor]:
    """Logits and gradients of all users in one row, beside tokens of the base."""
    row = BatchBuilder()
    row.add(BASE, [5 + step % 7 for step in range(40)])
    for slot, (beginning, *ends) in enumerate(users):
        shared = row.add(slot, beginning)
        _ask(row, slot, len(beginning))
        for end in ends:
            row.add(slot, end, after=shared)
            _ask(row, slot, len(end))
    batch = row.pack()
    grads_UP = bank.new_grads(batch)
    logits_PV = base.logits(batch, bank, grads_WP=grads_UP)
    _loss(logits_PV).backward()
    return logits_PV.detach().split(batch.place_P.bincount().tolist()), grads_UP


@torch.no_grad()
def _cached(base: BaseLM, bank: LoraBank, users: list[list[list[int]]]) -> list[Tensor]:
    """The same logits in two passes: all prefixes, then the segments that continue them in the cache."""
    cache, first, then = KvCache(), BatchBuilder(), BatchBuilder()
    places = [[cache.take(len(tokens)) for tokens in user] for user in users]
    for slot, ((beginning, *ends), (at, *others)) in enumerate(zip(users, places, strict=True)):
        chain = first.add(slot, beginning, at=at)
        _ask(first, slot, len(beginning))
        for end, other in zip(ends, others, strict=True):
            then.add(slot, end, after=chain, at=other)
            _ask(then, slot, len(end))
    parts: list[list[Tensor]] = [[] for _ in users]
    for row, used in ((first, [at for at, *_ in places]), (then, [at for _, *others in places for at in others])):
        batch = row.pack()
        logits_PV = base.logits(batch, bank, cache.writing(np.concatenate(used), base.device))
        for place, slot in enumerate(batch.segments.slots):
            parts[slot].append(logits_PV[batch.place_P == place])
    return [torch.cat(part) for part in parts]


def _alone(base: BaseLM, bank: LoraBank, slot: int, user: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Logits and gradients of the stock model for one user, sequence by sequence, with the adapter as plain hooks."""
    pairs = bank.read(slot).pairs
    weights = [weight.requires_grad_() for pair in pairs.values() for weight in (pair.A_RD, pair.B_OR)]
    beginning, *ends = user
    parts = []
    with ExitStack() as stack, _stock(base):
        for name, pair in pairs.items():

            def add(_: Any, args: tuple[Tensor, ...], y: Tensor, pair: LoraPair = pair) -> Tensor:
                return y + lora_update(args[0], pair.A_RD, pair.B_OR, bank.lora.scaling)

            stack.callback(base.model.get_submodule(name).register_forward_hook(add).remove)
        for tokens in ([], *ends):
            logits_TV = base.model(torch.tensor([beginning + tokens]), use_cache=False).logits[0]
            parts += [logits_TV[-min(len(tokens or beginning), ASKED) :], logits_TV[-1:]]
        logits_PV = torch.cat(parts)
        _loss(logits_PV).backward()
    assert all(weight.grad is not None for weight in weights)
    grads = {name: LoraPair(pair.A_RD.grad, pair.B_OR.grad) for name, pair in pairs.items()}  # type: ignore[arg-type]
    like = LoraBank(base.model, bank.lora, 1)
    like.load(0, Adapter(bank.lora, grads))
    return logits_PV.detach(), like.pairs_UP[0]
