"""The architectures that were tried as bases: what becomes of each. `tests/model/test_bases.py` tries them all.

`python -m tests.model.bases_table` writes docs/bases.md from this table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.model.small_bases import EXPERTS, QWEN2_MOE, QWEN3_MOE

PAGE = Path(__file__).parents[2] / "docs" / "bases.md"
SHORT = 16  # a window, or a chunk, that the tests' texts are longer than


@dataclass(frozen=True)
class Tried:
    """One architecture.

    Attributes:
        name: of the family.
        models: published ones, for the page.
        kind: transformers' model type.
        changes: of the small configuration that is tried.
        architecture: the class it is published as, where `AutoModelForCausalLM` makes another.
        edit: what is changed in the written config.json.
        modules: what the presets' q, k, v and o projections are called there.
        refused: why `ownlm base add` refuses it, in these words; none where it is accepted.
    """

    name: str
    models: str
    kind: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    architecture: str | None = None
    edit: Mapping[str, Any] = field(default_factory=dict)
    modules: str = "q_proj, k_proj, v_proj, o_proj"
    refused: str | None = None


VISION = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
VISION_4 = VISION | {"projector_input_dim": 32, "projector_output_dim": 32, "vision_output_dim": 32}
MLA = {
    "kv_lora_rank": 8, "q_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
    "num_key_value_heads": 4, "head_dim": 4,
}  # fmt: skip
DEEPSEEK = MLA | {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
    "n_group": 1, "topk_group": 1, "n_shared_experts": 1,
}  # fmt: skip
LLAMA_4 = {"num_local_experts": 4, "intermediate_size_mlp": 48, "attention_chunk_size": SHORT, "use_qk_norm": True}
LONGROPE = {
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.5, 2.0, 4.0, 8.0], "original_max_position_embeddings": 64,
    },
    "original_max_position_embeddings": 64,
}  # fmt: skip
MIXED = ["sliding_attention", "full_attention"]
GEMMA_4 = {"sliding_window": SHORT, "layer_types": MIXED, "global_head_dim": 16, "hidden_size_per_layer_input": 0}
PER_LAYER = {  # the last two layers read the keys and values of the first two
    "sliding_window": SHORT, "num_hidden_layers": 4, "layer_types": MIXED * 2, "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 320,
}  # fmt: skip
DBRX = {
    "d_model": 32, "n_heads": 4, "n_layers": 2,
    "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 500000.0},
    "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
}  # fmt: skip
LATENT = "q_a_proj, q_b_proj, kv_a_proj_with_mqa, o_proj"
JOINT = "query_key_value, dense"
STATE = "layers that carry a state along the row"
ALIBI = "positions by ALiBi, which packed rows do not have"
CONV1D = "projections of the class Conv1D, which take no adapters"
CODE = "attention that transformers does not let others compute"
NO_CODE = "a CodeGenForCausalLM, without attention that transformers lets others compute"
ENCODER = "attention to later tokens"
ENCODER_DECODER = "The model is an encoder-decoder"
NO_LAYER = "a XGLMForCausalLM, without attention that transformers lets others compute"
INDEXER = "attention to tokens of the whole row that an indexer chooses"
NO_TEXT = "The model in FOLDER is no causal language model"
QUANTISED = "The model in FOLDER is quantised: use the full-precision base"
UNKNOWN = "The model is of a type that transformers does not know"
OWN_CODE = "The model needs code of its own, which is not run here"

TABLE = (
    Tried("Llama 2, 3", "Llama-2-7b, Llama-3.1-8B, Llama-3.2-1B, TinyLlama", "llama"),
    Tried("SmolLM 2", "smollm2-135m, SmolLM2-1.7B", "llama", {"tie_word_embeddings": True}),
    Tried("Llama 4", "the text part of Llama-4-Scout", "llama4_text", LLAMA_4),
    Tried(
        "Llama 4, with pictures",
        "Llama-4-Scout-17B-16E",
        "llama4",
        {"text_config": LLAMA_4, "vision_config": VISION_4},
        "Llama4ForConditionalGeneration",
    ),
    Tried("Mistral", "Mistral-7B, Ministral-8B", "mistral", {"sliding_window": SHORT}),
    Tried("Ministral 3", "the text part of Ministral-3-8B", "ministral3", {"sliding_window": SHORT}),
    Tried("Mixtral", "Mixtral-8x7B", "mixtral", {"num_local_experts": 4, "sliding_window": SHORT}),
    Tried("Qwen 2, 2.5", "Qwen2.5-0.5B, Qwen2.5-7B", "qwen2"),
    Tried(
        "Qwen 2 with windows",
        "Qwen2-7B with use_sliding_window",
        "qwen2",
        {"use_sliding_window": True, "sliding_window": SHORT, "max_window_layers": 1},
    ),
    Tried("Qwen 3", "Qwen3-0.6B, Qwen3-8B", "qwen3"),
    Tried("Qwen 2 MoE", "Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B", "qwen2_moe", QWEN2_MOE),
    Tried("Qwen 3 MoE", "Qwen3-30B-A3B", "qwen3_moe", QWEN3_MOE),
    Tried("Gemma", "gemma-2b, gemma-7b", "gemma"),
    Tried("Gemma 2", "gemma-2-2b, gemma-2-9b", "gemma2", {"sliding_window": SHORT, "attn_logit_softcapping": 2.0}),
    Tried("Gemma 3", "gemma-3-270m, gemma-3-1b", "gemma3_text", {"sliding_window": SHORT}),
    Tried(
        "Gemma 3, with pictures",
        "gemma-3-4b, gemma-3-12b, gemma-3-27b",
        "gemma3",
        {"text_config": {"sliding_window": SHORT}, "vision_config": VISION, "mm_tokens_per_image": 4},
        "Gemma3ForConditionalGeneration",
    ),
    Tried("Gemma 3n", "the text part of gemma-3n-E2B", "gemma3n_text", PER_LAYER | {"laurel_rank": 4}),
    Tried("Gemma 4", "the text part of gemma-4-E2B", "gemma4_text", GEMMA_4 | PER_LAYER),
    Tried(
        "Gemma 4 MoE",
        "the text part of gemma-4-26B-A4B",
        "gemma4_text",
        GEMMA_4 | EXPERTS | {"enable_moe_block": True, "top_k_experts": 2, "attention_k_eq_v": True},
    ),
    Tried(
        "Gemma 4, with pictures",
        "gemma-4-31B",
        "gemma4",
        {"text_config": GEMMA_4, "vision_config": VISION | {"num_key_value_heads": 2, "head_dim": 16}},
        "Gemma4ForConditionalGeneration",
    ),
    Tried("Gemma 4, unified", "the text part of gemma-4-12B", "gemma4_unified_text", GEMMA_4),
    Tried("VaultGemma", "vaultgemma-1b", "vaultgemma", {"sliding_window": SHORT}),
    Tried("DBRX", "dbrx-base, dbrx-instruct", "dbrx", DBRX, modules="Wqkv, out_proj"),
    Tried("Phi 1, 2", "phi-1_5, phi-2", "phi", {"without": ["head_dim"]}, modules="q_proj, k_proj, v_proj, dense"),
    Tried("Phi 3, 4", "Phi-3-mini-4k, phi-4", "phi3", {"sliding_window": SHORT}, modules="qkv_proj, o_proj"),
    Tried("Phi 3.5, 4 mini", "Phi-3.5-mini, Phi-4-mini", "phi3", LONGROPE, modules="qkv_proj, o_proj"),
    Tried("PhiMoE", "Phi-3.5-MoE", "phimoe", {"num_local_experts": 4, "sliding_window": SHORT}),
    Tried("OLMo", "OLMo-1B, OLMo-7B", "olmo"),
    Tried("OLMo 2", "OLMo-2-0425-1B, OLMo-2-1124-7B", "olmo2"),
    Tried("OLMo 3", "Olmo-3-7B", "olmo3", {"sliding_window": SHORT}),
    Tried("OLMoE", "OLMoE-1B-7B", "olmoe", EXPERTS),
    Tried("Granite", "granite-3.3-2b, granite-3.3-8b", "granite", {"logits_scaling": 2.0, "residual_multiplier": 0.5}),
    Tried("Granite MoE", "granite-3.1-1b-a400m", "granitemoe", {"num_local_experts": 4}),
    Tried("SmolLM 3", "SmolLM3-3B", "smollm3", {"no_rope_layers": [1, 0]}),
    Tried("gpt-oss", "gpt-oss-20b in bfloat16", "gpt_oss", {"num_local_experts": 4, "sliding_window": SHORT}),
    Tried("GPT-NeoX", "pythia-70m to pythia-12b", "gpt_neox", modules=JOINT),
    Tried("StarCoder 2", "starcoder2-3b", "starcoder2", {"sliding_window": SHORT}),
    Tried("DeepSeek V2", "DeepSeek-V2-Lite", "deepseek_v2", DEEPSEEK | {"topk_method": "greedy"}, modules=LATENT),
    Tried("DeepSeek V3", "DeepSeek-V3 in bfloat16, Moonlight-16B-A3B", "deepseek_v3", DEEPSEEK, modules=LATENT),
    Tried("Cohere", "c4ai-command-r-v01, aya-23-8B", "cohere"),
    Tried("Cohere 2", "c4ai-command-r7b-12-2024", "cohere2", {"sliding_window": SHORT}),
    Tried("GLM 4", "glm-4-9b-hf", "glm"),
    Tried("GLM 4-0414", "GLM-4-9B-0414", "glm4"),
    Tried("GLM 4.5", "GLM-4.5-Air", "glm4_moe", EXPERTS | {"n_routed_experts": 4, "first_k_dense_replace": 1}),
    Tried("EXAONE 4", "EXAONE-4.0-1.2B", "exaone4", {"sliding_window": SHORT}),
    Tried("ERNIE 4.5", "ERNIE-4.5-0.3B", "ernie4_5"),
    Tried(
        "Granite 4 without Mamba",
        "granite-4.0-350m",
        "granitemoehybrid",
        {"num_local_experts": 0, "mamba_n_heads": 4, "layer_types": ["attention"] * 2},
    ),
    Tried("Hunyuan", "Hunyuan-0.5B, Hunyuan-7B", "hunyuan_v1_dense"),
    Tried(
        "MiniMax M2",
        "MiniMax-M2 in bfloat16",
        "minimax_m2",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "rotary_dim": 4},
    ),
    Tried("Nemotron, Minitron", "Minitron-4B, Nemotron-4", "nemotron", {"without": ["head_dim"]}),
    Tried("StableLM 2", "stablelm-2-1_6b", "stablelm", {"without": ["head_dim"]}),
    Tried("Seed-OSS", "Seed-OSS-36B", "seed_oss"),
    Tried("Arcee", "AFM-4.5B", "arcee"),
    Tried("Helium", "helium-1-2b", "helium"),
    Tried("Apertus", "Apertus-8B-2509", "apertus"),
    Tried(
        "OPT", "opt-125m", "opt", {"word_embed_proj_dim": 32, "ffn_dim": 48}, modules="q_proj, k_proj, v_proj, out_proj"
    ),
    Tried("Persimmon", "persimmon-8b", "persimmon", modules=JOINT),
    Tried(
        "StarCoder, SantaCoder",
        "starcoderbase-1b",
        "gpt_bigcode",
        {"n_embd": 32, "n_layer": 2, "n_head": 4},
        modules="c_attn, c_proj",
    ),
    Tried("GPT-2", "gpt2, distilgpt2", "gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4}, refused=CONV1D),
    Tried("Falcon", "falcon-7b", "falcon", {"without": ["head_dim"], "alibi": False}, refused=CODE),
    Tried("Falcon with ALiBi", "falcon-rw-1b", "falcon", {"without": ["head_dim"], "alibi": True}, refused=ALIBI),
    Tried("BLOOM", "bloom-560m, bloomz", "bloom", {"n_layer": 2, "n_head": 4}, refused=ALIBI),
    Tried("MPT", "mpt-7b", "mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2}, refused=ALIBI),
    Tried("GPT-J", "gpt-j-6b", "gptj", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 8}, refused=CODE),
    Tried(
        "GPT-Neo",
        "gpt-neo-125m",
        "gpt_neo",
        {"attention_types": [[["global"], 2]], "num_layers": 2, "num_heads": 4},
        refused=CODE,
    ),
    Tried(
        "CodeGen",
        "codegen-350M-mono",
        "codegen",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 8},
        refused=NO_CODE,
    ),
    Tried("Mamba", "mamba-130m-hf", "mamba", {"state_size": 4}, refused=STATE),
    Tried(
        "Mamba 2",
        "mamba2-130m",
        "mamba2",
        {"state_size": 4, "num_heads": 8, "head_dim": 8, "n_groups": 1},
        refused=STATE,
    ),
    Tried("Falcon Mamba", "falcon-mamba-7b", "falcon_mamba", {"state_size": 4}, refused=STATE),
    Tried("RWKV", "rwkv-4-169m-pile", "rwkv", {"attention_hidden_size": 32}, refused=STATE),
    Tried(
        "RecurrentGemma",
        "recurrentgemma-2b",
        "recurrent_gemma",
        {"num_hidden_layers": 3, "lru_width": 32},
        refused=STATE,
    ),
    Tried(
        "Jamba",
        "Jamba-v0.1",
        "jamba",
        {"num_experts": 2, "mamba_d_state": 4, "num_hidden_layers": 2, "attn_layer_period": 2, "attn_layer_offset": 1},
        refused=STATE,
    ),
    Tried(
        "Granite 4",
        "granite-4.0-h-tiny",
        "granitemoehybrid",
        {"num_local_experts": 0, "mamba_n_heads": 4, "layer_types": ["mamba", "attention"]},
        refused=STATE,
    ),
    Tried(
        "Falcon H1",
        "Falcon-H1-0.5B",
        "falcon_h1",
        {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4},
        refused=STATE,
    ),
    Tried(
        "Nemotron H",
        "Nemotron-H-8B",
        "nemotron_h",
        {"hybrid_override_pattern": "M*", "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 4},
        refused=STATE,
    ),
    Tried(
        "Qwen 3.5",
        "Qwen3.5-4B",
        "qwen3_5_text",
        {
            "linear_num_value_heads": 2,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"],
        },
        refused=STATE,
    ),
    Tried(
        "DeepSeek V3.2",
        "DeepSeek-V3.2 in bfloat16",
        "deepseek_v32",
        DEEPSEEK | {"index_n_heads": 2, "index_head_dim": 8},
        refused=INDEXER,
    ),
    Tried(
        "XGLM",
        "xglm-564M",
        "xglm",
        {"d_model": 32, "attention_heads": 4, "num_layers": 2, "ffn_dim": 48},
        refused=NO_LAYER,
    ),
    Tried("LFM 2", "LFM2-350M", "lfm2", {"layer_types": ["conv", "full_attention"]}, refused=STATE),
    Tried(
        "Qwen 3 Next",
        "Qwen3-Next-80B-A3B",
        "qwen3_next",
        EXPERTS
        | {
            "shared_expert_intermediate_size": 16,
            "linear_num_value_heads": 2,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
        refused=STATE,
    ),
    Tried(
        "BERT",
        "bert-base-uncased",
        "bert",
        architecture="BertForMaskedLM",
        refused=NO_TEXT,
    ),
    Tried("BERT with a head for text", "-", "bert", refused=ENCODER),
    Tried(
        "T5",
        "t5-small, flan-t5",
        "t5",
        {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4},
        architecture="T5ForConditionalGeneration",
        refused=ENCODER_DECODER,
    ),
    Tried(
        "GPTQ, AWQ",
        "Qwen2.5-7B-Instruct-AWQ",
        "qwen2",
        edit={"quantization_config": {"quant_method": "awq", "bits": 4}},
        refused=QUANTISED,
    ),
    Tried(
        "bitsandbytes",
        "llama-3-8b-bnb-4bit",
        "llama",
        edit={"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        refused=QUANTISED,
    ),
    Tried(
        "fp8",
        "DeepSeek-V3, Qwen3-8B-FP8",
        "qwen3",
        edit={"quantization_config": {"quant_method": "fp8"}},
        refused=QUANTISED,
    ),
    Tried(
        "compressed-tensors",
        "Llama-3.1-8B-Instruct-quantized.w8a8",
        "llama",
        edit={"quantization_config": {"quant_method": "compressed-tensors"}},
        refused=QUANTISED,
    ),
    Tried(
        "mxfp4",
        "gpt-oss-20b, gpt-oss-120b",
        "gpt_oss",
        {"num_local_experts": 4},
        edit={"quantization_config": {"quant_method": "mxfp4"}},
        refused=QUANTISED,
    ),
    Tried("A type of tomorrow", "-", "llama", edit={"model_type": "llama9"}, refused=UNKNOWN),
    Tried(
        "Its own code",
        "Baichuan2-7B",
        "llama",
        edit={"model_type": "baichuan", "auto_map": {"AutoModelForCausalLM": "a.B"}},
        refused=OWN_CODE,
    ),
)

HEAD = """# Bases

Models that can be a base. `python -m tests.model.bases_table` makes the tables from the architectures that the tests
try, each as a small random model in a folder, through `ownlm base add`. Adapters of an accepted one are trained in a
batch, alone, and by `peft` alone: losses and weights are the same. `ownlm base add` tries any other model in the same
way, and refuses it if users in one batch would change each other's results.

A base is a folder or a Hugging Face id with `config.json`, weights in safetensors (bfloat16, float16 or float32), and a
tokenizer (`tokenizer.json`; `tokenizer.model` alone needs the packages `sentencepiece` and `protobuf`). A tokenizer
without an end-of-text token gets that of `generation_config.json` or `config.json`. The tokenizer may have more control
tokens than the model has embeddings, as Gemma 3's has, but no more tokens of text. For a model on the hub,
`config.json` is fetched and checked first, so that a refusal comes before the weights are downloaded.

The built-in base, SmolLM2-135M, is a 4-bit file converted to float32. Bases with longrope or dynamic NTK work within
their original context.

**Modules.** `adapt`, `train`, `share` and `assemble` adapt the projections of a preset, by the base's own names
for them; `--modules` names others. Experts of mixture-of-experts bases are not adapted. Modules that `peft` would load
under other names, such as parts of fused experts, are refused before training, since `peft` could not read
the exported adapter.

**Models of pictures and text** are used for text alone: adapters change the text decoder, and its parameters are
counted. Gemma 3n's need the package `timm`, and were not tried with it. Prompt tuning is refused if
each layer has embeddings of the tokens (Gemma 3n, Gemma 4 E2B and E4B): virtual tokens have none.

**Text stays text.** A user's text is encoded as if the tokenizer had no control tokens: neither those
marked as special, nor others that look like markers (`<think>`, `[INST]`, `◁think▷`, brackets of any kind) or that the
chat template uses. Added tokens of blanks, and of HTML's elements, stay as they are.
"""
REFUSED_HEAD = """
## Refused

| architecture | such as | why |
|---|---|---|
"""
ACCEPTED_HEAD = """
## Accepted

| architecture | such as | model type | q, k, v and o projections |
|---|---|---|---|
"""


def page() -> str:
    """docs/bases.md."""
    accepted = [
        f"| {one.name} | {one.models} | `{one.kind}` | {one.modules} |\n" for one in TABLE if one.refused is None
    ]
    refused = [
        f"| {one.name} | {one.models} | {one.refused.replace(' in FOLDER', '')} |\n"
        for one in TABLE
        if one.refused is not None
    ]
    return HEAD + ACCEPTED_HEAD + "".join(accepted) + REFUSED_HEAD + "".join(refused)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf8")
