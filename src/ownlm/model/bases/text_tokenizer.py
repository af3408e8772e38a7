"""A tokenizer of users' text that never makes control tokens.

Some tokens that were added to a vocabulary are pieces of text, as Gemma's runs of spaces. Others steer the model:
`<|im_end|>`, `<think>`. A tokenizer can treat tokens that are marked as special as text, but many are not marked. Here
they are recognised by their shape, and by the chat template.
"""

import re
import unicodedata
from collections.abc import Sequence
from copy import copy
from itertools import pairwise
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer

_BLANKS = str.maketrans("", "", "\u2581\u0120\u010a\u0109\u010d")  # vocabularies' signs for blanks and line ends
_MARKS: Final = frozenset("<>|\u226a\u226b") | frozenset(map(chr, range(0x25B2, 0x25C6)))  # the last are triangles
_BRACKETS: Final = {"Ps", "Pe", "Pi", "Pf"}  # Unicode's categories of opening and closing punctuation
_IN_PROSE: Final = frozenset("()\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f")  # these also occur in prose
_HTML_NAMES = """
    a abbr b big blockquote body br caption center cite code col dd del div dl dt em font footer form h1 h2 h3 h4 h5 h6
    head header hr html i img ins kbd li link main mark meta nav ol p pre q s samp script section small span strike
    strong style sub sup table tbody td tfoot th thead title tr tt u ul var
"""
_HTML: Final = re.compile(rf"</?({'|'.join(_HTML_NAMES.split())})\s?/?>")


def is_control(token: AddedToken, chat_template: str) -> bool:
    """Whether an added token steers the model, and is not a piece of text.

    A control token is marked as special, or looks like a marker (a word with brackets, bars or triangles, but not an
    HTML element), or is more than a word and a part of the chat template.

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
    """A tokenizer of users' text: control tokens in a text are encoded as plain text.

    Args:
        tokenizer: transformers' tokenizer; its vocabulary is shared and not changed.
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
        """One more than the highest id in a prompt or an answer."""
        ids = set(self._tokenizer.get_vocab().values()) - self.control.keys()
        return 1 + int(max(ids | {*self.prefix, self._tokenizer.eos_token_id}))

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, without beginning and end tokens."""
        rows = self._encoded(texts) if texts else []
        return [row if self._never.isdisjoint(row) else self._cut(text) for text, row in zip(texts, rows, strict=True)]

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        rows: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return rows

    def _cut(self, text: str) -> list[int]:
        """Ids of a text that spells control tokens of the vocabulary: cut behind the first letter of each."""
        cuts = [0, *(found.start() + 1 for found in self._inside.finditer(text)), len(text)]
        rows = self._encoded([text[start:stop] for start, stop in pairwise(cuts) if start < stop])
        return [id for row in rows for id in row if id not in self._never]

    def _prefix(self) -> list[int]:
        """The ids that the tokenizer puts before every text, such as a beginning-of-text token."""
        bare, whole = self._encoded(["a"])[0], self._tokenizer("a")["input_ids"]
        starts = [at for at in range(len(whole)) if whole[at : at + len(bare)] == bare]
        return list(whole[: starts[0]]) if starts else []


def _listed(tokenizer: Any) -> dict[int, str]:
    """The tokens that the tokenizer's configuration lists as special."""
    ids = [(tokenizer.convert_tokens_to_ids(token), token) for token in tokenizer.all_special_tokens]
    return {id: token for id, token in ids if id is not None and tokenizer.convert_ids_to_tokens(id) == token}


def _unknown(tokenizer: Any) -> set[int]:
    """The id for unknown text, unless it is also another token's: text may become it."""
    others = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    return {tokenizer.unk_token_id} - others - {None}


def _literal(tokenizer: Any, control: Any) -> Any:
    """A copy of the tokenizer in which all control tokens are special, and special tokens are text."""
    literal = copy(tokenizer)
    literal.split_special_tokens = True
    whole = getattr(tokenizer, "backend_tokenizer", None)
    if whole is None:  # a tokenizer in Python splits all added tokens
        return literal
    backend, added = Tokenizer(whole.model), tokenizer.added_tokens_decoder
    backend.add_tokens([_flagged(added[id], id in control) for id in sorted(added)])
    if any(backend.token_to_id(one.content) != id for id, one in added.items()):  # their ids have gaps
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
