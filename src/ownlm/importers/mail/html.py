"""Conversion of HTML mail to plain text: quotations become lines with '>', signatures are removed."""

import re
from html.parser import HTMLParser
from typing import Final

_LINES: Final = dict.fromkeys(  # block elements
    ("address", "article", "center", "dd", "div", "dl", "dt", "footer", "form", "header", "li", "section", "tr"), 1
) | dict.fromkeys(("h1", "h2", "h3", "h4", "h5", "h6", "hr", "ol", "p", "pre", "table", "ul"), 2)
_VOID: Final = frozenset({"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"})
_SILENT: Final = frozenset({"script", "style", "title", "template"})
# Classes and ids of the elements that mail programs add around the sender's words.
_SIGNATURES: Final = frozenset(
    {
        *("gmail_signature", "gmail_signature_prefix", "moz-signature", "applemailsignature", "signature"),
        *("ms-outlook-mobile-signature", "protonmail_signature_block", "yahoo_signature", "ymail_signature"),
        *("mobile-signature", "ymail_android_signature", "bloop_sign", "airmail_sign", "messagesignaturesection"),
    }
)
_QUOTES: Final = frozenset(
    {
        *("yahoo_quoted", "protonmail_quote", "tutanota_quote", "zmail_extra", "gmail_chip", "bloop_original_html"),
        *("moz-forward-container", "olk_src_body_section", "composewebview_previouse_content", "messagereplysection"),
    }
)
_ENDS: Final = frozenset(  # a quotation follows
    {
        *("stopspelling", "divrplyfwdmsg", "appendonsend", "zwchr", "outlookmessageheader", "moz-email-headers-table"),
        *("ms-outlook-mobile-reference-message", "mail-editor-reference-message-container"),
    }
)
_PREFIXES: Final = re.compile(
    r"^(?:x_|ecx|ydp[0-9a-f]+)+|(?<=yahoo_quoted)_\d+$"
)  # prefix added by some programs to quoted names


def html_text(html: str) -> str:
    """Converts HTML to its visible text, without signatures, with a line '>' for each quotation.

    A quotation without an enclosing element begins with a line of underscores.

    >>> html_text("<p>Rain <b>again</b>.</p><blockquote>Sun?<p>Really?</blockquote>")
    'Rain again.\\n\\n>\\n\\n'
    """
    reader = _Reader()
    # The parser stops at "<![" unless it is one of Microsoft's; without close(), broken tags take linear time.
    reader.feed(html.replace("<![", "<!") + "<br>")
    return "".join(reader.pieces)


class _Reader(HTMLParser):
    """HTML parser that collects text. Inside a skipped element it counts nested tags of the same name."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.lines = 2  # line ends since the last text
        self.left_out, self.depth, self.as_it_is = "", 0, 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.left_out:
            self.depth += tag == self.left_out
            return
        names = {
            _PREFIXES.sub("", name)
            for key, value in attrs
            if key in ("class", "id", "name")
            for name in (value or "").lower().split()
        }
        quote = tag == "blockquote" or names & _QUOTES
        if tag not in _VOID and (quote or tag in _SILENT or names & _SIGNATURES):
            self.left_out, self.depth = tag, 1
            self._break(1)
            if quote:
                self._put(">\n")
                self.lines = 1
            return
        if names & _ENDS:
            self._break(1)
            self._put("_" * 32)
            self._break(1)
        self._break(self.lines + 1 if tag == "br" else _LINES.get(tag, 0))
        self.as_it_is += tag == "pre"
        if tag in ("li", "td", "th"):
            self._put("- " if tag == "li" else " ")

    def handle_endtag(self, tag: str) -> None:
        if not self.left_out:
            self._break(_LINES.get(tag, 0))
            self.as_it_is -= tag == "pre"
        elif tag == self.left_out:
            self.depth -= 1
            self.left_out = tag if self.depth else ""

    def handle_data(self, data: str) -> None:
        if not self.left_out:
            text = data if self.as_it_is > 0 else re.sub(r"[ \t\r\n\f]+", " ", data)
            if text.strip(" ") or not self.lines:
                self._put(text)

    def _put(self, text: str) -> None:
        self.pieces.append(text)
        self.lines = 0

    def _break(self, lines: int) -> None:
        """Ends the line, followed by the given number of empty ones."""
        self.pieces.append("\n" * (lines - self.lines))
        self.lines = max(lines, self.lines)
