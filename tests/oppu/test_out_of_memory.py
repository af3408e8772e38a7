"""Where memory runs out a pass is repeated in parts with the same result; one example that does not fit is an error."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ownlm.config import TrainConfig
from ownlm.errors import DeviceMemoryError
from ownlm.model.base import BaseLM
from ownlm.oppu import memory
from ownlm.oppu.fleet import train_fleet
from ownlm.oppu.malloc import in_halves
from ownlm.perpcs.adapt import answer_loss
from ownlm.perpcs.embedding import embed_histories
from tests.oppu.test_fleet import CONFIG, PEOPLE, in_bank, make_jobs
from tests.peft_reference import weights


@contextmanager
def room_for_tokens(base: BaseLM, most: int) -> Iterator[list[int]]:
    """As on a GPU whose memory holds so many tokens of a pass; the list gets the tokens of each pass tried."""
    tried = list[int]()

    def refuse(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tried.append(kwargs["input_ids"].shape[1])
        if tried[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    hook = base.model.model.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield tried
    finally:
        hook.remove()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_training_goes_on_in_smaller_passes(double: BaseLM, dropout: float) -> None:
    config: TrainConfig = CONFIG.model_copy(update={"lora_dropout": dropout})
    jobs = make_jobs(double.model.config.vocab_size, examples=6, prompt=12)
    whole = in_bank(double, jobs, config, slots=PEOPLE, tokens=1000)
    with room_for_tokens(double, 45) as tried:
        parts = in_bank(double, jobs, config, slots=PEOPLE, tokens=1000)
    assert max(tried) > 45 and sum(one > 45 for one in tried) < len(tried) / 2  # later passes begin smaller
    for user, run in parts.items():
        assert run.losses == pytest.approx(whole[user].losses, rel=1e-9)
        for name, tensor in weights(run.adapter).items():
            torch.testing.assert_close(tensor, weights(whole[user].adapter)[name], atol=1e-6, rtol=1e-4)


def test_an_example_that_does_not_fit_is_a_clear_error(double: BaseLM) -> None:
    job = make_jobs(double.model.config.vocab_size, examples=3, prompt=12)[0]
    with room_for_tokens(double, 3), pytest.raises(DeviceMemoryError, match="does not fit into the memory") as caught:
        list(train_fleet(double, [job], CONFIG))
    assert "tokens; CUDA out of memory" in str(caught.value.got) and caught.value.hint
    assert not double.model.model.layers[0].self_attn.q_proj._forward_hooks


def test_held_back_losses_and_embeddings_are_the_same(base: BaseLM) -> None:
    examples = make_jobs(base.model.config.vocab_size, examples=6, prompt=12)[0].examples
    histories = [["one two three", "four five"], ["six", "seven eight nine ten"]]
    loss, embedded = answer_loss(base, None, examples), embed_histories(base, histories)
    longest = max(len(base.encode_prompt(text)) for texts in histories for text in texts)
    with room_for_tokens(base, 40) as tried:
        assert answer_loss(base, None, examples) == pytest.approx(loss, rel=1e-5)
        assert max(tried) > 40
    with room_for_tokens(base, longest) as tried:
        torch.testing.assert_close(embed_histories(base, histories), embedded)
        assert max(tried) > longest


def test_parts_keep_the_order_of_the_items() -> None:
    def run(items: list[int]) -> list[int]:
        if sum(items) > 5:
            raise torch.OutOfMemoryError
        return items

    assert [list(part) for part in in_halves(run, [1, 2, 3, 4, 5], "One", int)] == [[1, 2], [3], [4], [5]]


def test_sizes_on_a_gpu_count_cached_memory_as_free(base: BaseLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1_000_000_000, 9_000_000_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 800_000_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 300_000_000)
    gpu = torch.device("cuda")
    assert memory.free_bytes(gpu) == 1_500_000_000
    assert memory.tokens_per_pass(base, 1234) == 1234
    tokens = memory.tokens_per_pass(SimpleNamespace(device=gpu, model=base.model), 1234)  # type: ignore[arg-type]
    assert tokens == min(memory.MOST_TOKENS_CUDA, 750_000_000 // memory.bytes_per_token(base.model))
