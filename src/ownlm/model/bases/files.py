"""A base model's folder: its checks, its parameter count and its fingerprint. Loads no torch."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from ownlm.errors import BaseModelError
from ownlm.filesystem import check_regular, open_regular, read_regular

CONFIG = "config.json"
GENERATION = "generation_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
_TOKENIZERS = ({"tokenizer.json"}, {"tokenizer.model"}, {"vocab.json", "merges.txt"})  # each is enough
_CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")  # the last also names models that write no text
_FULL = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # full precision: torch's names
_PACKED = ("weight", "weight_packed", "_blocks")  # ends of weights' names, also "qweight" of GPTQ and AWQ
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
# Settings that saving the same model again may change; each tensor has its own type.
_VOLATILE = {"_name_or_path", "_commit_hash", "transformers_version", "torch_dtype", "dtype"}
_VOLATILE_TOKENIZER = {"name_or_path", "is_local", "local_files_only", "transformers_version"}
_JOINT: Final = (("qkv_proj",), ("query_key_value",), ("Wqkv",), ("c_attn",))  # queries, keys and values in one module
_LATENT: Final = (("kv_a_proj_with_mqa",),)  # DeepSeek's compressed keys and values
_OTHERS: Final = {
    "q_proj": (("q_a_proj", "q_b_proj"), *_JOINT),
    "k_proj": (*_LATENT, *_JOINT),
    "v_proj": (*_LATENT, *_JOINT),
    "o_proj": (("dense",), ("out_proj",), ("c_proj",)),
}
_CHUNK = 1 << 22
JSON_BYTES = 1 << 30  # the largest tokenizers take tens of megabytes


@dataclass(frozen=True, slots=True)
class _StoredTensor:
    """A tensor's type, shape and range of bytes in a file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def check_base_folder(folder: Path) -> None:
    """Refuses a folder that is not a complete causal language model in safetensors with its tokenizer.

    It reads headers and file sizes, not the weights.

    Args:
        folder: an ordinary Hugging Face folder.

    Raises:
        BaseModelError: a file is missing, damaged, or of another kind.
    """
    check_config(folder)
    _check_precision(folder, _stored_tensors(folder))
    present = {name for name in TOKENIZER_FILES if (folder / name).is_file()}
    if not any(files <= present for files in _TOKENIZERS):
        raise BaseModelError(
            f"There is no tokenizer in {folder}",
            expected="tokenizer.json, tokenizer.model, or vocab.json with merges.txt",
        )
    for name in present:
        if name.endswith(".json"):
            _read_json(folder / name)
    list(_all_ends(folder))  # raises an error for an id that is none


def fingerprint(folder: Path) -> str:
    """The hash of a base's content: equal for equal weights, configuration and tokenizer.

    The division of the weights into files, and notes in headers and configuration, do not change it.

    Args:
        folder: an ordinary Hugging Face folder.

    Returns:
        64 hexadecimal digits, a SHA-256.

    Raises:
        BaseModelError: a file is missing or damaged.
    """
    digest = hashlib.sha256(b"ownlm base 1\n")

    def add(label: list[Any], chunks: Iterator[bytes] | list[bytes]) -> None:
        digest.update(_canonical(label))  # with the length of the content, so labels are unambiguous
        for chunk in chunks:
            digest.update(chunk)

    config = _canonical(_without(read_config(folder), _VOLATILE))
    add(["config", len(config)], [config])
    for name, tensor in sorted(_stored_tensors(folder).items()):
        add(["tensor", name, tensor.dtype, tensor.shape, tensor.stop - tensor.start], _chunks(tensor))
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            content = _tokenizer_content(folder / name)
            add(["tokenizer", name, len(content)], [content])
    return digest.hexdigest()


def hidden_size(folder: Path) -> int | None:
    """The width of a base's hidden states, if its configuration names it as most do."""
    whole = read_config(folder)
    config = whole | _text(whole)
    size = config.get("hidden_size", config.get("n_embd"))
    return size if isinstance(size, int) else None


def stored_type(folder: Path) -> str:
    """The type that holds all of a base's stored weights, by torch's name.

    Raises:
        BaseModelError: a file is missing or damaged.
    """
    found = {_FULL[one.dtype] for one in _stored_tensors(folder).values() if one.dtype in _FULL}
    return found.pop() if len(found) == 1 else "float64" if "float64" in found else "float32"


def parameter_count(folder: Path) -> int:
    """The number of a base's parameters; a head tied to the embedding counts once.

    Args:
        folder: an ordinary Hugging Face folder.

    Raises:
        BaseModelError: a file is missing or damaged.
    """
    config, shapes = read_config(folder), decoder_shapes(folder)
    if config.get("tie_word_embeddings", _text(config).get("tie_word_embeddings")):
        for name in [name for name in shapes if name.endswith("lm_head.weight")]:
            head = shapes.pop(name)
            if head not in shapes.values():  # the head is the only written copy
                shapes[name] = head
    return sum(prod(shape) for shape in shapes.values())


def decoder_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the text decoder's tensors, by their names in the folder.

    Raises:
        BaseModelError: a file is missing or damaged.
    """
    shapes = {name: tensor.shape for name, tensor in _stored_tensors(folder).items()}
    nested = "text_config" in read_config(folder) and any("language_model." in name for name in shapes)
    own = ("language_model.", "lm_head.")
    return {name: shape for name, shape in shapes.items() if not nested or any(part in name for part in own)}


def named_by(folder: Path, modules: Sequence[str]) -> tuple[str, ...]:
    """A preset's modules by their names in a base; a name without an equivalent stays.

    Args:
        folder: the base's folder.
        modules: Llama's names.

    Raises:
        BaseModelError: a file is missing or damaged.
    """
    names = (name.removesuffix(".weight").rpartition(".")[2] for name in decoder_shapes(folder))
    return _translated(frozenset(names), modules)


def _translated(known: frozenset[str], modules: Sequence[str]) -> tuple[str, ...]:
    """
    >>> _translated(frozenset({"qkv_proj", "o_proj"}), ("q_proj", "v_proj", "o_proj"))
    ('qkv_proj', 'o_proj')
    """
    found: dict[str, None] = {}
    for module in modules:
        others = () if module in known else _OTHERS.get(module, ())
        found |= dict.fromkeys(next((names for names in others if known.issuperset(names)), (module,)))
    return tuple(found)


def end_of_text_ids(folder: Path) -> list[int]:
    """The ids that end a text by the model's settings; may be empty.

    Raises:
        BaseModelError: a file is missing or damaged, or an `eos_token_id` is no token id.
    """
    return next((ends for ends in _all_ends(folder) if ends), [])


def _all_ends(folder: Path) -> Iterator[list[int]]:
    """The ids of each `eos_token_id` of the settings, generation settings first."""
    generation, config = folder / GENERATION, read_config(folder)
    settings = [(GENERATION, _read_json(generation))] if generation.is_file() else []
    for file, one in (*settings, (CONFIG, config), (CONFIG, _text(config))):
        ends = one.get("eos_token_id")
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        for end in ends:
            if type(end) is not int:
                raise BaseModelError(
                    f"The eos_token_id in {folder / file} is no token id",
                    got=repr(end),
                    expected="a whole number, or a list of them",
                    hint="write the id of the token that ends a text, or take the setting out",
                )
        yield ends


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json."""
    if not folder.is_dir():
        raise BaseModelError(f"There is no folder {folder}")
    if not (folder / CONFIG).is_file():
        raise BaseModelError(f"There is no {CONFIG} in {folder}", expected="an ordinary Hugging Face model folder")
    for file in folder.iterdir():  # transformers opens other files, too
        if not (file.is_file() or (file.is_dir() and file.name not in (CONFIG, WEIGHTS, INDEX, *TOKENIZER_FILES))):
            raise BaseModelError(f"{file} is not a regular file", hint="remove it, or choose another folder")
    return _read_json(folder / CONFIG)


def _text(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of the text decoder of a model that has other parts."""
    text = config.get("text_config")
    return text if isinstance(text, dict) else {}


def check_config(folder: Path) -> None:
    """Refuses a config.json of another model than a causal language model in full precision.

    Raises:
        BaseModelError: the model is another one, or config.json is missing or damaged.
    """
    config = read_config(folder)
    architectures = config.get("architectures") or []
    causal = isinstance(architectures, list) and (
        not architectures or any(str(name).endswith(_CAUSAL) for name in architectures)
    )
    if not causal or not isinstance(config.get("model_type"), str):
        raise BaseModelError(
            f"The model in {folder} is no causal language model",
            got=f"model_type {config.get('model_type')!r}, architectures {architectures!r}",
            expected="a model_type, and an architecture whose name ends in ForCausalLM",
            hint="choose a model that writes text, such as Llama, Mistral, Qwen, Gemma or Phi",
        )
    for one in (config, _text(config)):
        if one.get("quantization_config"):
            method = one["quantization_config"]
            raise _quantised(folder, str(method.get("quant_method", "")) if isinstance(method, dict) else "")


def _check_precision(folder: Path, tensors: dict[str, _StoredTensor]) -> None:
    """Refuses weights that are quantised. Buffers may be integers."""
    for name, one in tensors.items():
        if one.dtype not in _FULL and (one.dtype.startswith("F") or name.endswith(_PACKED)):
            raise _quantised(folder, one.dtype)


def _quantised(folder: Path, how: str) -> BaseModelError:
    return BaseModelError(
        f"The model in {folder} is quantised: use the full-precision base",
        got=how or "a quantization_config",
        expected="weights in bfloat16, float16 or float32",
        hint="add the model that it was made from"
        if how != "mxfp4"
        else "add a copy in bfloat16: transformers makes one with Mxfp4Config(dequantize=True)",
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_regular(file, JSON_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise BaseModelError(f"{file} cannot be read", got=error) from None
    if not isinstance(content, dict):
        raise BaseModelError(f"{file} cannot be used", got=type(content).__name__, expected="a JSON object")
    return content


def _stored_tensors(folder: Path) -> dict[str, _StoredTensor]:
    """The folder's tensors by name, from checked headers."""
    if (folder / WEIGHTS).is_file():
        tensors = _read_header(folder / WEIGHTS)
    else:
        tensors, weight_map = {}, _weight_map(folder)
        for shard in sorted(set(weight_map.values())):
            found = _read_header(folder / shard)
            if twice := tensors.keys() & found.keys():
                raise BaseModelError(f"A tensor is in two files of {folder}", got=min(twice))
            tensors |= found
        for name, shard in weight_map.items():
            if name not in tensors or tensors[name].file.name != shard:
                raise BaseModelError(f"{shard} in {folder} lacks a tensor that {INDEX} names", got=name)
    if not tensors:
        raise BaseModelError(f"The weights in {folder} are empty")
    return tensors


def _weight_map(folder: Path) -> dict[str, str]:
    """The index's shard by tensor."""
    if not (folder / INDEX).is_file():
        if any(file.suffix in _PICKLES for file in folder.iterdir()):
            raise BaseModelError(
                f"The weights in {folder} are pickles, which can run code when they are read",
                expected=f"safetensors only: {WEIGHTS}, or {INDEX} with its shards",
                hint="if you trust the folder, convert it to safetensors with transformers",
            )
        raise BaseModelError(f"There are no weights in {folder}", expected=f"{WEIGHTS}, or {INDEX} with its shards")
    weight_map = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise BaseModelError(f"{folder / INDEX} cannot be used", expected='"weight_map": {tensor: file}')
    for shard in set(weight_map.values()):
        if Path(shard).name != shard or not (folder / shard).is_file():  # shards must be beside the index
            raise BaseModelError(f"{INDEX} in {folder} names a file that is not there", got=shard)
    return weight_map


def _read_header(file: Path) -> dict[str, _StoredTensor]:
    """The tensors of one safetensors file; safetensors checks that header, sizes and length agree."""
    try:
        check_regular(file)
        with safe_open(file, framework="numpy"):
            pass
        with open_regular(file) as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise BaseModelError(f"{file} is damaged or cut", got=error, hint="fetch or copy it again") from None
    header.pop("__metadata__", None)
    first = 8 + length
    return {
        name: _StoredTensor(file, entry["dtype"], tuple(entry["shape"]), *(first + at for at in entry["data_offsets"]))
        for name, entry in header.items()
    }


def _chunks(tensor: _StoredTensor) -> Iterator[bytes]:
    """A tensor's bytes, a few megabytes at a time."""
    left = tensor.stop - tensor.start
    try:
        with open_regular(tensor.file) as stream:
            stream.seek(tensor.start)
            while left:
                chunk = stream.read(min(left, _CHUNK))
                if not chunk:
                    raise BaseModelError(f"{tensor.file} ends too early", hint="was it changed while it was read?")
                left -= len(chunk)
                yield chunk
    except OSError as error:
        raise BaseModelError(f"{tensor.file} cannot be read", got=error) from None


def _tokenizer_content(file: Path) -> bytes:
    if file.name == "tokenizer_config.json":
        return _canonical(_without(_read_json(file), _VOLATILE_TOKENIZER))
    try:
        return read_regular(file, JSON_BYTES)
    except OSError as error:
        raise BaseModelError(f"{file} cannot be read", got=error) from None


def _without(value: Any, keys: set[str]) -> Any:
    """The value without those keys, at any depth."""
    if isinstance(value, dict):
        return {key: _without(inner, keys) for key, inner in value.items() if key not in keys}
    return [_without(inner, keys) for inner in value] if isinstance(value, list) else value


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
