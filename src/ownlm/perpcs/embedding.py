"""A user's history as one vector: the mean over their records, each the mean over its tokens."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ownlm.errors import ConfigError, DataError
from ownlm.model.base import BaseLM
from ownlm.model.packed import BatchBuilder
from ownlm.model.segments import BASE, to_device
from ownlm.oppu import memory
from ownlm.oppu.malloc import in_halves

TOKENS_PER_RECORD = 512
TOKENS_PER_PASS = 4096
SAFE = 6  # the first major version of sentence-transformers that runs no code it finds in a folder


def embed_histories(
    base: BaseLM,
    histories: Iterable[Sequence[str]],
    *,
    tokens_per_record: int = TOKENS_PER_RECORD,
    tokens_per_pass: int | None = None,
) -> Tensor:
    """Mean history embeddings by the base itself, of many users in each pass.

        e_u = mean over u's records of mean over the record's tokens t of  h_t

    h_t is the base's last hidden state, after the final norm. A user's vector depends on their own records
    alone, and neither on the records' order nor on the other users.

    Args:
        histories: each user's records as texts; read one by one. Blank texts are skipped.
        tokens_per_record: longer records are cut to this number of tokens, or to the base's context.
        tokens_per_pass: approximate number of tokens in one forward pass; by default as memory allows.

    Returns:
        emb_UD, float32 on the CPU, in the histories' order.

    Raises:
        DataError: a user has no text, or there is no user.

    Source: Per-Pcs (arXiv 2406.10471), sharer selection. Differs: the released code embeds with DeBERTa-v3-large.
    """
    longest = min(tokens_per_record, base.max_tokens)
    sums, counts = list[Tensor](), list[int]()
    most = tokens_per_pass or memory.tokens_per_pass(base, TOKENS_PER_PASS)
    for together in _passes(_records(base, histories, longest), most):
        records = [tokens for _, tokens in together]
        means_ND = torch.cat(list(in_halves(partial(_embed, base), records, "One record", len)))
        for (user, _), mean_D in zip(together, means_ND, strict=True):
            if user == len(sums):
                sums.append(torch.zeros_like(mean_D))
                counts.append(0)
            sums[user] += mean_D
            counts[user] += 1
    return _stacked([sum_D / count for sum_D, count in zip(sums, counts, strict=True)])


def embed_with(folder: Path, histories: Iterable[Sequence[str]], device: str = "cpu") -> Tensor:
    """Mean history embeddings, by a sentence-transformers model instead of the base.

        e_u = mean over u's records of  the model's embedding of the record

    Args:
        folder: as sentence-transformers saves it, in safetensors. No code in it is run.
        histories: as for `embed_histories`. The model cuts what is too long for it.
        device: where the model runs.

    Returns:
        emb_UD, float32 on the CPU, in the histories' order.

    Raises:
        ConfigError: sentence-transformers is not installed, or cannot load the folder.
        DataError: a user has no text, or there is no user.

    Source: Per-Pcs (arXiv 2406.10471), sharer selection. Differs: any encoder, not DeBERTa-v3-large alone.
    """
    model, means = _load(folder, device), list[Tensor]()
    for user, texts in enumerate(histories):
        filled = [text for text in texts if text.strip()]
        if not filled:
            raise _nothing(user)
        means.append(model.encode(filled, convert_to_tensor=True, show_progress_bar=False).cpu().double().mean(dim=0))
    return _stacked(means)


def _records(base: BaseLM, histories: Iterable[Sequence[str]], longest: int) -> Iterator[tuple[int, list[int]]]:
    """All users' records as token ids, each with its user's number."""
    for user, texts in enumerate(histories):
        encoded = base.encode_prompts([text for text in texts if text.strip()])
        known = [tokens[:longest] for tokens in encoded if tokens]
        if not known:
            raise _nothing(user)
        for tokens in known:
            yield user, tokens


def _passes(records: Iterable[tuple[int, list[int]]], tokens_per_pass: int) -> Iterator[list[tuple[int, list[int]]]]:
    """Records, in their order, cut so that a pass holds about `tokens_per_pass` tokens."""
    together, size = list[tuple[int, list[int]]](), 0
    for user, tokens in records:
        if together and size + len(tokens) > tokens_per_pass:
            yield together
            together, size = [], 0
        together.append((user, tokens))
        size += len(tokens)
    if together:
        yield together


@torch.inference_mode()
def _embed(base: BaseLM, records: Sequence[list[int]]) -> Tensor:
    """Each record's mean hidden state, in one pass: mean_ND, float64 on the CPU."""
    row = BatchBuilder()
    for tokens in records:
        row.add(BASE, tokens)
    hidden_TD = base.hidden(row.pack(base.device)).double()
    length_N = torch.tensor([len(tokens) for tokens in records])
    record_T = torch.arange(len(records)).repeat_interleave(length_N)
    record_T, length_N = to_device((record_T, length_N), base.device)
    sum_ND = hidden_TD.new_zeros(len(records), hidden_TD.shape[1]).index_add_(0, record_T, hidden_TD)
    return (sum_ND / length_N[:, None]).cpu()


def _stacked(means: list[Tensor]) -> Tensor:
    if not means:
        raise DataError("There are no histories to embed", hint="add histories first")
    return torch.stack(means).float()


def _nothing(user: int) -> DataError:
    return DataError(
        f"History number {user + 1} has no text to embed",
        expected="at least one record with text",
        hint="look at the records",
        command="ownlm history show USER",
    )


def _load(folder: Path, device: str) -> Any:
    """A sentence-transformers model, from nothing but safetensors and the package's own code."""
    transformer = _package().SentenceTransformer
    if not folder.is_dir():
        raise ConfigError("The embedding model is not a folder", got=folder, expected="one of sentence-transformers")
    for pickle in folder.rglob("pytorch_model*.bin"):
        if not (pickle.parent / "model.safetensors").is_file():  # which is read instead, where there is one
            raise ConfigError(
                f"The embedding model in {folder} has weights in a pickle, which can hold code",
                got=pickle.relative_to(folder),
                expected="model.safetensors",
                hint="choose another model, or save it again with safetensors",
            )
    try:
        return transformer(
            str(folder),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        ).eval()
    except Exception as error:  # whatever the package, and the modules the folder names, let through
        raise ConfigError(
            f"The embedding model cannot be loaded from {folder}",
            got=(str(error).splitlines() or [type(error).__name__])[0],
            expected="a folder of sentence-transformers that needs no code of its own",
        ) from None


def _package() -> Any:
    try:
        import sentence_transformers
    except ImportError:
        version = None
    else:
        version = sentence_transformers.__version__
        if int(version.split(".")[0]) >= SAFE:
            return sentence_transformers
    raise ConfigError(
        "Embedding with a model other than the base needs the package sentence-transformers",
        got=version,
        expected=f"version {SAFE} or newer",
        hint="install it",
        command='pip install "ownlm[embed]"',
    )
