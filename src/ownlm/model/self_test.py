"""Whether a model can run on packed rows: tried, not believed."""

import numpy as np
import torch

from ownlm.errors import BaseModelError
from ownlm.model.attention import NAME
from ownlm.model.base import BaseLM
from ownlm.model.kv_cache import KvCache
from ownlm.model.packed import Row
from ownlm.model.spans import BASE

LENGTH_DEPENDENT = {"dynamic", "longrope"}  # rotary embeddings that change with the longest sequence in the row


def check_packed(base: BaseLM) -> None:
    """Refuses a model for which company matters, or that does not run through packed attention.

    A short sequence beside long neighbours must get the logits that the stock model gives it alone, whole and with its
    last token after a cached beginning.

    Raises:
        BaseModelError: it does not, or the tokenizer has tokens the model has not.
    """
    embedded = base.model.get_input_embeddings().num_embeddings
    if len(base.tokenizer) > embedded:
        _refuse(base, f"a tokenizer of {len(base.tokenizer)} tokens and embeddings for {embedded}")
    rope = getattr(base.model.config, "rope_parameters", None) or {}
    if str(rope.get("rope_type")) in LENGTH_DEPENDENT:
        _refuse(base, f"rotary embeddings of type {rope['rope_type']!r}, which depend on the longest sequence of a row")
    try:
        gap = _gap(base)
    except BaseModelError:
        raise
    except Exception as error:  # whatever modelling code does when it meets a row it was not made for
        _refuse(base, f"{type(error).__name__} in a forward pass")
    if not gap < (1e-3 if next(base.model.parameters()).dtype.itemsize >= 4 else 5e-2):
        _refuse(base, f"logits that change with the neighbours in a row, by {gap:.1e} relative")


@torch.inference_mode()
def _gap(base: BaseLM) -> float:
    """The worst relative difference between packed rows and the stock model on one sequence alone."""
    tokens = [7 + step % 5 for step in range(9)]
    row, cached, last, cache = Row(), Row(), Row(), KvCache()
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
    base.model.set_attn_implementation("eager")
    try:
        alone = base.model(torch.tensor([tokens], device=base.device), use_cache=False).logits[0].float()
    finally:
        base.model.set_attn_implementation(NAME)
    worst = max((packed - alone).abs().max(), (after_cache - alone[-1:]).abs().max())
    return float(worst / alone.abs().max())


def _refuse(base: BaseLM, got: str) -> None:
    raise BaseModelError(
        f"The base {base.name!r} cannot answer many people in one pass, each as if alone",
        got=got,
        expected="a decoder with causal attention, plain or windowed, such as Llama, Mistral, Qwen or SmolLM",
        hint="choose another base",
    )
