"""The frozen base model: its tokenizer, its weights, and its forward pass on packed rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME
from transformers.utils import logging as transformers_logging

from ownlm.errors import BaseModelError, in_one_line
from ownlm.model.adapter import Adapter
from ownlm.model.attention import NAME
from ownlm.model.bank import LoraBank
from ownlm.model.bases.context import context, has_original_context
from ownlm.model.bases.files import end_of_text_ids, hidden_size, stored_type
from ownlm.model.bases.placement import WIDTH, Dtype, choose_dtype
from ownlm.model.bases.text_tokenizer import TextTokenizer
from ownlm.model.forward_context import Cut, set_forward_context, split_at, trim_last_mlp
from ownlm.model.kv_cache import KvCache
from ownlm.model.layers import probe, refuse
from ownlm.model.lora import lora_merge
from ownlm.model.packed import BatchBuilder, PackedBatch
from ownlm.model.piece_bank import Banks
from ownlm.model.segments import BASE
from ownlm.model.targets import decoder_layers, target_modules

SAME = 1e-5  # of the largest logit; a row in two parts is the same computation
_PLACE = "\ufffc"  # stands for the text in a chat template: Unicode's object replacement character


@dataclass(frozen=True, slots=True)
class BaseLM:
    """A causal language model whose weights never change, with its tokenizer.

    Attributes:
        name: the name in the home.
        fingerprint: the hash of its content.
        folder: the folder that it was loaded from.
        model: transformers' model.
        tokenizer: transformers' tokenizer; it decodes tokens and encodes the chat template.
        text: the tokenizer of users' text, which makes no control tokens.
    """

    name: str
    fingerprint: str
    folder: Path
    model: Any
    tokenizer: Any
    text: TextTokenizer = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.tokenizer is not None:  # benchmarks may have none
            object.__setattr__(self, "text", TextTokenizer(self.tokenizer))

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def computed_in(self) -> dict[str, str]:
        """The kind of device and the type of the weights, as recorded beside what is made with them."""
        weight = next(self.model.parameters())
        return {"device": weight.device.type, "dtype": str(weight.dtype).removeprefix("torch.")}

    @property
    def max_tokens(self) -> int:
        """The longest sequence, in tokens."""
        return context(self.model.config)

    @property
    def end_of_text(self) -> int:
        """The id of the token that ends an answer."""
        return int(self.tokenizer.eos_token_id)

    @property
    def stop_tokens(self) -> set[int]:
        """The tokens that end a generated answer: the tokenizer's, and those of the model's generation settings."""
        ends = getattr(self.model.generation_config, "eos_token_id", None)
        return {self.end_of_text, *(ends if isinstance(ends, list) else [] if ends is None else [ends])}

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a prompt, with the beginning-of-text token if the base uses one."""
        return self.encode_prompts([text])[0]

    def encode_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_prompt` of many texts, in one call of the tokenizer."""
        return [[*self.text.prefix, *ids] for ids in self.text(texts)]

    def encode_answer(self, text: str) -> list[int]:
        """Token ids of an answer, ended by the end-of-text token."""
        return [*self.text([text])[0], self.end_of_text]

    def encode_chat(self, text: str, opening: str) -> list[int]:
        """Token ids of a chat in which the user wrote `text` and the answer begins with `opening`.

        Only the base's chat template makes control tokens; the text makes none. A base without a template gets a plain
        prompt.

        Raises:
            BaseModelError: the template cannot be used.
        """
        if not self.tokenizer.chat_template:
            return self.encode_prompt(f"{text}\n\n{opening}")
        chat = [{"role": "user", "content": _PLACE}]
        try:
            rendered = self.tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            before, after = rendered.split(_PLACE)
        except Exception:  # templates raise errors of any kind
            raise BaseModelError(
                f"The chat template of the base {self.name!r} cannot be used",
                expected="one that shows a single message once",
                hint="choose another base",
            ) from None
        ends = [
            self.tokenizer(end, add_special_tokens=False, split_special_tokens=False)["input_ids"]
            for end in (before, after + opening)
        ]
        return [*ends[0], *self.text([text])[0], *ends[1]]

    def decode(self, ids: list[int]) -> str:
        """The text of an answer."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def logits(
        self,
        batch: PackedBatch,
        bank: LoraBank | Banks | None = None,
        cache: KvCache | None = None,
        grads_WP: Tensor | None = None,
        hidden_TD: Tensor | None = None,
    ) -> Tensor:
        """Runs one forward pass over a packed row; the head runs only at predicting positions.

        Args:
            batch: T tokens and P predictions.
            bank: the attached bank of the batch's slots; None for the base alone.
            cache: keys and values of earlier tokens; this row's go to the places given to `KvCache.writing`.
            grads_WP: the bank's `new_grads`, to which the backward pass adds; None to train nothing.
            hidden_TD: the tokens' `lower_hidden`, from which the layers above go on; None to run all layers.

        Returns:
            logits_PV.

        Raises:
            BaseModelError: a sequence is longer than the original context, beyond which the base's embeddings change.
        """
        if has_original_context(self.model.config) and batch.longest > self.max_tokens:
            raise BaseModelError(
                f"A sequence is longer than the original context of the base {self.name!r}",
                got=f"{batch.longest} tokens",
                expected=f"at most {self.max_tokens}: beyond, its rotary embeddings change at all positions",
                hint="shorten the prompt, or use a base of a longer context",
            )
        cut = None if hidden_TD is None else Cut(lower=False, hidden_1TD=hidden_TD[None])
        with set_forward_context(batch, bank, grads_WP, cut=cut):
            output = self.model(
                input_ids=batch.input_ids_T[None],
                position_ids=batch.position_ids_T[None],
                past_key_values=cache,
                use_cache=cache is not None,
                logits_to_keep=batch.asked_A,
            )
        logits_AV: Tensor = output.logits[0]
        return logits_AV if batch.row_P is None else logits_AV.index_select(0, batch.row_P)

    def hidden(self, batch: PackedBatch) -> Tensor:
        """The base's last hidden state of each token, after the final norm; attached banks do not act.

        Args:
            batch: T tokens; its predictions are ignored.

        Returns:
            hidden_TD.
        """
        with set_forward_context(batch, None, None, trim=False):
            hidden_TD: Tensor = self._decode(batch).last_hidden_state[0]
        return hidden_TD

    @torch.no_grad()
    def lower_hidden(self, batch: PackedBatch) -> Tensor:
        """The hidden states of each token at the layer that the model is `split_at`; no layer above runs.

        Returns:
            hidden_TD.
        """
        cut = Cut(lower=True)
        with set_forward_context(batch, None, None, trim=False, cut=cut):
            self._decode(batch)
        assert cut.hidden_1TD is not None, "the model is not split"
        return cut.hidden_1TD[0]

    def splits_at(self, first: int) -> bool:
        """Whether this model gives the same logits in two parts, below and from the layer `first` on; tried on a row.

        Not where upper layers read more of the lower ones than the last hidden states: their keys and values, say.
        """
        row, ids = BatchBuilder(), torch.arange(5, 45).tolist()
        shared = row.add(BASE, ids[:7])
        for end in (ids[7:15], ids[15:]):
            row.predict(BASE, row.add(BASE, end, after=shared))
        batch = row.pack(self.device)
        try:
            with torch.no_grad(), split_at(decoder_layers(self.model), first):
                whole_PV = self.logits(batch)
                gap = (self.logits(batch, hidden_TD=self.lower_hidden(batch)) - whole_PV).abs().max()
        except Exception:  # each model's code fails in another way
            return False
        return bool(gap <= SAME * whole_PV.abs().max())

    def _decode(self, batch: PackedBatch) -> Any:
        decoder = self.model.get_decoder()
        return (self.model.model if decoder is self.model else decoder)(  # Llama 4 returns the whole model
            input_ids=batch.input_ids_T[None], position_ids=batch.position_ids_T[None], use_cache=False
        )


def load_base(
    folder: Path,
    *,
    name: str,
    fingerprint: str,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | Dtype = "auto",
) -> BaseLM:
    """Loads a base model from an ordinary Hugging Face folder, for packed rows.

    Args:
        folder: a folder with config.json, safetensors weights and a tokenizer.
        name: the name in the home, for messages.
        fingerprint: the hash of its content.
        device: the device of the weights.
        dtype: the type of the weights; by default the one that `choose_dtype` gives.

    Raises:
        BaseModelError: transformers cannot load it, weights are missing, there is no end-of-text token, or it
            cannot run on packed rows.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if isinstance(dtype, str):
        dtype = choose_dtype(device, dtype, hidden_size(folder) or WIDTH).dtype
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        both: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype,
            attn_implementation=NAME,
            output_loading_info=True,
        )
        model, loaded = both
    except Exception as error:  # models' and tokenizers' code raises errors of any kind
        if NAME in str(error):
            refuse(name, "attention that transformers does not let others compute")
        raise _unreadable(f"The base {name!r} cannot be loaded from {folder}", error) from None
    if absent := sorted([*loaded["missing_keys"], *(str(key) for key in loaded["mismatched_keys"])]):
        raise BaseModelError(  # transformers would fill them with random numbers
            f"The base {name!r} in {folder} lacks weights",
            got=f"{len(absent)} tensors missing or of another shape, {absent[0]} among them",
            hint="fetch it again",
        )
    model.requires_grad_(False).eval().to(device)
    probe(model, name)
    trim_last_mlp(model)
    return BaseLM(name, fingerprint, folder, model, _with_end_of_text(tokenizer, folder))


def _as_stored(base: BaseLM) -> Any:
    """The base's model in the type of its files; read again where it was loaded in another one."""
    dtype = getattr(torch, stored_type(base.folder))
    if next(base.model.parameters()).dtype == dtype:
        return base.model
    return load_base(base.folder, name=base.name, fingerprint=base.fingerprint, dtype=dtype).model


def load_without_weights(folder: Path, *, name: str, fingerprint: str) -> BaseLM:
    """Loads a base's tokenizer and settings only, for a base that another program runs.

    Raises:
        BaseModelError: transformers cannot load it.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if (folder / GENERATION_CONFIG_NAME).exists():
            generation = GenerationConfig.from_pretrained(folder, local_files_only=True)
        else:
            generation = GenerationConfig.from_model_config(config)
    except Exception as error:
        raise _unreadable(f"The tokenizer of the base {name!r} cannot be loaded from {folder}", error) from None
    settings = SimpleNamespace(config=config, generation_config=generation)
    return BaseLM(name, fingerprint, folder, settings, _with_end_of_text(tokenizer, folder))


def _unreadable(what: str, error: Exception) -> BaseModelError:
    hint = "check the folder, then add it again"
    return BaseModelError(what, got=in_one_line(error), hint=hint)


def _with_end_of_text(tokenizer: Any, folder: Path) -> Any:
    """Sets a tokenizer to drop no spaces and no tokens, and to have an end-of-text token."""
    tokenizer.clean_up_tokenization_spaces = False  # some drop spaces before punctuation
    tokenizer.model_max_length = 2**31  # lengths are checked for each example
    if tokenizer.eos_token_id is None:
        known = (tokenizer.convert_ids_to_tokens(end) for end in end_of_text_ids(folder) if 0 <= end < len(tokenizer))
        if (end := next((token for token in known if token is not None), None)) is None:
            raise BaseModelError(
                f"The base in {folder} has no end-of-text token",
                expected="an eos_token of the tokenizer, or an eos_token_id in config.json or generation_config.json",
                hint='name the token that ends its texts in tokenizer_config.json: "eos_token": ...',
            )
        tokenizer.eos_token = end
    return tokenizer


def save_merged(base: BaseLM, adapter: Adapter, folder: Path) -> None:
    """Writes the base with an adapter merged into its weights, as an ordinary Hugging Face folder.

    It is computed in float32 from the weights as they are stored, and written in their type, whatever type they were
    loaded in. If the adapter changes a head that shares its weight with the embeddings, the written base has two
    weights, and its configuration says so. The base in memory does not change.
    """
    model, merged = _as_stored(base), {f"{name}.weight": pair for name, pair in adapter.pairs.items()}
    state = {
        name: lora_merge(tensor.cpu(), pair.A_RD.cpu(), pair.B_OR.cpu(), adapter.lora.scaling)
        if (pair := merged.get(name)) is not None
        else tensor
        for name, tensor in model.state_dict().items()
    }
    assert merged.keys() <= state.keys() and len(target_modules(model, adapter.lora)) == len(merged)
    model.save_pretrained(folder, state_dict=state)
    if model.get_output_embeddings() in [module for _, module in target_modules(model, adapter.lora)]:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
        config.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
