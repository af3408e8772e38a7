"""A benchmark's report: one page that needs no network and no script, and the same tables as Markdown."""

import json
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from ownlm.bench.plots import against_cost, by_activity, forest
from ownlm.bench.results import Results, SetResult
from ownlm.bench.sentences import about, notes, subtitle, title
from ownlm.bench.tables import (
    BETTER,
    EQUAL,
    UNCLEAR,
    WORSE,
    Table,
    activity,
    costs,
    escaped,
    markdown,
    plain,
    quality,
    without_folders,
)
from ownlm.durable import write_whole
from ownlm.errors import DataError

HTML, MARKDOWN = "report.html", "report.md"
_SHADES = {BETTER: "better", WORSE: "worse", UNCLEAR: "unclear", EQUAL: "unclear"}


def write_report(results: Results, folder: Path) -> tuple[Path, Path]:
    """Writes FOLDER/report.html and FOLDER/report.md: the same bytes for the same results.

    Raises:
        DataError: they cannot be written.
    """
    html, md = folder / HTML, folder / MARKDOWN
    try:
        write_whole(html, as_html(results).encode())
        write_whole(md, as_markdown(results).encode())
    except OSError as error:
        raise DataError(f"The report cannot be written to {folder}", got=error.strerror or error) from None
    return html, md


def as_markdown(results: Results) -> str:
    """All tables, and what they were measured on."""
    parts = [f"# {escaped(title(results))}", escaped(subtitle(results)), _listed(notes(results))]
    parts.append(f"Plots are in {HTML}, beside this file.")
    for one in results.sets:
        parts += [f"## {escaped(plain(one.name))}", _listed(about(results, one))]
        parts += map(markdown, (quality(results, one), *costs(one), *activity(one)))
    parts += ["## How it was made", markdown(_facts(results)), markdown(_methods(results))]
    plan = _plan(results)
    fence = "`" * 3
    while fence in plan:
        fence += "`"
    parts += ["The plan, resolved:", f"{fence}json\n{plan}\n{fence}"]
    return "\n\n".join(parts) + "\n"


def _listed(lines: list[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)


def as_html(results: Results) -> str:
    """The page: tables, pictures, and what they were measured on."""
    style = files("ownlm.bench").joinpath("report.css").read_text("utf8")
    links = "".join(f'<li><a href="#{_anchor(n)}">{_text(one.name)}</a></li>' for n, one in enumerate(results.sets))
    body = [
        f"<header><h1>{_text(title(results))}</h1><p>{_text(subtitle(results))}</p>{_list(notes(results))}</header>",
        f'<nav aria-label="Contents"><ul>{links}<li><a href="#made">How it was made</a></li></ul></nav>',
        *(_section(results, one, _anchor(number)) for number, one in enumerate(results.sets)),
        _made(results),
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{_text(title(results))}</title>
<style>
{style}</style>
</head>
<body>
<main>
{chr(10).join(body)}
</main>
</body>
</html>
"""


def _section(results: Results, one: SetResult, anchor: str) -> str:
    """All about one set."""
    parts = [f'<section id="{anchor}"><h2>{_text(one.name)}</h2>{_list(about(results, one))}']
    parts.append(_table(quality(results, one)))
    note = "Dots with 95% intervals; the diamond and the dashed line are the baseline."
    parts += [_picture(forest(results, one, name), note) for name in one.metrics]
    parts += map(_table, costs(one))
    if one.metrics:
        note = (
            "Numbered: methods that no other does better than at the same cost or less. The diamond is the baseline, "
            "lines are 95% intervals. Costs are drawn by their logarithm."
        )
        parts.append(_picture(against_cost(results, one, one.metrics[0]), note))
        parts += map(_table, activity(one))
        note = "People by how many records they have; the diamond and the dashed line are the baseline."
        parts.append(_picture(by_activity(results, one, one.metrics[0]), note))
    return "\n".join(part for part in [*parts, "</section>"] if part)


def _made(results: Results) -> str:
    """What it was measured on, and how it can be measured again."""
    return (
        f'<section id="made"><h2>How it was made</h2>\n{_table(_facts(results))}\n{_table(_methods(results))}\n'
        f"<details><summary>The plan, resolved</summary><pre>{escape(_plan(results))}</pre></details></section>"
    )


def _table(table: Table) -> str:
    """A table in a box that scrolls where the page is too narrow for it."""
    head = "".join(f'<th scope="col"{_side(column)}>{_text(column.removesuffix("#"))}</th>' for column in table.columns)
    rows = []
    for row in table.rows:
        cells = (_cell(column, cell) for column, cell in zip(table.columns[1:], row[1:], strict=True))
        rows.append(f'<tr><th scope="row">{_text(row[0])}</th>{"".join(cells)}</tr>')
    note = f'<p class="note">{_text(table.note)}</p>' if table.note else ""
    return (
        f'<div class="wide" role="region" aria-label="{_text(table.title)}" tabindex="0"><table>'
        f"<caption><h3>{_text(table.title)}</h3></caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>{chr(10).join(rows)}</tbody></table></div>{note}"
    )


def _cell(column: str, cell: str) -> str:
    shade = _SHADES.get(cell) if column == "verdict" else None
    return f'<td class="{shade}">{_text(cell)}</td>' if shade else f"<td{_side(column)}>{_text(cell)}</td>"


def _side(column: str) -> str:
    return ' class="number"' if column.endswith("#") else ""


def _list(lines: list[str]) -> str:
    return f'<ul class="about">{"".join(f"<li>{_text(line)}</li>" for line in lines)}</ul>'


def _picture(svg: str, note: str) -> str:
    return f'<figure><div class="wide">{svg}</div><figcaption>{_text(note)}</figcaption></figure>' if svg else ""


def _facts(results: Results) -> Table:
    rows = [
        ("date", results.date),
        ("commit", results.commit or "unknown"),
        ("hardware", results.hardware),
        ("seeds", ", ".join(map(str, results.seeds))),
        *((f"version of {package}", version) for package, version in sorted(results.versions.items())),
    ]
    return Table("What it was measured on", ("fact", "value"), tuple((plain(a), plain(b)) for a, b in rows))


def _methods(results: Results) -> Table:
    """The settings that the plan gives: each method's, once where all sets have the same, and what is for all."""
    methods = (method for one in results.sets for method in one.methods)
    rows = dict.fromkeys((plain(one.name), plain(one.method), _settings(one.settings)) for one in methods)
    shared = {"adapt": "stage 1, the adapted base", "share": "sharing, for all that need a pool"}
    given = ((whose, key, results.resolved.get(key)) for key, whose in shared.items())
    told = ((whose, key, _settings(value)) for whose, key, value in given if isinstance(value, dict) and value)
    what = "Methods, and the settings that the plan gives them; all others are the defaults"
    return Table(what, ("name", "method", "settings"), (*rows, *told))


def _settings(settings: dict[str, Any]) -> str:
    shown = without_folders(settings)
    return plain(", ".join(f"{name} = {json.dumps(shown[name], ensure_ascii=False)}" for name in sorted(shown)))


def _plan(results: Results) -> str:
    return json.dumps(without_folders(results.resolved), ensure_ascii=False, indent=1)


def _anchor(number: int) -> str:
    return f"set-{number + 1}"


def _text(text: str) -> str:
    return escape(plain(text))
