"""Many texts in one call of the tokenizer: the ids are those of each text alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from ownlm.errors import DataError
from ownlm.model.base import BaseLM, load_base
from ownlm.oppu.examples import tokenize
from ownlm.prompt.example import Example

TEXTS = ["", " ", "one", "two words", "an émigré\n\nin </s> and <s>", "</s>", "日本", "x" * 300]


@pytest.fixture(scope="module", params=["tiny", "tiny that ends texts", "smollm2"])
def base(request: pytest.FixtureRequest, tiny_base: Path) -> BaseLM:
    if request.param == "smollm2":
        return load_base(request.getfixturevalue("smollm2"), name="smollm2", fingerprint="f")
    base = load_base(tiny_base, name="tiny", fingerprint="f")
    if request.param != "tiny":
        from tokenizers.processors import TemplateProcessing

        base.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
        base = replace(base)  # it looks again at what the tokenizer puts around a text
        assert base.encode_prompt("x") == base.tokenizer("x")["input_ids"][:-1]
        assert base.encode_prompt("")[0] == 1
    return base


def test_prompts_are_encoded_as_each_alone(base: BaseLM) -> None:
    assert base.encode_prompts(TEXTS) == [base.encode_prompt(text) for text in TEXTS]
    assert base.encode_prompts([]) == []


def test_examples_keep_their_own_prompts_and_answers(base: BaseLM) -> None:
    answers = [" bin", " home", " bin", " work"]
    examples = [Example(f"r{n}", f"prompt {n}", answer, ()) for n, answer in enumerate(answers)]
    for made, example in zip(tokenize(base, "ada", iter(examples)), examples, strict=True):
        assert made.prompt == base.encode_prompt(example.prompt)
        assert made.answer == base.encode_answer(example.answer)


def test_one_that_is_too_long_is_named_and_not_shown(base: BaseLM) -> None:
    examples = [Example("r1", "short", " bin", ()), Example("r2", "long " * 9000, " bin", ())]
    with pytest.raises(DataError, match="'r2' of user 'ada'") as caught:
        tokenize(base, "ada", examples)
    assert "long long" not in str(caught.value)
    with pytest.raises(DataError, match="no record that can be trained on"):
        tokenize(base, "ada", [])
