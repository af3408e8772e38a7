"""Presets: tested settings, as functions that return a config."""

from ownlm.config import LoraConfig, Preset, PromptConfig, TrainConfig
from ownlm.errors import ConfigError

SHARED = LoraConfig(target_modules=("q_proj", "k_proj", "v_proj", "o_proj"))  # modules of sharers' adapters
LARGE = 1_000_000_000  # parameters; from here on the papers' learning rates work


def paper() -> Preset:
    """OPPU's and Per-Pcs's settings as released, tuned on Llama-2-7B.

    Source: arXiv 2402.04401, arXiv 2406.10471, and their released code.
    """
    return Preset(
        name="paper",
        task_adapter=TrainConfig(
            lora=LoraConfig(target_modules=("q_proj", "k_proj", "v_proj")), lora_dropout=0.05, epochs=3
        ),
        adapter=TrainConfig(lora=LoraConfig(target_modules=("q_proj", "v_proj")), lora_dropout=0.05, epochs=2),
        sharer=TrainConfig(
            lora=SHARED, prompt=PromptConfig(rag=1), lora_dropout=0.05, learning_rate=2e-5, steps=100, batch_size=6
        ),
        gate=TrainConfig(
            lora=SHARED,
            prompt=PromptConfig(rag=1),
            lora_dropout=0.05,
            learning_rate=2e-5,
            steps=200,
            batch_size=6,
            weight_decay=0,
        ),
    )


def small() -> Preset:
    """Settings for bases under a billion parameters: higher rates; no dropout, so that prompts share their prefix.

    Source: ours, measured in benchmarks/LOG.md.
    """
    return Preset(
        name="small",
        task_adapter=TrainConfig(
            lora=LoraConfig(target_modules=("q_proj", "k_proj", "v_proj", "o_proj")), learning_rate=4e-4, epochs=2
        ),
        adapter=TrainConfig(lora=LoraConfig(target_modules=("q_proj", "v_proj")), learning_rate=3e-4, epochs=4),
        sharer=TrainConfig(lora=SHARED, learning_rate=3e-4, steps=100, batch_size=6),
        gate=TrainConfig(lora=SHARED, learning_rate=1e-3, steps=100, batch_size=6, weight_decay=0),
    )


def with_method(config: TrainConfig, method: str) -> TrainConfig:
    """Settings of a stage for a method: those of LoRA, with another learning rate.

    Source: ours, tried on SmolLM2-135M. Held-out log-likelihood was best at 3e-2 for (IA)3, where 1e-1 leapt about, and
        at 0.1 for prompt tuning. The methods' papers, over many more steps of Adafactor: 3e-3 (arXiv 2205.05638) and
        0.3 (arXiv 2104.08691).
    """
    rates = {"ia3": 1e-2, "prompt": 0.1}
    return config.model_copy(update={"learning_rate": rates.get(method, config.learning_rate)})


def for_base(parameters: int) -> Preset:
    """`paper` for a base of a billion parameters or more, else `small`."""
    return paper() if parameters >= LARGE else small()


def by_name(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ConfigError: there is none.
    """
    known = {"paper": paper, "small": small}
    if name not in known:
        raise ConfigError("No such preset", got=name, expected=f"one of: {', '.join(known)}")
    return known[name]()
