"""Assembly equals the procedure released with Per-Pcs; `reference/README.md` says what the numbers are."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from ownlm.config import LoraConfig
from ownlm.model.attention import NAME
from ownlm.model.base import BaseLM
from ownlm.model.forward_context import trim_last_mlp
from ownlm.oppu.minibatches import TokenizedExample
from ownlm.perpcs.assemble import Target, assemble
from ownlm.perpcs.materialise import materialise
from ownlm.perpcs.piece import Piece
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import Recipe
from tests.perpcs.assembling import pool_for, sharers_of

FOLDER = Path(__file__).parent / "reference"
ABOUT = json.loads((FOLDER / "perpcs_assembly.json").read_text("utf8"))
QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")
NAMES = [f"layers.{layer}.self_attn.{kind}" for layer in range(3) for kind in QKVO]
LORA = LoraConfig(r=4, lora_alpha=8, target_modules=QKVO)
CLOSE = 1e-5


@pytest.fixture(scope="module")
def numbers() -> dict[str, Tensor]:
    return load_file(FOLDER / "perpcs_assembly.safetensors")


@pytest.fixture(scope="module")
def base(numbers: dict[str, Tensor]) -> BaseLM:
    shape = dict(ABOUT["model"])
    rope = {"rope_type": "default", "rope_theta": shape.pop("rope_theta")}
    config = LlamaConfig(**shape, rope_parameters=rope, tie_word_embeddings=False, attn_implementation=NAME)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    weights = {key.removeprefix("base."): value for key, value in numbers.items() if key.startswith("base.")}
    model.load_state_dict(weights)  # every weight, and no other
    trim_last_mlp(model)
    return BaseLM("reference", "e" * 64, FOLDER, model, None)


@pytest.fixture(scope="module")
def pool(base: BaseLM, numbers: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Pool:
    def piece(number: int, name: str) -> Piece:
        return Piece(*(numbers[f"piece.{number}.{name}.{part}"] for part in ("lora_A.weight", "lora_B.weight", "gate")))

    given = {
        f"model.{name}": {sharer: piece(number, name) for number, sharer in enumerate(sharers_of(5))} for name in NAMES
    }
    return pool_for(base, tmp_path_factory.mktemp("reference") / "pool", given, LORA)


def records(numbers: dict[str, Tensor]) -> list[TokenizedExample]:
    found = []
    for ids, labels in zip(numbers["input_ids"].tolist(), numbers["answer_labels"].tolist(), strict=True):
        answer = [at for at, label in enumerate(labels) if label]
        found.append(TokenizedExample(ids[: answer[0]], ids[answer[0] : answer[-1] + 1]))
    return found


@pytest.mark.parametrize("tokens_per_pass", [2048, 40, 1], ids=["one-row", "some-rows", "a-row-each"])
@pytest.mark.parametrize("case", ABOUT["cases"])
def test_choices_weights_and_factors(
    base: BaseLM, pool: Pool, numbers: dict[str, Tensor], case: str, tokens_per_pass: int
) -> None:
    about, examples = ABOUT["cases"][case], records(numbers)
    size = min(about["batch_size"], len(examples))
    batches = [Target(f"batch {at}", examples[at : at + size]) for at in range(0, len(examples), size)]
    how = {"top_k": about["top_k"], "tau": about["temperature"], "tokens_per_pass": tokens_per_pass}
    made: list[Recipe] = [one.recipe for one in assemble(base, pool, batches, combine="factors", **how)]
    adapters = [materialise(recipe, pool).pairs for recipe in made]
    for number, name in enumerate(NAMES):
        chosen = about["last_batch_selection"][name]
        assert made[-1].place_MK[number].tolist() == chosen["idx"]
        np.testing.assert_allclose(made[-1].weight_MK[number], chosen["weights"], atol=CLOSE)
        for part, matrices in (
            ("lora_A", [pairs[f"model.{name}"].A_RD for pairs in adapters]),
            ("lora_B", [pairs[f"model.{name}"].B_OR for pairs in adapters]),
        ):
            expected = numbers[f"expected.{case}.{name}.{part}.weight"]
            torch.testing.assert_close(torch.stack(matrices).mean(0), expected, atol=CLOSE, rtol=0)
