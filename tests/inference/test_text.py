"""An answer's pieces make up the answer, and nothing is given that is taken back."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import ByteFallback, Fuse, Replace, Sequence, Strip
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from ownlm.inference.text import Detokenizer
from ownlm.model.base import BaseLM, load_base

TEXTS = st.text(alphabet="ab \n\té漢👩🏽‍🚀ß", max_size=60)


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseLM:
    return load_base(tiny_base, name="tiny", fingerprint="tiny")  # its tokens are bytes


def pieces(text: Detokenizer, tokens: list[int]) -> list[str]:
    given = []
    for token in tokens:
        text.append(token)
        given.append(text.take())
        if text.stopped:
            break
    text.finish()
    return [*given, text.take()]


@given(TEXTS)
@example("  \n a long answer, longer than a window of tokens: 漢字漢字漢字漢字漢字漢字 👩🏽‍🚀👩🏽‍🚀 \n ")
def test_pieces_join_to_the_decoded_answer(base: BaseLM, said: str) -> None:
    tokens, text = base.encode_answer(said)[:-1], Detokenizer(base)
    given = pieces(text, tokens)
    assert "".join(given) == base.decode(tokens) == said.strip() == text.whole
    assert "\ufffd" not in "".join(given)


@given(st.lists(st.integers(0, 258), max_size=80))
def test_any_tokens_at_all(base: BaseLM, tokens: list[int]) -> None:
    text = Detokenizer(base)
    assert "".join(pieces(text, tokens)) == base.decode(tokens) == text.whole


@pytest.fixture(scope="module")
def by_bytes() -> Any:
    """A base whose tokenizer, as Llama 2's, has tokens that are bytes, and decodes a run of them together."""
    vocab = {"<unk>": 0, "a": 1, "b": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    model = Tokenizer(BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    model.decoder = Sequence([ByteFallback(), Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model)
    return SimpleNamespace(tokenizer=tokenizer, decode=lambda ids: tokenizer.decode(ids).strip())


@given(st.lists(st.one_of(st.integers(0, 258), st.sampled_from([3 + byte for byte in "é€👩".encode()])), max_size=80))
@example([3 + byte for byte in b"\xe2\x82\xac\xc3"] + [1])
@example([3 + byte for byte in b"A\xc3"] + [2])
@example([3 + byte for byte in b"\xe2\x82\xac\xc3"])
def test_what_was_given_stays_where_a_run_of_bytes_breaks_off(by_bytes: Any, tokens: list[int]) -> None:
    text = Detokenizer(by_bytes)
    assert "".join(pieces(text, tokens)) == text.whole


@given(TEXTS, st.lists(st.text(alphabet="ab \né", min_size=1, max_size=3), min_size=1, max_size=3))
@example("aab", ["ab"])
@example("xx a", [" b"])
def test_stop_texts_end_the_answer(base: BaseLM, said: str, stop: list[str]) -> None:
    text = Detokenizer(base, stop)
    given = pieces(text, base.encode_answer(said)[:-1])
    ends = [(at + len(one), at) for one in stop if (at := said.lstrip().find(one)) >= 0]
    assert "".join(given) == text.whole
    if not ends:
        assert text.whole == said.strip() and not text.stopped
    else:
        assert text.stopped and text.whole == said.lstrip()[: min(ends)[1]].rstrip()


def test_one_line(base: BaseLM) -> None:
    text = Detokenizer(base, one_line=True)
    assert "".join(pieces(text, base.encode_answer(" \n one line \n and another")[:-1])) == "one line"
    assert text.stopped


# Continued texts: byte for byte


def sentencepiece(prefix_space: bool) -> Any:
    """A base whose tokenizer is one as Llama 2's: spaces are part of words, a text's first one is dropped again."""
    words = ["▁", "▁a", "a", "▁b", "b", "\n", "▁▁▁", "▁Paris"]
    vocab = {word: n for n, word in enumerate(["<unk>", "<s>", "</s>", *words])}
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    model = Tokenizer(BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    decoders = [Replace("▁", " "), ByteFallback(), Fuse(), *([Strip(" ", 1, 0)] if prefix_space else [])]
    model.decoder = Sequence(decoders)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model, bos_token="<s>", eos_token="</s>", unk_token="<unk>", clean_up_tokenization_spaces=False
    )
    return SimpleNamespace(tokenizer=tokenizer, vocab=vocab)


def tokens_of(base: Any, words: list[str]) -> list[int]:
    """Ids of tokens, or of characters by their bytes."""
    by_bytes = [([w] if w in base.vocab else [f"<0x{b:02X}>" for b in w.encode()]) for w in words]
    return [base.vocab[token] for tokens in by_bytes for token in tokens]


WORDS = st.sampled_from(["▁", "▁a", "a", "▁b", "b", "\n", "▁▁▁", "▁Paris", "é", "漢", "👩"])
BASES = {prefix: sentencepiece(prefix) for prefix in (True, False)}


@given(st.booleans(), st.lists(WORDS, min_size=1, max_size=20), st.lists(WORDS, max_size=60))
@example(True, ["▁a", "b"], ["▁Paris", "▁"])
@example(True, ["▁"], ["▁", "\n"])
@example(True, ["漢"], ["▁a"])
@example(True, ["a", *"漢" * 9], [*"漢" * 30])
@example(True, ["</s>"], ["▁Paris"])
def test_a_continued_text_is_byte_for_byte(drops_first_space: bool, prompt: list[str], said: list[str]) -> None:
    base = BASES[drops_first_space]
    before, tokens = (
        [1, *tokens_of(base, words)] if words is prompt else tokens_of(base, words) for words in (prompt, said)
    )
    decode = base.tokenizer.decode
    expected = decode(before + tokens, skip_special_tokens=True)[len(decode(before, skip_special_tokens=True)) :]
    text = Detokenizer(base, continues=before)
    given = pieces(text, tokens)
    assert "".join(given) == text.whole == expected
    assert "\ufffd" not in "".join(given)
    until_now = ""
    for place in range(len(tokens)):  # nothing whole is kept back
        until_now += given[place]
        whole = decode([*before, *tokens[: place + 1]], skip_special_tokens=True)
        assert whole.endswith("\ufffd") or decode(before, skip_special_tokens=True) + until_now == whole


@given(TEXTS, TEXTS)
def test_a_continuation_by_bytes_keeps_its_white_space(base: BaseLM, prompt: str, said: str) -> None:
    before, tokens = base.encode_prompt(prompt), base.encode_answer(said)[:-1]
    text = Detokenizer(base, continues=before)
    assert "".join(pieces(text, tokens)) == text.whole == said


def test_a_character_that_the_prompt_begins_is_finished_by_the_answer() -> None:
    base = BASES[True]
    before, tokens = tokens_of(base, ["a", "漢", "👩"]), tokens_of(base, ["▁Paris"])
    text = Detokenizer(base, continues=before[:-2])
    assert "".join(pieces(text, [*before[-2:], *tokens])) == text.whole == "👩 Paris"


REPLACED = st.lists(st.sampled_from(["\ufffd", "\ufffd", "▁a", "a", "▁", "é", "漢"]), max_size=40)


@given(st.sampled_from(["bytes", True, False]), REPLACED, REPLACED)
@example("bytes", ["a", "\ufffd"], ["a"])
@example(True, ["a", "\ufffd"], ["▁a"])
@example(True, ["\ufffd"], ["▁a"])
@example(False, ["\ufffd"] * 20, ["\ufffd"] * 40 + ["a"])
@example("bytes", ["\ufffd"] * 20, ["\ufffd"] * 40 + ["a"])
def test_a_replacement_character_of_the_text_itself(
    base: BaseLM, kind: Any, prompt: list[str], said: list[str]
) -> None:
    """U+FFFD at the end of a prompt is no unfinished character: it is not repeated in the answer."""
    if kind == "bytes":
        before, tokens = base.encode_prompt("".join(prompt)), base.encode_answer("".join(said))[:-1]
        text, expected = Detokenizer(base, continues=before), "".join(said)
    else:
        before, tokens = [1, *tokens_of(BASES[kind], ["b", *prompt])], tokens_of(BASES[kind], said)
        text, expected = Detokenizer(BASES[kind], continues=before), "".join(said).replace("▁", " ")
    assert "".join(pieces(text, tokens)) == text.whole == expected


@given(TEXTS, st.lists(st.text(alphabet="ab \né", max_size=3), max_size=4))
@example(" Paris", [" "])
@example("\n\na", ["\n\n"])
@example("ab", ["ab", "b", ""])
@example("xaab", ["ab", "aab"])
@example("a b ", [""])
def test_stop_texts_of_a_continuation(base: BaseLM, said: str, stop: list[str]) -> None:
    """What comes first ends it, white space at the beginning too; what is empty ends nothing."""
    text = Detokenizer(base, stop, continues=base.encode_prompt("x"))
    given = pieces(text, base.encode_answer(said)[:-1])
    ends = [(at + len(one), at) for one in stop if one and (at := said.find(one)) >= 0]
    assert "".join(given) == text.whole == (said[: min(ends)[1]] if ends else said)
    assert text.stopped == bool(ends)


def test_a_stop_text_is_found_before_an_unfinished_character(base: BaseLM) -> None:
    text = Detokenizer(base, ["b"], continues=base.encode_prompt("x"))
    for token in base.encode_answer("ab漢")[:-2]:
        text.append(token)
    assert text.stopped and text.take() == "a"


@pytest.mark.parametrize("prompt", [[], [400], [5, 400]])
def test_ids_that_the_tokenizer_lacks_have_no_text(base: BaseLM, prompt: list[int]) -> None:
    text = Detokenizer(base, continues=prompt)
    assert "".join(pieces(text, [400, *base.encode_answer("ab")[:-1], 400])) == text.whole == "ab"
