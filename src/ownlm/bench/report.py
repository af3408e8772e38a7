"""The report of a benchmark: report.md with two figures a set, and the same rendered as report.html, a single file."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any, Final

from markdown_it import MarkdownIt

from ownlm.bench.metrics import metric
from ownlm.bench.plots import against_baseline, against_cost
from ownlm.bench.results import MethodResult, Results, SetResult
from ownlm.bench.statistics import FEWEST
from ownlm.bench.tables import (
    BETTER,
    EQUAL,
    UNCLEAR,
    VERDICTS,
    WORSE,
    Table,
    activity,
    costs,
    escaped,
    figure,
    markdown,
    plain,
    quality,
    verdict,
    without_folders,
)
from ownlm.durable import write_whole
from ownlm.errors import DataError, many

HTML, MARKDOWN, FIGURES = "report.html", "report.md", "figures"
_BY_CHANCE: Final = 0.05  # share of true zeros that lie outside their 95% interval
_FEW: Final = 10  # comparisons, of which chance marks hardly one
_ROUGE: Final = (
    "ROUGE: F-measure by rouge-score, no stemming; words are runs of a-z and 0-9 in Latin script, single characters "
    "in scripts without blanks between words (Chinese, Japanese, Thai...), else runs of letters, marks and digits."
)
_QUALITY: Final = "Methods with 95% intervals; the diamond and the dashed line are the baseline."
_COST: Final = (
    "Quality against cost, on logarithmic axes, with 95% intervals. Numbered: methods that no other method beats at "
    "the same cost or less. The diamond is the baseline."
)
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
{body}</main>
</body>
</html>
"""


def write_report(results: Results, folder: Path) -> tuple[Path, Path]:
    """Writes FOLDER/report.html, FOLDER/report.md and its figures: the same bytes for the same results.

    Raises:
        DataError: A file cannot be written.
    """
    html, md, drawn = folder / HTML, folder / MARKDOWN, figures(results)
    text = as_markdown(results, drawn)
    try:
        (folder / FIGURES).mkdir(exist_ok=True)
        for name, svg in drawn.items():
            write_whole(folder / name, svg.encode())
        write_whole(html, as_html(results, text, drawn).encode())
        write_whole(md, text.encode())
    except OSError as error:
        raise DataError(f"The report cannot be written to {folder}", got=error.strerror or error) from None
    return html, md


def figures(results: Results) -> dict[str, str]:
    """The SVG of each figure, by its path beside the report: two a set, by the set's first metric."""
    drawn = dict[str, str]()
    for number, one in enumerate(results.sets, 1):
        if one.metrics and one.methods:
            drawn[_name(number, "quality")] = against_baseline(results, one, one.metrics[0])
            drawn[_name(number, "cost")] = against_cost(results, one, one.metrics[0])
    return {name: svg for name, svg in drawn.items() if svg}


def _name(number: int, what: str) -> str:
    return f"{FIGURES}/{number}-{what}.svg"


def as_markdown(results: Results, drawn: Mapping[str, str]) -> str:
    """The report: figures, tables, and how they were made.

    Args:
        drawn: The figures.
    """
    parts = [f"# {escaped(title(results))}", escaped(subtitle(results)), _listed(notes(results))]
    for number, one in enumerate(results.sets, 1):
        parts += [f"## {escaped(plain(one.name))}", _listed(about(results, one))]
        tables: list[tuple[str, str, list[Table]]] = [
            ("quality", _QUALITY, [quality(results, one)]), ("cost", _COST, [*costs(one), *activity(one)])
        ]  # fmt: skip
        for what, note, below in tables:
            if (name := _name(number, what)) in drawn:
                parts += [f"![{escaped(f'{what} on {plain(one.name)}')}]({name})", note]
            parts += map(markdown, below)
    parts += ["## How it was made", markdown(_facts(results)), markdown(_methods(results))]
    plan = json.dumps(without_folders(results.resolved), ensure_ascii=False, indent=1)
    fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall("`+", plan))])
    return "\n\n".join([*parts, "The plan, resolved:", f"{fence}json\n{plan}\n{fence}"]) + "\n"


def as_html(results: Results, text: str, drawn: Mapping[str, str]) -> str:
    """The report as one page that needs no network and no script.

    Args:
        text: The report in Markdown.
        drawn: The figures, which the page holds.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(text)
    for number, place in enumerate([place for place, token in enumerate(tokens) if token.tag == "h2"][::2], 1):
        tokens[place].attrSet("id", f"part-{number}")
    links = re.findall(r'<h2 id="(.*?)">(.*?)</h2>', html := reader.renderer.render(tokens, reader.options, {}))
    html = re.sub(r'<p><img src="([^"]+)"[^>]*/></p>', lambda found: f"<figure>{drawn[found[1]]}</figure>", html)
    html = re.sub(r"<th( |>)", r'<th scope="col"\1', html)
    html = re.sub(r"<tr>\n<td.*?>(.*?)</td>", r'<tr>\n<th scope="row">\1</th>', html)
    for word in VERDICTS:
        shade = {BETTER: "better", WORSE: "worse"}.get(word, "unclear")
        html = re.sub(rf"<td[^>]*>{word}</td>", f'<td class="{shade}">{word}</td>', html)
    html = html.replace("<table>", '<div class="wide" role="region" aria-label="Table" tabindex="0"><table>')
    html = html.replace("</table>", "</table></div>")
    contents = "".join(f'<li><a href="#{anchor}">{name}</a></li>' for anchor, name in links)
    html = html.replace("<h2 ", f'<nav aria-label="Contents"><ul>{contents}</ul></nav>\n<h2 ', 1)
    style = files("ownlm.bench").joinpath("report.css").read_text("utf8")
    return _PAGE.format(title=escape(title(results)), style=style, body=html)


def title(results: Results) -> str:
    """The heading of the report."""
    return f"Benchmark: {plain(results.plan)}"


def subtitle(results: Results) -> str:
    """Size, base, baseline, seeds, machine and date, on one line."""
    size = [f"size {results.size}"] if results.size else []
    base = [f"base: {_base(results)}"] if _base(results) else []
    seeds = f"{'seed' if len(results.seeds) == 1 else 'seeds'} {', '.join(map(str, results.seeds))}"
    return plain(" · ".join([*size, *base, f"baseline: {results.baseline}", seeds, results.hardware, results.date]))


def notes(results: Results) -> list[str]:
    """Sentences that hold for all sets."""
    random = "The base has random weights: the figures mean nothing, they only show that the plan runs."
    to_come = f"Not finished: still to be measured: {plain(', '.join(results.to_come))}."
    others = plain("; ".join(results.earlier))
    earlier = f"The same folder was run with other code, or on another machine, before; some may be theirs: {others}."
    return [
        *([to_come] if results.to_come else []),
        *([earlier] if results.earlier else []),
        *([random] if _base(results) == "random" else []),
        *([_ROUGE] if any(name.startswith("rouge") for one in results.sets for name in one.metrics) else []),
        "In brackets: 95% intervals, from resampling whole users (queries, where there is only one user), "
        f"stretched as Student's t is for few; none where there are fewer than {FEWEST}.",
        f"Verdicts on differences to the baseline, {plain(results.baseline)}: {BETTER} or {WORSE}, the interval "
        f"excludes zero (by chance alone, one in twenty does); {UNCLEAR}, it holds zero, or there is none; {EQUAL}, "
        "no answers score differently.",
    ]


def about(results: Results, one: SetResult) -> list[str]:
    """Sentences about a set: its users, what is left out, warnings, and how many methods differ from the baseline."""
    lines = [
        f"Task {plain(one.task)}: {many(one.users, 'user')} with "
        f"{many(one.queries, 'query')}, answered under {many(len(results.seeds), 'seed')}; "
        f"{many(one.outsiders, 'outsider')}, {many(one.sharers, 'possible sharer')}."
    ]
    for where, counts in {"the data": one.people, "the file of outsiders": one.outsiders_found}.items():
        if len(counts) > 1:
            roles = ", ".join(f"{count:,} {what}" for what, count in counts.items())
            lines.append(f"Of {many(sum(counts.values()), 'user')} in {where}: {plain(roles)}.")
    if one.unlabelled:
        lines.append(f"Left out: {many(one.unlabelled, 'query')} without a known right answer.")
    if one.left_out:
        names = "; ".join(map(plain, one.left_out))
        why = "as the task has no labels (or shows its options in each query), or records hold nothing to learn from"
        lines.append(f"Methods left out, {why}: {names}.")
    lines += _warnings(one)
    buckets = one.methods[0].buckets if one.methods else ()
    if len(buckets) == 1:
        lines.append(f"All users have {buckets[0].label}, so that there is no table by activity.")
    compared = [method for method in one.methods if method.differences]
    if not compared:
        lines.append(f"Nothing is compared to the baseline, {plain(results.baseline)}, here.")
    for name in one.metrics:
        better = "higher" if metric(name).higher_is_better else "lower"
        lines.append(" ".join([f"{name}: {better} is better.", *_summary(name, compared)]))
    return lines


def _warnings(one: SetResult) -> list[str]:
    """The warnings of a set, with the methods that share one on one line."""
    names = [method.name for method in one.methods]
    methods: dict[str, list[str]] = {}
    for warning in one.warnings:
        name = max((name for name in names if warning.startswith(f"{name}: ")), key=len, default="")
        methods.setdefault(warning.removeprefix(f"{name}: "), []).append(name)
    return [
        plain(f"Warning: {'; '.join(of)}: {text}" if any(of) else f"Warning: {text}") for text, of in methods.items()
    ]


def _summary(name: str, compared: list[MethodResult]) -> Iterator[str]:
    """How many methods differ from the baseline, how many would by chance, and which difference could be found."""
    if not compared:
        return
    counts = Counter(verdict(name, method.differences[name]) for method in compared)
    unlike = [one for method in compared if verdict(name, one := method.differences[name]) != EQUAL]
    if not unlike:
        yield f"None of {many(len(compared), 'compared method')} differs from the baseline."
        return
    found = sorted(one.detectable for one in unlike if one.detectable is not None)
    each = ", ".join(f"{counts[one]} {one.split()[-1]}" for one in VERDICTS)
    yield f"Of {many(len(compared), 'compared method')}: {each}."
    if not found:
        yield f"Fewer than {FEWEST} were asked: nothing can be shown."
        return
    if len(found) > _FEW:
        yield f"By chance alone about {_BY_CHANCE * len(found):.1f} of the {len(found)} not equal would be marked."
    spread = f", from {figure(found[0])} to {figure(found[-1])}" if found[0] < found[-1] else ""
    of = f"the median of the {len(found)} methods not equal{spread}" if len(found) > 1 else "by the one not equal"
    yield f"With 80% power this size would find a true difference of {figure(median(found))} ({of})."


def _base(results: Results) -> str:
    return str(without_folders(results.resolved.get("base", "")))


def _listed(lines: list[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)


def _facts(results: Results) -> Table:
    size = f" --size {results.size}" if results.size else ""
    rows = [
        ("command", f"ownlm bench run PLAN OUT{size}, with the plan below"),
        ("commit", results.commit or "unknown"),
        ("date", results.date),
        ("hardware", results.hardware),
        ("seeds", ", ".join(map(str, results.seeds))),
        *((f"version of {package}", version) for package, version in sorted(results.versions.items())),
    ]
    return Table("What it was measured on", ("fact", "value"), tuple((plain(a), plain(b)) for a, b in rows))


def _methods(results: Results) -> Table:
    """The settings that the plan gives to methods, and to stages for all of them."""
    methods = (method for one in results.sets for method in one.methods)
    rows = dict.fromkeys((plain(one.name), plain(one.method), _settings(one.settings)) for one in methods)
    for key, what in {"adapt": "stage 1, the adapted base", "share": "sharing, for all that need a pool"}.items():
        if isinstance(given := results.resolved.get(key), dict) and given:
            rows[what, key, _settings(given)] = None
    text = "Methods, and the settings that the plan gives them; all others are the defaults"
    return Table(text, ("name", "method", "settings"), tuple(rows))


def _settings(settings: dict[str, Any]) -> str:
    shown = without_folders(settings)
    return plain(", ".join(f"{name} = {json.dumps(shown[name], ensure_ascii=False)}" for name in sorted(shown)))
