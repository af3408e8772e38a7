"""(IA)3 and prompt-tuning adapters, put on the model by peft, one user's at a time.

The model still runs on packed rows. (IA)3 scales outputs of some modules. Virtual tokens have ids above the
vocabulary's: a prompt that begins with them trains and generates as any other prompt.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from ownlm.config import TrainConfig
from ownlm.errors import AdapterError, BaseModelError
from ownlm.model.adapter import WEIGHTS
from ownlm.model.peft_names import peft_targets

if TYPE_CHECKING:  # importing peft takes seconds, and LoRA does not need it
    from peft import PeftConfig

_PEFT_TYPES = ("IA3", "PROMPT_TUNING")


@dataclass(frozen=True, slots=True)
class PeftAdapter:
    """The (IA)3 vectors or virtual tokens of one user.

    Attributes:
        config: peft's configuration, without the base's folder.
        weights: the content of PEFT's `adapter_model.safetensors`.
    """

    config: dict[str, Any]
    weights: bytes

    def shape(self) -> dict[str, Any]:
        """The configuration that is needed to read the weights."""
        return self.config

    def to_bytes(self) -> bytes:
        """The content of PEFT's `adapter_model.safetensors`."""
        return self.weights

    def tensors(self) -> dict[str, Tensor]:
        """The weights by PEFT's names.

        Raises:
            AdapterError: the weights are no safetensors file, or a number is not finite.
        """
        try:
            tensors = load_tensors(self.weights)
        except (SafetensorError, ValueError) as error:
            raise AdapterError("The adapter's weights cannot be read", got=error) from None
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise AdapterError(f"The numbers at {name!r} are not all finite")
        return tensors

    @contextmanager
    def attached(self, model: Any) -> Iterator["Attached"]:
        """Puts this adapter on the model within a context.

        Raises:
            AdapterError: the adapter is damaged, or for another base; the model is then unchanged.
        """
        from peft import get_peft_config, set_peft_model_state_dict

        tensors = self.tensors()
        if self.config.get("peft_type") not in _PEFT_TYPES:
            raise AdapterError("The adapter is of an unknown method", expected=f"one of: {', '.join(_PEFT_TYPES)}")
        try:
            config = get_peft_config(dict(self.config))
        except (TypeError, ValueError) as error:
            raise AdapterError("The adapter's configuration cannot be read", got=error) from None
        with _on(model, config) as attached:
            expected = {name: tuple(tensor.shape) for name, tensor in attached.tensors().items()}
            got = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            if got != expected:
                odd = min(name for name in got.keys() | expected.keys() if got.get(name) != expected.get(name))
                raise AdapterError(
                    f"The adapter does not fit the base at {odd!r}", got=got.get(odd), expected=expected.get(odd)
                )
            set_peft_model_state_dict(attached.peft, tensors)
            yield attached

    def write_folder(self, folder: Path, base: str, revision: str | None = None) -> None:
        """Writes the adapter as PEFT reads it.

        Args:
            folder: the folder to write; made if it is missing.
            base: the folder or hub id of the base that it was trained on.
            revision: the revision of a hub id.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WEIGHTS).write_bytes(self.weights)
        config = self.config | {"base_model_name_or_path": base, "revision": revision}
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf8")


@dataclass(frozen=True, slots=True)
class Attached:
    """An adapter that is on a model.

    Attributes:
        peft: peft's model around the base.
        virtual_tokens: the ids that every prompt must begin with; none for (IA)3.
    """

    peft: Any
    virtual_tokens: list[int]

    def parameters(self) -> list[nn.Parameter]:
        """The parameters to train."""
        return [parameter for parameter in self.peft.parameters() if parameter.requires_grad]

    def tensors(self) -> dict[str, Tensor]:
        """The weights by PEFT's names."""
        from peft import get_peft_model_state_dict

        tensors: Mapping[str, Tensor] = get_peft_model_state_dict(self.peft, save_embedding_layers=False)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def read(self) -> PeftAdapter:
        """A copy of the adapter."""
        config = self.peft.peft_config["default"].to_dict()
        config |= {"base_model_name_or_path": None, "inference_mode": True}
        plain = json.loads(json.dumps(config, default=sorted))  # sets become lists
        return PeftAdapter(plain, save_tensors(self.tensors(), metadata={"format": "pt"}))


@contextmanager
def fresh_adapter(model: Any, config: TrainConfig, seed: int) -> Iterator[Attached]:
    """Puts a new adapter on the model within a context, to be trained.

    Args:
        model: the base's model.
        config: the method, and the number of virtual tokens.
        seed: the seed of the virtual tokens' first values; (IA)3 begins with ones.

    Raises:
        AdapterError, BaseModelError: the method cannot be used with this model.

    Source: (IA)3: arXiv 2205.05638. Prompt tuning: arXiv 2104.08691; virtual tokens begin as tokens drawn from the
        vocabulary, one of the paper's choices.
    """
    from peft import IA3Config, PromptTuningConfig

    made: PeftConfig
    if config.method == "ia3":
        targets, feedforward = _ia3_modules(model)
        made = IA3Config(task_type="CAUSAL_LM", target_modules=targets, feedforward_modules=feedforward)
    else:
        made = PromptTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=config.virtual_tokens, prompt_tuning_init="SAMPLE_VOCAB"
        )
    with _on(model, made, seed) as attached:
        yield attached


def _ia3_modules(model: Any) -> tuple[list[str] | None, list[str] | None]:
    """The modules to scale: peft's choice (None) if it knows the model, else keys, values, and the down projection."""
    from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING

    if model.config.model_type in TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING:
        return None, None
    reached = set(model.get_decoder().modules())
    decoder = [name for name, one in model.named_modules() if isinstance(one, nn.Linear) and one in reached]
    linears = {name.rpartition(".")[2] for name in decoder}
    down = sorted(linears & {"down_proj", "fc2", "w2"})
    if not {"k_proj", "v_proj"} <= linears or not down:
        raise BaseModelError(
            "(IA)3 has no modules to scale in this base",
            got=f"linear modules {', '.join(sorted(linears))}",
            expected="k_proj, v_proj, and one of down_proj, fc2, w2",
            hint="use another method",
        )
    asked = [name for name in decoder if name.rpartition(".")[2] in ("k_proj", "v_proj", *down)]
    targets = peft_targets(model, asked)  # whole names if the model has more than a text decoder
    return targets, [
        name for name in targets if name.rpartition(".")[2] in down
    ]  # modules of which the input is scaled


@contextmanager
def _on(model: Any, config: "PeftConfig", seed: int = 0) -> Iterator[Attached]:
    """Puts a new adapter on the model within a context."""
    from peft import get_peft_model

    if config.is_prompt_learning and getattr(model.config.get_text_config(), "hidden_size_per_layer_input", None):
        raise BaseModelError(
            "Prompt tuning cannot be used with this base",
            got="embeddings of each token for each layer, which virtual tokens do not have",
            hint="use another method",
        )
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft still uses it
    with _restored(model):
        try:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                peft: Any = get_peft_model(model, config)
        except (TypeError, ValueError, RuntimeError) as error:
            raise AdapterError("peft cannot put this adapter on the base", got=error) from None
        virtual_tokens = []
        if config.is_prompt_learning:
            words, virtual = model.get_input_embeddings(), peft.prompt_encoder["default"].embedding
            if virtual.embedding_dim != words.embedding_dim:
                got, expected = virtual.embedding_dim, words.embedding_dim
                raise AdapterError("The virtual tokens are for a base of another width", got=got, expected=expected)
            model.set_input_embeddings(_Words(words, virtual))
            virtual_tokens = list(range(words.num_embeddings, words.num_embeddings + virtual.num_embeddings))
        yield Attached(peft, virtual_tokens)


@contextmanager
def _restored(model: Any) -> Iterator[None]:
    """Restores modules and attributes of the model and its configuration on leaving."""
    children = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    attributes = [(thing, dict(vars(thing))) for thing in (model, model.config)]
    try:
        yield
    finally:
        for parent, name, child in children:
            setattr(parent, name, child)
        for thing, before in attributes:
            for name in vars(thing).keys() - before.keys():
                delattr(thing, name)
            vars(thing).update(before)


class _Words(nn.Module):
    """The base's embeddings, followed by those of the virtual tokens."""

    def __init__(self, words: nn.Embedding, virtual: nn.Embedding) -> None:
        super().__init__()
        self.words, self.virtual = words, virtual

    @property
    def weight(self) -> Tensor:
        """The base's weight; some models read its device."""
        return self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        is_virtual = ids >= self.words.num_embeddings
        out: Tensor = self.words(ids.masked_fill(is_virtual, 0))
        out[is_virtual] = self.virtual(ids[is_virtual] - self.words.num_embeddings).to(out.dtype)
        return out
