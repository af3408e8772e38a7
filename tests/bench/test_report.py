"""The page and the Markdown of made-up results."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ownlm.bench import report
from ownlm.bench.report import FIGURES, HTML, MARKDOWN, as_html, as_markdown, figures, write_report
from ownlm.bench.results import Results
from ownlm.errors import DataError
from tests.bench.made import LONG, METHODS, changed, results

EMPTY = {"meta", "link", "br", "img", "hr"}


class Page(HTMLParser):
    """What a browser would see: elements in order, what is open, and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.seen if name == tag]


def text_of(results: Results) -> str:
    return as_markdown(results, figures(results))


def page_of(results: Results) -> str:
    return as_html(results, text_of(results), figures(results))


@pytest.fixture(scope="module")
def html() -> str:
    return page_of(results())


def test_the_page_is_whole_and_needs_nothing_else(html: str) -> None:
    page = Page(html)
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.seen}
    assert "default-src 'none'" in html and not re.search(r"@import|url\((?!#)", html)
    links = [attrs[name] for _, attrs in page.seen for name in ("href", "src", "xlink:href") if attrs.get(name)]
    assert links and all(link is not None and link.startswith("#") for link in links)
    ids = [attrs["id"] for _, attrs in page.seen if "id" in attrs]
    assert len(set(ids)) == len(ids) and {str(link)[1:] for link in links} <= set(ids)


def test_the_page_shows_names_as_they_are(html: str) -> None:
    page = Page(html)
    assert 'a|b <script>alert("1")</script>' in page.text and "\x1b" not in html
    assert "<b>ratings" in page.text and not page.all("b")
    assert all(" ".join(name.split()) in page.text for name in METHODS if "\x1b" not in name)


def test_tables_and_pictures_can_be_read_aloud(html: str) -> None:
    page = Page(html)
    assert len(page.all("h3")) == len(page.all("table")) == 2 + 2 * 3 + 2
    assert {attrs.get("scope") for attrs in page.all("th")} == {"col", "row"}
    pictures = page.all("svg")
    assert len(pictures) == 2 + 2
    assert all(one["role"] == "img" and one["aria-label"] for one in pictures)
    assert len({one["aria-label"] for one in pictures}) == len(pictures)


def test_the_page_says_what_it_was_measured_on(html: str) -> None:
    text = Page(html).text
    for fact in ("2026-03-01", "a made-up machine", "0, 7", "version of torch", "2.11", '"name": "main"', "rag = 1"):
        assert fact in text
    assert html.index('id="part-2"') < html.index('id="part-3"')


def test_no_folder_of_a_machine_is_told(html: str) -> None:
    for text in (Page(html).text, text_of(results())):
        assert '"data": "news.jsonl"' in text and '"queries": "queries.jsonl"' in text
        assert "somebody" not in text and "their/" not in text


def test_settings_for_all_methods_stand_beside_each_ones() -> None:
    md = text_of(results())
    assert "| stage 1, the adapted base | adapt | epochs = 2 |" in md and "| share |" not in md


def test_no_heading_stands_twice(html: str) -> None:
    heads = re.findall(r"<h[123]>(.*?)</h[123]>", html)
    assert len(set(heads)) == len(heads) and "news: quality" in heads and "Quality" not in heads


def test_a_random_base_is_told_before_any_figure() -> None:
    made = changed(results(), resolved={"base": "random"})
    for text in (Page(page_of(made)).text, text_of(made)):
        assert 0 < text.index("random weights") < text.index("0.500")


def test_verdicts_have_a_word_and_a_sign_beside_their_colour(html: str) -> None:
    assert html.count('<td class="better">▲ better</td>') == 3  # accuracy, f1_macro; and less of an error
    assert html.count('<td class="worse">▼ worse</td>') == 3
    assert html.count('<td class="unclear">○ unclear</td>') == html.count('<td class="unclear">• equal</td>') == 3


def test_the_markdown_has_the_same_tables() -> None:
    md = text_of(results())
    assert md.count("\n|:--") == 2 + 2 * 3 + 2
    assert f"| {LONG} | 0.625 [0.500, 0.750] | +0.125 [+0.062, +0.188] | ▲ better |" in md
    assert all(f"]({name})" in md for name in figures(results())) and "figures/1-quality.svg" in md
    assert "````json\n" in md and md.endswith("````\n")  # what stands in the plan does not end it
    assert not re.search(r"(?<!\\)<(script|b>)", md[: md.index("````json")])


def test_the_same_results_give_the_same_bytes(tmp_path: Path, html: str) -> None:
    (tmp_path / HTML).write_text("an older one")
    page, md = write_report(results(), tmp_path)
    assert page.read_bytes() == html.encode() and md.read_text("utf8") == text_of(results())
    assert sorted(one.name for one in tmp_path.iterdir()) == [FIGURES, HTML, MARKDOWN]
    drawn = {f"{FIGURES}/{one.name}": one.read_text("utf8") for one in (tmp_path / FIGURES).iterdir()}
    assert drawn == figures(results())


def test_a_report_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "as_html", lambda *_: "a page")
    with pytest.raises(DataError, match="cannot be written"):
        write_report(results(), tmp_path / "nowhere")
