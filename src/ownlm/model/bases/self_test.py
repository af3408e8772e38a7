"""Whether a model can run on packed rows: tried, not believed.

The model itself is tried on a short row. What only long sequences show (windows, chunks, factors of far positions), and
what adapters do, is tried on a small copy of it, where both are cheap.
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

PEOPLE = ((12, 30, 9), (25,), (2, 40))  # tokens of each user's beginning, and of what follows it, once each
ASKED = 6  # positions at the end of each
SMALL_GAP = 1e-3  # relative; models compute norms and angles in float32 whatever their weights are


def check_packed(base: BaseLM) -> None:
    """Refuses a model for which company matters, or that does not run through packed attention.

    A short sequence beside long neighbours must get the logits that the stock model gives it alone, whole and with its
    last token after a cached beginning. On a small copy, users in company must get the logits and the gradients that
    the stock model gives each with their adapter, on sequences longer than every window.

    Raises:
        BaseModelError: they do not, or the tokenizer has tokens the model has not.
    """
    embedded = base.model.get_input_embeddings().num_embeddings
    if base.text.size > embedded:  # there may be more control tokens, which no text becomes
        refuse(base.name, f"a tokenizer of {base.text.size} tokens for text and embeddings for {embedded}")
    try:
        gap = _gap(base)
    except BaseModelError:
        raise
    except Exception as error:  # whatever modelling code does when it meets a row it was not made for
        refuse(base.name, why_failed(base.model, "on a packed row", error))
    if not gap < (1e-3 if next(base.model.parameters()).dtype.itemsize >= 4 else 5e-2):
        refuse(base.name, f"logits that change with the neighbours in a row, by {gap:.1e} relative")
    check_small_copy(base.model.config, base.name)


@torch.inference_mode()
def _gap(base: BaseLM) -> float:
    """The worst relative difference between packed rows and the stock model on one sequence alone."""
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
    """While it lasts, the model runs with transformers' own attention."""
    base.model.set_attn_implementation("eager")
    try:
        yield
    finally:
        base.model.set_attn_implementation(NAME)


def check_small_copy(config: Any, name: str) -> None:
    """Tries a bank, long sequences and the cache on a small copy of a model.

    Args:
        config: the model's, as transformers reads it.
        name: of the base.

    Raises:
        BaseModelError: a user in company gets other logits or gradients than alone, or no copy can be made.
    """
    try:
        model = small_copy(config, NAME)
    except Exception as error:  # whatever classes do that were not made to be small
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
    """The worst relative difference of a user in company from the stock model with the user's adapter."""
    bank = LoraBank(base.model, LoraConfig(r=2, lora_alpha=3.0, target_modules=tuple(names)), len(PEOPLE))
    bank.param_UP.normal_(generator=torch.Generator().manual_seed(0)).mul_(size)
    draw = np.random.default_rng(0)
    people = [[draw.integers(3, VOCABULARY, n).tolist() for n in lengths] for lengths in PEOPLE]
    with bank.attached():
        logits, grads_UP = _packed(base, bank, people)
        cached = _cached(base, bank, people)
    gaps = []
    for slot, person in enumerate(people):
        expected, grad_P = _alone(base, bank, slot, person)
        gaps += [_relative(logits[slot], expected), _relative(cached[slot], expected)]
        gaps.append(_relative(grads_UP[slot], grad_P))
    return max(gaps)


def _relative(got: Tensor, expected: Tensor) -> float:
    gap = float((got - expected).abs().max() / expected.abs().max())
    return gap if isfinite(gap) else inf


def _loss(logits_PV: Tensor) -> Tensor:
    return logits_PV.log_softmax(dim=1)[:, :7].sum()


def _ask(row: BatchBuilder, slot: int, tokens: int) -> None:
    """Asks at the ends of the sequence that a row was given last, at its very end twice."""
    end = len(row.tokens)
    row.predict(slot, np.arange(end - min(tokens, ASKED), end))
    row.predict(slot, np.array([end - 1]))


def _packed(base: BaseLM, bank: LoraBank, people: list[list[list[int]]]) -> tuple[Sequence[Tensor], Tensor]:
    """All users in one row, beside tokens of the base: each one's logits and gradients."""
    row = BatchBuilder()
    row.add(BASE, [5 + step % 7 for step in range(40)])
    for slot, (beginning, *ends) in enumerate(people):
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
def _cached(base: BaseLM, bank: LoraBank, people: list[list[list[int]]]) -> list[Tensor]:
    """The same logits in two passes: all beginnings, then what follows them, behind their cached keys."""
    cache, first, then = KvCache(), BatchBuilder(), BatchBuilder()
    places = [[cache.take(len(tokens)) for tokens in person] for person in people]
    for slot, ((beginning, *ends), (at, *others)) in enumerate(zip(people, places, strict=True)):
        chain = first.add(slot, beginning, at=at)
        _ask(first, slot, len(beginning))
        for end, other in zip(ends, others, strict=True):
            then.add(slot, end, after=chain, at=other)
            _ask(then, slot, len(end))
    parts: list[list[Tensor]] = [[] for _ in people]
    for row, used in ((first, [at for at, *_ in places]), (then, [at for _, *others in places for at in others])):
        batch = row.pack()
        logits_PV = base.logits(batch, bank, cache.writing(np.concatenate(used), base.device))
        for place, slot in enumerate(batch.segments.slots):
            parts[slot].append(logits_PV[batch.place_P == place])
    return [torch.cat(part) for part in parts]


def _alone(base: BaseLM, bank: LoraBank, slot: int, person: list[list[int]]) -> tuple[Tensor, Tensor]:
    """What the stock model gives a user, sequence by sequence, with the adapter as hooks that know nothing of rows."""
    pairs = bank.read(slot).pairs
    weights = [weight.requires_grad_() for pair in pairs.values() for weight in (pair.A_RD, pair.B_OR)]
    beginning, *ends = person
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
