"""LoRA adapters, and their files: ordinary PEFT folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ownlm.config import LoraConfig
from ownlm.errors import AdapterError

WEIGHTS = "adapter_model.safetensors"
_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True, slots=True)
class LoraPair:
    """One module's two matrices."""

    A_RD: Tensor
    B_OR: Tensor


@dataclass(frozen=True, slots=True)
class Adapter:
    """The LoRA weights of one user, by module name."""

    lora: LoraConfig
    pairs: Mapping[str, LoraPair]

    def shape(self) -> dict[str, Any]:
        """The configuration that `from_bytes` needs."""
        return self.lora.model_dump(mode="json")

    def to_bytes(self) -> bytes:
        """The content of PEFT's `adapter_model.safetensors`."""
        tensors = {}
        for name, pair in self.pairs.items():
            tensors[f"{_PREFIX}{name}{_A}"] = pair.A_RD.contiguous()
            tensors[f"{_PREFIX}{name}{_B}"] = pair.B_OR.contiguous()
        return save_tensors(tensors, metadata={"format": "pt"})

    @staticmethod
    def from_bytes(data: bytes, lora: LoraConfig) -> "Adapter":
        """Reads what `to_bytes` wrote.

        Raises:
            AdapterError: it is no safetensors file, its names are not PEFT's, a matrix lacks its partner or has another
                rank, or a number is not finite.
        """
        try:
            tensors = load_tensors(data)
        except (SafetensorError, ValueError) as error:
            raise AdapterError("The adapter's weights cannot be read", got=error) from None
        names = {key.removeprefix(_PREFIX).removesuffix(_A) for key in tensors if key.endswith(_A)}
        if {f"{_PREFIX}{name}{part}" for name in names for part in (_A, _B)} != set(tensors):
            raise AdapterError("The adapter's tensors are not pairs of LoRA matrices in PEFT's names")
        pairs = {}
        for name in sorted(names, key=_natural):
            pair = LoraPair(tensors[f"{_PREFIX}{name}{_A}"], tensors[f"{_PREFIX}{name}{_B}"])
            if pair.A_RD.ndim != 2 or pair.B_OR.ndim != 2 or {pair.A_RD.shape[0], pair.B_OR.shape[1]} != {lora.r}:
                got = (tuple(pair.A_RD.shape), tuple(pair.B_OR.shape))
                raise AdapterError(f"The matrices at {name!r} have another rank", got=got, expected=f"r={lora.r}")
            if not (torch.isfinite(pair.A_RD).all() and torch.isfinite(pair.B_OR).all()):
                raise AdapterError(f"The matrices at {name!r} hold numbers that are not finite")
            pairs[name] = pair
        return Adapter(lora, pairs)


def write_peft_folder(
    folder: Path,
    weights: bytes,
    lora: LoraConfig,
    base: str,
    revision: str | None = None,
    targets: Sequence[str] | None = None,
) -> None:
    """Writes an adapter as PEFT and vLLM read it.

    Args:
        folder: the folder to write; made if it is missing.
        weights: the bytes of `Adapter.to_bytes`.
        lora: the adapter's rank, alpha and target modules.
        base: the folder or hub id of the base that it was trained on.
        revision: the revision of a hub id.
        targets: PEFT's `target_modules`, if `lora.target_modules` would match other modules too.
    """
    from peft import LoraConfig as PeftLoraConfig

    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(weights)
    alpha = int(lora.lora_alpha) if lora.lora_alpha.is_integer() else lora.lora_alpha
    invocation = lora.alora_invocation_tokens
    PeftLoraConfig(
        r=lora.r,
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules=list(targets or lora.target_modules),
        alora_invocation_tokens=None if invocation is None else list(invocation),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        revision=revision,
        inference_mode=True,
    ).save_pretrained(str(folder))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts layer 10 behind layer 9."""
    return [(int(part) if part.isdigit() else -1, part) for part in name.split(".")]
