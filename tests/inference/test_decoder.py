"""Sequences join and leave a running batch at any moment, and each is continued as if it were alone."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ownlm.config import LoraConfig
from ownlm.inference.decoder import Decoder
from ownlm.inference.sequence import Sequence
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM, load_base
from ownlm.model.packed import BatchBuilder
from tests.decoding import generate, new_sequence, texts_of

SLOTS = 4


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseLM:
    return load_base(tiny_base, name="tiny", fingerprint="tiny")


@pytest.fixture(scope="module")
def bank(base: BaseLM) -> LoraBank:
    bank = LoraBank(base.model, LoraConfig(r=4, lora_alpha=8), SLOTS)
    bank.param_UP.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
    return bank


def greedily(base: BaseLM, slot: int, prompt: list[int], most: int, bank: LoraBank) -> list[int]:
    """The tokens that the whole sequence, run anew for each of them, is continued by."""
    tokens = list(prompt)
    with bank.attached(), torch.inference_mode():
        while len(tokens) < len(prompt) + most:
            row = BatchBuilder()
            row.predict(slot, row.add(slot, tokens)[-1:])
            tokens.append(int(base.logits(row.pack(), bank).argmax()))
            if tokens[-1] in base.stop_tokens:
                return tokens[len(prompt) : -1]
    return tokens[len(prompt) :]


visits = st.lists(
    st.tuples(
        st.integers(-1, SLOTS - 1),  # whose
        st.lists(st.integers(3, 250), min_size=1, max_size=30),  # prompt
        st.integers(1, 8),  # the longest answer
        st.integers(0, 6),  # joins after so many steps
        st.none() | st.integers(1, 5),  # and leaves after so many more
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=30)
@given(visits, st.integers(1, 40))
def test_who_comes_and_goes_makes_no_difference(
    base: BaseLM, bank: LoraBank, visits: list[tuple[int, list[int], int, int, int | None]], prompt_tokens: int
) -> None:
    decoder, done, step = Decoder(base, bank, prompt_tokens=prompt_tokens), list[Sequence](), 0
    people = [(new_sequence(base, slot, prompt, most), joins, leaves) for slot, prompt, most, joins, leaves in visits]
    with bank.attached():
        while step <= 6 or decoder.running:
            for one, joins, leaves in people:
                if joins == step:
                    decoder.join(one)
                if leaves is not None and joins + leaves == step:
                    decoder.leave([one])
            if decoder.running:
                done += [one for one in decoder.step() if one.finish]
            step += 1
    assert decoder._cache.used == 0 and decoder._reserved == 0  # nothing is left behind
    for (one, _, leaves), (slot, prompt, most, *_) in zip(people, visits, strict=True):
        assert leaves is not None or one in done
        if one in done:
            assert one.text.tokens == greedily(base, slot, prompt, most, bank)
            assert one.finish == ("length" if len(one.text.tokens) == most else "stop")


def test_the_same_seed_gives_the_same_answer_in_any_company(base: BaseLM, bank: LoraBank) -> None:
    prompt = base.encode_prompt("say")

    def tokens_with(others: int) -> list[int]:
        decoder, mine = Decoder(base, bank), new_sequence(base, 1, prompt, 12, temperature=1.5, top_p=0.95, seed=3)
        with bank.attached():
            for n in range(others):
                decoder.join(new_sequence(base, n % SLOTS, [9 + n] * (n + 1), 5 + n, temperature=1.0, seed=n))
            decoder.join(mine)
            while not mine.finish:
                decoder.step()
        return mine.text.tokens

    assert tokens_with(0) == tokens_with(1) == tokens_with(7)


def test_a_long_prompt_stalls_nobody(base: BaseLM) -> None:
    decoder = Decoder(base, prompt_tokens=10)
    long, short, late = (
        new_sequence(base, -1, [5] * 100),
        new_sequence(base, -1, [6, 7]),
        new_sequence(base, -1, [8] * 4, 3),
    )
    decoder.join(long)
    decoder.step()
    decoder.join(short)
    assert decoder.step() == [short]  # five tokens are for the one that waits longest, and the rest for short ones
    decoder.join(late)
    assert set(decoder.step()) == {short, late}
    while not long.num_completion_tokens:
        decoder.step()
    assert decoder.passes <= 1 + 100 // 5


def test_a_common_beginning_is_computed_once(base: BaseLM, bank: LoraBank) -> None:
    prompts = [[5, 6, 7, 8, n] for n in (20, 21, 22)]
    decoder = Decoder(base, bank)
    together = [new_sequence(base, 1, prompt) for prompt in prompts]
    with bank.attached():
        for one in together:
            decoder.join(one)
        decoder.step()
        assert decoder._cache.used == 4 + 3
        while decoder.running:
            decoder.step()
        alone = [one for prompt in prompts for one in texts_of(generate(base, bank, [(1, prompt)], 6))]
    assert texts_of(together) == alone and decoder._cache.used == 0


def test_places_are_used_again(base: BaseLM) -> None:
    decoder = Decoder(base, cache_tokens=60)
    first = new_sequence(base, -1, [5] * 40, 10)
    decoder.join(first)
    assert decoder.has_room(new_sequence(base, -1, [5] * 8, 2)) and not decoder.has_room(
        new_sequence(base, -1, [5] * 8, 3)
    )
    decoder.step()
    decoder.leave([first])
    decoder.leave([first])  # again is no error
    for _ in range(20):
        decoder.join(new_sequence(base, -1, [5] * 40, 2))
        while decoder.running:
            decoder.step()
    assert decoder._cache._places == 256  # as many as at first
    assert decoder.has_room(new_sequence(base, -1, [5] * 100, 100))  # an empty batch takes any


def test_after_a_pass_that_failed_all_is_as_new(base: BaseLM, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, lost = Decoder(base), [new_sequence(base, -1, [5, 6]), new_sequence(base, -1, [7])]
    for one in lost:
        decoder.join(one)
    decoder.step()
    with monkeypatch.context() as patch:
        patch.setattr(base.model, "forward", lambda **_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            decoder.step()
    assert decoder.clear() == lost and not decoder.running
    after = new_sequence(base, -1, [5, 6])
    decoder.join(after)
    while not after.finish:
        decoder.step()
    assert texts_of([after]) == texts_of(generate(base, None, [(-1, [5, 6])], 6))


def test_a_later_prompt_shares_the_beginning_of_a_running_one(base: BaseLM, bank: LoraBank) -> None:
    """Before, while and after the running one is read; callers, and adapters, never share."""
    prompts = [[5, 6, 7, 8, 9, n] for n in range(20, 25)]
    with bank.attached():
        alone = [one for prompt in prompts for one in texts_of(generate(base, bank, [(1, prompt)], 9))]
        for steps in range(5):
            decoder, sequences = Decoder(base, bank, prompt_tokens=2), list[Sequence]()
            for prompt in prompts:
                sequences.append(new_sequence(base, 1, prompt, 9))
                decoder.join(sequences[-1])
                for _ in range(steps):
                    decoder.step()
            decoder.step()
            assert len({one.parent for one in sequences}) == 1 and sequences[0].parent is not None
            decoder.join(new_sequence(base, 1, prompts[0], 3, caller="another"))
            decoder.join(new_sequence(base, 2, prompts[0], 3))
            assert all(one.parent is None for one in decoder.running[-2:])
            decoder.leave(sequences[:1])
            while decoder.running:
                decoder.step()
            assert texts_of(sequences[1:]) == alone[1:] and decoder._cache.used == 0
