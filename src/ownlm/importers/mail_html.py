"""The HTML of a message as plain text; what it quotes becomes lines that begin with '>', and signatures go."""

import re
from html.parser import HTMLParser
from typing import Final

_BREAKS: Final = dict.fromkeys(("br", "div", "tr", "dt", "dd", "section", "article", "header", "footer"), "\n") | (
    dict.fromkeys(("p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "pre", "hr", "address"), "\n\n")
    | {"li": "\n- ", "td": " ", "th": " "}
)
_VOID: Final = frozenset({"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"})
_SILENT: Final = frozenset({"script", "style", "title", "template"})
# Classes and ids that mail programs give to what they put around a person's words.
_SIGNATURES: Final = frozenset(
    {
        *("gmail_signature", "gmail_signature_prefix", "moz-signature", "applemailsignature", "signature"),
        *("ms-outlook-mobile-signature", "protonmail_signature_block", "yahoo_signature", "ymail_signature"),
    }
)
_QUOTES: Final = frozenset({"yahoo_quoted", "protonmail_quote", "tutanota_quote", "zmail_extra", "gmail_chip"})


def html_text(html: str) -> str:
    """The text that a reader sees, without signatures; for each quotation a line that is just '>'.

    >>> html_text("<p>Rain <b>again</b>.</p><blockquote>Sun?<p>Really?</blockquote>")
    '\\n\\nRain again.\\n\\n\\n>\\n\\n'
    """
    reader = _Reader()
    # "<![" makes the library stop where it is not one of Microsoft's; without close(), broken tags take linear time.
    reader.feed(html.replace("<![", "<!") + "<br>")
    return "".join(reader.pieces)


class _Reader(HTMLParser):
    """Collects text; of what is left out, it counts how deep the same tag is nested in itself."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.left_out, self.depth, self.as_it_is = "", 0, 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.left_out:
            self.depth += tag == self.left_out
            return
        names = {name for key, value in attrs if key in ("class", "id") for name in (value or "").lower().split()}
        quote = tag == "blockquote" or names & _QUOTES
        if tag not in _VOID and (quote or tag in _SILENT or names & _SIGNATURES):
            self.left_out, self.depth = tag, 1
            self.pieces.append("\n>\n" if quote else "")
        else:
            self.pieces.append(_BREAKS.get(tag, ""))
            self.as_it_is += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if self.left_out:
            self.depth -= tag == self.left_out
            self.left_out = self.left_out if self.depth else ""
        elif tag not in _VOID and tag != "li":
            self.pieces.append(_BREAKS.get(tag, ""))
            self.as_it_is -= tag == "pre"

    def handle_data(self, data: str) -> None:
        if not self.left_out:
            self.pieces.append(data if self.as_it_is > 0 else re.sub(r"[ \t\r\n\f]+", " ", data))
