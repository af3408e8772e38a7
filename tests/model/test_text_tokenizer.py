"""Text stays text: what a user writes never becomes a token that steers the model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ownlm.model.base import BaseLM, load_base, load_without_weights
from ownlm.model.bases.text_tokenizer import TextTokenizer, is_control

# Added tokens of published tokenizers. None is marked as special: those are control tokens whatever they are called.
CONTROL = {
    "qwen": [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<tool_response>",
        "<|fim_prefix|>",
        "<|repo_name|>",
    ],
    "gemma": ["<start_of_turn>", "<end_of_turn>", "<unused7>", "[@BOS@]", "[multimodal]", "<start_of_image>", "<mask>"],
    "gemma 4": ["<|turn>", "<turn|>", "<|channel>", "<channel|>"],
    "llama": ["<|eot_id|>", "<|start_header_id|>", "<|python_tag|>", "<|reserved_special_token_3|>", "<s>", "</s>"],
    "phi": ["<|im_sep|>", "<|tool_call|>", "<|/tool_call|>", "<|end|>", "<|dummy_12|>"],
    "gpt-oss": ["<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|return|>", "<|call|>"],
    "deepseek": [
        "<\uff5cUser\uff5c>",
        "<\uff5cAssistant\uff5c>",
        "<\uff5ctool\u2581calls\u2581begin\uff5c>",
        "<|EOT|>",
    ],
    "mistral": ["[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[IMG]", "[SYSTEM_PROMPT]"],
    "brackets": [
        "\u25c1think\u25b7",
        "\u27e8think\u27e9",
        "\u27e6tool\u27e7",
        "\u2039think\u203a",
        "\uff1cthink\uff1e",
        "\u300cuser\u300d",
    ],
    "others": ["<|START_OF_TURN_TOKEN|>", ">>QUESTION<<", "[gMASK]", "[|endofturn|]", "<\u7528\u6237>", "{{user}}"],
}
ORDINARY = {
    "gemma": ["\n\n", "\n" * 31, "\u2581\u2581", "\u2581" * 31, "\t\t", "<h1>", "</td>", "<blockquote>", "</strong>"],
    "phi": [" " * n for n in range(2, 8)] + ["\t" * 9],
    "deepseek coder": ["\u00f6", "\u00ff", "\u00f7"],
    "others": ["...", "=>", "|", "Paris", " the", "user", "e-mail", "don\u2019t", "f(x)", "\u201cyes\u201d"],
}
HTML_LIKE = {"<s>", "</s>"}  # marked as special wherever they begin and end a text
TEMPLATE = (
    "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}</turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n<think></think>{% endif %}"
)
ADDED = ["<turn>", "</turn>", "<think>", "</think>", "<tool_call>", "\n\n", "   ", "<h1>", "Paris"]
STEERS = {"<turn>", "</turn>", "<think>", "</think>", "<tool_call>", "<pad>", "<s>"}


@pytest.mark.parametrize("family", CONTROL)
def test_control_tokens_are_recognised_by_their_shape(family: str) -> None:
    for text in CONTROL[family]:
        assert is_control(AddedToken(text, special=text in HTML_LIKE), ""), text


@pytest.mark.parametrize("family", ORDINARY)
def test_pieces_of_text_stay_ordinary(family: str) -> None:
    for text in ORDINARY[family]:
        assert not is_control(AddedToken(text, special=False), "{{ messages[0]['user'] == '|' }}\n\n...   Paris"), text


def test_what_a_chat_template_uses_steers() -> None:
    for text in ("<code>", "Human:", "### Response"):
        assert is_control(AddedToken(text, special=False), f"{{{{ '{text}' }}}}")
    assert not is_control(AddedToken("<code>", special=False), "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """The tiny base with a chat template, and added tokens of which none is marked as special."""
    folder = tmp_path_factory.mktemp("text") / "base"
    shutil.copytree(tiny_base, folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in ADDED])
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(folder: Path) -> BaseLM:
    return load_without_weights(folder, name="added", fingerprint="added")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Tokenizer:
    """The same tokenizer, to which no control token was ever added."""
    content = json.loads((folder / "tokenizer.json").read_text("utf8"))
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in STEERS | {"</s>"}]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    moved = {tokenizer.token_to_id(token["content"]): token["id"] for token in content["added_tokens"]}
    tokenizer.numbered = lambda text: [moved.get(id, id) for id in tokenizer.encode(text).ids]  # type: ignore[attr-defined]
    return tokenizer


TEXTS = st.lists(
    st.sampled_from([*ADDED, "</s>", "<s>", "<", "think>", " ", "\n", "a", "\u00e9", "user"]), max_size=12
).map("".join)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS | st.text(max_size=20))
def test_text_is_encoded_as_if_no_control_token_had_been_added(base: BaseLM, plain: Any, text: str) -> None:
    control = base.text.control
    assert set(control.values()) == STEERS | {"</s>"}
    expected = plain.numbered(text)
    assert base.encode_prompt(text) == expected
    assert base.encode_answer(text) == [*expected, base.end_of_text]
    assert control.keys().isdisjoint(expected)
    assert base.tokenizer.decode(expected) == text


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_a_chat_steers_by_its_template_alone(base: BaseLM, plain: Any, text: str) -> None:
    ids = base.encode_chat(text, "It")
    control = [base.text.control[id] for id in ids if id in base.text.control]
    assert control == ["<turn>", "</turn>", "<turn>", "<think>", "</think>"]
    inside = plain.numbered(text)
    assert any(ids[at : at + len(inside)] == inside for at in range(len(ids)))


def test_what_is_marked_as_special_alone_is_not_enough(base: BaseLM) -> None:
    ids = base.tokenizer("<think>", split_special_tokens=True, add_special_tokens=False)["input_ids"]
    assert [base.text.control.get(id) for id in ids] == ["<think>"]


def test_ordinary_added_tokens_are_still_used(base: BaseLM) -> None:
    for text in ("\n\n", "   ", "<h1>", "Paris"):
        assert len(base.encode_prompt(text)) == 1


def test_answers_show_what_the_model_wrote(base: BaseLM) -> None:
    """Decoding is as it was: what is not marked as special is shown."""
    ids = base.tokenizer("<think>hm</think> yes", split_special_tokens=False)["input_ids"]
    assert base.decode(ids) == "<think>hm</think> yes"


def test_a_vocabulary_that_makes_control_tokens_by_itself_is_kept_from_it() -> None:
    """A vocabulary of whole words, one that takes wide letters for narrow ones; and a Unigram model."""
    words = {"[UNK]": 0, "<think>": 1, "hi": 2, "<": 3, "think": 4, ">": 5}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.WhitespaceSplit()
    wordly = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]")
    wordly.add_tokens(["<think>"])
    assert 1 in wordly("hi <think>")["input_ids"]
    text = TextTokenizer(wordly)
    for written in ("hi <think>", "hi \uff1cthink\uff1e"):
        assert 1 not in text([written])[0] and text([written])[0][0] == 2
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("\u2581", -2.0), ("hi", -2.0), ("</", -3.0), ("s", -3.0), (">", -3.0)]
    made = Tokenizer(models.Unigram(pieces, unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>")
    assert 1 in unigram("hi</s>", split_special_tokens=True)["input_ids"]
    assert 1 not in TextTokenizer(unigram)(["hi</s>"])[0]


def test_tokens_with_gaps_between_their_ids_keep_them(tiny_base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.add_tokens(["first", "<|second|>", "\n\n"])
    tokenizer.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text("utf8"))
    (dropped,) = [token for token in content["added_tokens"] if token["content"] == "first"]
    content["added_tokens"].remove(dropped)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf8")
    again = AutoTokenizer.from_pretrained(tmp_path)
    ids = {token: again.convert_tokens_to_ids(token) for token in ("<|second|>", "\n\n")}
    text = TextTokenizer(again)
    assert text(["\n\n"]) == [[ids["\n\n"]]] and ids["<|second|>"] not in text(["<|second|>"])[0]


@pytest.mark.parametrize("listed", [["EOM", "<b>"], {"end_token": "EOM", "bold_token": "<b>"}])
def test_what_is_listed_as_special_is_control(tiny_base: Path, tmp_path: Path, listed: object) -> None:
    """Whatever the token's own flag says, and whatever it looks like."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in ("EOM", "<b>", "Paris")])
    tokenizer.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text("utf8"))
    settings["extra_special_tokens"] = listed
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), "utf8")
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert {"EOM", "<b>"} <= set(again.all_special_tokens)
    text = TextTokenizer(again)
    (ids,) = text(["EOM <b> Paris"])
    assert text.control.keys().isdisjoint(ids) and again.decode(ids) == "EOM <b> Paris"
    assert again.convert_tokens_to_ids("Paris") in ids and again.convert_tokens_to_ids("EOM") not in ids


def test_the_embedded_base_keeps_text_text(smollm2: Path) -> None:
    base = load_base(smollm2, name="smollm2", fingerprint="f")
    text = "a <|im_start|>system <|endoftext|> <repo_name> b"
    ids = base.encode_prompt(text)
    assert base.text.control.keys().isdisjoint(ids) and base.tokenizer.decode(ids) == text
