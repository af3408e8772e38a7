"""An answer's pieces make up the answer, and nothing is given that is taken back."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import ByteFallback, Fuse, Sequence
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from ownlm.answer.text import AnswerText
from ownlm.model.base import BaseLM, load_base

TEXTS = st.text(alphabet="ab \n\té漢👩🏽‍🚀ß", max_size=60)


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> BaseLM:
    return load_base(tiny_base, name="tiny", fingerprint="tiny")  # its tokens are bytes


def pieces(text: AnswerText, tokens: list[int]) -> list[str]:
    given = []
    for token in tokens:
        text.add(token)
        given.append(text.take())
        if text.stopped:
            break
    text.end()
    return [*given, text.take()]


@given(TEXTS)
@example("  \n a long answer, longer than a window of tokens: 漢字漢字漢字漢字漢字漢字 👩🏽‍🚀👩🏽‍🚀 \n ")
def test_pieces_join_to_the_decoded_answer(base: BaseLM, said: str) -> None:
    tokens, text = base.encode_answer(said)[:-1], AnswerText(base)
    given = pieces(text, tokens)
    assert "".join(given) == base.decode(tokens) == said.strip() == text.whole
    assert "\ufffd" not in "".join(given)


@given(st.lists(st.integers(0, 258), max_size=80))
def test_any_tokens_at_all(base: BaseLM, tokens: list[int]) -> None:
    text = AnswerText(base)
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
    text = AnswerText(by_bytes)
    assert "".join(pieces(text, tokens)) == text.whole


@given(TEXTS, st.lists(st.text(alphabet="ab \né", min_size=1, max_size=3), min_size=1, max_size=3))
@example("aab", ["ab"])
@example("xx a", [" b"])
def test_stop_texts_end_the_answer(base: BaseLM, said: str, stop: list[str]) -> None:
    text = AnswerText(base, stop)
    given = pieces(text, base.encode_answer(said)[:-1])
    ends = [(at + len(one), at) for one in stop if (at := said.lstrip().find(one)) >= 0]
    assert "".join(given) == text.whole
    if not ends:
        assert text.whole == said.strip() and not text.stopped
    else:
        assert text.stopped and text.whole == said.lstrip()[: min(ends)[1]].rstrip()


def test_one_line(base: BaseLM) -> None:
    text = AnswerText(base, one_line=True)
    assert "".join(pieces(text, base.encode_answer(" \n one line \n and another")[:-1])) == "one line"
    assert text.stopped
