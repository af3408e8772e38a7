"""Sequences join and leave a running batch at any moment, and each is continued as if it were alone."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ownlm.config import LoraConfig
from ownlm.inference.decoder import Decoder, Reply
from ownlm.inference.generate import generate
from ownlm.inference.prompt_row import Prompt
from ownlm.inference.sampling import Dice
from ownlm.inference.text import AnswerText
from ownlm.model.bank import LoraBank
from ownlm.model.base import BaseLM, load_base
from ownlm.model.packed import BatchBuilder

SLOTS = 4


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseLM:
    return load_base(tiny_base, name="tiny", fingerprint="tiny")


@pytest.fixture(scope="module")
def bank(base: BaseLM) -> LoraBank:
    bank = LoraBank(base.model, LoraConfig(r=4, lora_alpha=8), SLOTS)
    bank.param_UP.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
    return bank


def reply(base: BaseLM, slot: int, prompt: list[int], most: int = 6, dice: Dice | None = None) -> Reply:
    return Reply(slot, list(prompt), most, AnswerText(base), dice)


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
    decoder, done, step = Decoder(base, bank, prompt_tokens=prompt_tokens), list[Reply](), 0
    people = [(reply(base, slot, prompt, most), joins, leaves) for slot, prompt, most, joins, leaves in visits]
    with bank.attached():
        while step <= 6 or decoder.live:
            for one, joins, leaves in people:
                if joins == step:
                    decoder.join(one)
                if leaves is not None and joins + leaves == step:
                    decoder.leave([one])
            if decoder.live:
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

    def told(others: int) -> list[int]:
        decoder, mine = Decoder(base, bank), reply(base, 1, prompt, 12, Dice(1.5, 0.95, seed=3))
        with bank.attached():
            for n in range(others):
                decoder.join(reply(base, n % SLOTS, [9 + n] * (n + 1), 5 + n, Dice(1.0, seed=n)))
            decoder.join(mine)
            while not mine.finish:
                decoder.step()
        return mine.text.tokens

    assert told(0) == told(1) == told(7)


def test_a_long_prompt_stalls_nobody(base: BaseLM) -> None:
    decoder = Decoder(base, prompt_tokens=10)
    long, short, late = reply(base, -1, [5] * 100), reply(base, -1, [6, 7]), reply(base, -1, [8] * 4, 3)
    decoder.join(long)
    decoder.step()
    decoder.join(short)
    assert decoder.step() == [short]  # five tokens are for the one that waits longest, and the rest for short ones
    decoder.join(late)
    assert set(decoder.step()) == {short, late}
    while not long.heard:
        decoder.step()
    assert decoder.passes <= 1 + 100 // 5


def test_a_common_beginning_is_computed_once(base: BaseLM, bank: LoraBank) -> None:
    prompts = [Prompt(1, [5, 6, 7, 8, n]) for n in (20, 21, 22)]
    decoder = Decoder(base, bank)
    together = [reply(base, 1, prompt.tokens) for prompt in prompts]
    with bank.attached():
        decoder.join(*together)
        decoder.step()
        assert decoder._cache.used == 4 + 3
        while decoder.live:
            decoder.step()
        alone = [generate(base, bank, [prompt], max_new_tokens=6)[0] for prompt in prompts]
    assert [one.text.whole for one in together] == alone and decoder._cache.used == 0


def test_places_are_used_again(base: BaseLM) -> None:
    decoder = Decoder(base, places=60)
    first = reply(base, -1, [5] * 40, 10)
    decoder.join(first)
    assert decoder.has_room(10) and not decoder.has_room(11)
    decoder.step()
    decoder.leave([first])
    decoder.leave([first])  # again is no error
    for _ in range(20):
        decoder.join(reply(base, -1, [5] * 40, 2))
        while decoder.live:
            decoder.step()
    assert decoder._cache._places == 256  # as many as at first
    assert decoder.has_room(1000)  # nobody is there whom it could hurt


def test_after_a_pass_that_failed_all_is_as_new(base: BaseLM, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, lost = Decoder(base), [reply(base, -1, [5, 6]), reply(base, -1, [7])]
    for one in lost:
        decoder.join(one)
    decoder.step()
    with monkeypatch.context() as patch:
        patch.setattr(base.model, "forward", lambda **_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            decoder.step()
    assert decoder.clear() == lost and not decoder.live
    after = reply(base, -1, [5, 6])
    decoder.join(after)
    while not after.finish:
        decoder.step()
    assert after.text.whole == generate(base, None, [Prompt(-1, [5, 6])], max_new_tokens=6)[0]
