"""Tokens of what users write: a control token is never among them, whatever the text says.

Tokenizers have tokens that were added to their vocabulary. Some are pieces of text, as Gemma's runs of line ends and
spaces. Others steer the model: `<|im_end|>`, `<think>`. On request, a tokenizer takes those for text that are marked as
special, but many are not marked. Here they are recognised by what they look like, and by the chat template.
"""

import re
import unicodedata
from collections.abc import Sequence
from copy import copy
from itertools import pairwise
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer

_BLANKS = str.maketrans("", "", "\u2581\u0120\u010a\u0109\u010d")  # how vocabularies write blanks and line ends
_MARKS: Final = frozenset("<>|\u226a\u226b") | frozenset(map(chr, range(0x25B2, 0x25C6)))  # the latter: triangles
_BRACKETS: Final = {"Ps", "Pe", "Pi", "Pf"}  # Unicode's categories of what opens and closes
_IN_PROSE: Final = frozenset("()\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f")  # of these: also within words
_HTML_NAMES = """
    a abbr b big blockquote body br caption center cite code col dd del div dl dt em font footer form h1 h2 h3 h4 h5 h6
    head header hr html i img ins kbd li link main mark meta nav ol p pre q s samp script section small span strike
    strong style sub sup table tbody td tfoot th thead title tr tt u ul var
"""
_HTML: Final = re.compile(rf"</?({'|'.join(_HTML_NAMES.split())})\s?/?>")


def is_control(token: AddedToken, chat_template: str) -> bool:
    """Whether an added token steers the model, rather than being a piece of text.

    It does where it is marked as special; or looks like a marker: a word with brackets, bars or triangles, blanks and
    elements of HTML apart; or is more than a word, and a part of the chat template.

    >>> [is_control(AddedToken(text), "") for text in ("<think>", "[INST]", "</h1>", "the", " \\n")]
    [True, True, False, False, False]
    """
    text = token.content.translate(_BLANKS).strip()
    if token.special or not any(map(str.isalnum, text)):
        return bool(token.special)
    if token.content in chat_template and not text.isalnum():
        return True
    return any(map(_is_mark, text)) and not _HTML.fullmatch(text)


def _is_mark(character: str) -> bool:
    """Whether a character is a bracket, a bar or a triangle, of any width."""
    if character in _IN_PROSE:
        return False
    return unicodedata.normalize("NFKC", character) in _MARKS or unicodedata.category(character) in _BRACKETS


class TextTokenizer:
    """A tokenizer for what users write: as if no control token had been added to it.

    Args:
        tokenizer: transformers'; its vocabulary is shared, and nothing of it changed.
    """

    def __init__(self, tokenizer: Any) -> None:
        template, added = tokenizer.chat_template, tokenizer.added_tokens_decoder
        said = template if isinstance(template, str) else " ".join((template or {}).values())
        self.control = _listed(tokenizer) | {id: one.content for id, one in added.items() if is_control(one, said)}
        self._never = self.control.keys() - _unknown(tokenizer)
        self._inside = re.compile("|".join(re.escape(self.control[id]) for id in self._never) or r"(?!)")
        self._tokenizer = _literal(tokenizer, self.control.keys())
        self.prefix = self._prefix()

    @property
    def size(self) -> int:
        """One more than the highest id that may stand in a prompt or end an answer."""
        ids = set(self._tokenizer.get_vocab().values()) - self.control.keys()
        return 1 + int(max(ids | {*self.prefix, self._tokenizer.eos_token_id}))

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, nothing before and nothing behind them."""
        rows = self._encoded(texts) if texts else []
        return [row if self._never.isdisjoint(row) else self._cut(text) for text, row in zip(texts, rows, strict=True)]

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        rows: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return rows

    def _cut(self, text: str) -> list[int]:
        """Of a text of which the vocabulary itself makes a control token: cut behind the first letter of each."""
        cuts = [0, *(found.start() + 1 for found in self._inside.finditer(text)), len(text)]
        rows = self._encoded([text[start:stop] for start, stop in pairwise(cuts) if start < stop])
        return [id for row in rows for id in row if id not in self._never]

    def _prefix(self) -> list[int]:
        """What the tokenizer puts before every text, such as a beginning-of-text token."""
        bare, whole = self._encoded(["a"])[0], self._tokenizer("a")["input_ids"]
        starts = [at for at in range(len(whole)) if whole[at : at + len(bare)] == bare]
        return list(whole[: starts[0]]) if starts else []


def _listed(tokenizer: Any) -> dict[int, str]:
    """The tokens that the tokenizer's configuration lists as special, whatever their own flags say."""
    ids = [(tokenizer.convert_tokens_to_ids(token), token) for token in tokenizer.all_special_tokens]
    return {id: token for id, token in ids if id is not None and tokenizer.convert_ids_to_tokens(id) == token}


def _unknown(tokenizer: Any) -> set[int]:
    """The id of what the vocabulary lacks, where it is no other's: text may come to it."""
    others = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    return {tokenizer.unk_token_id} - others - {None}


def _literal(tokenizer: Any, control: Any) -> Any:
    """A copy of the tokenizer in which all control tokens are special, and special tokens are text."""
    literal = copy(tokenizer)
    literal.split_special_tokens = True
    whole = getattr(tokenizer, "backend_tokenizer", None)
    if whole is None:  # one in Python takes no added token off the text when it splits special ones
        return literal
    backend, added = Tokenizer(whole.model), tokenizer.added_tokens_decoder
    backend.add_tokens([_flagged(added[id], id in control) for id in sorted(added)])
    if any(backend.token_to_id(one.content) != id for id, one in added.items()):  # there are gaps between their ids
        backend = _rewritten(whole, control)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        setattr(backend, part, getattr(whole, part))
    literal._tokenizer = backend
    return literal


def _rewritten(whole: Tokenizer, control: Any) -> Tokenizer:
    """A whole copy of a backend, its control tokens special."""
    import json

    content = json.loads(whole.to_str())
    for token in content["added_tokens"]:
        token["special"] = token["id"] in control
    return Tokenizer.from_str(json.dumps(content))


def _flagged(token: AddedToken, special: bool) -> AddedToken:
    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=special,
    )
