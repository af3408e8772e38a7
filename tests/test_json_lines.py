"""JSON Lines stay one line per document for every reader: `str.splitlines` breaks at more than line feeds."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ownlm.bench.predictions import Prediction, Writer
from ownlm.cli.output import print_json
from ownlm.importers.imported import write_rows
from ownlm.json_lines import json_line
from tests.shell import QuickShell

BREAKS = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\x1dh\x1ei\rj\nk"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def documents(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


@given(DOCUMENTS)
@example({BREAKS: [BREAKS]})
def test_a_document_is_one_line_whatever_splits_it(document: Any) -> None:
    line = json_line(document)
    assert line.endswith("\n") and documents(line) == [document]


def test_other_letters_stay_readable() -> None:
    assert json_line({"text": "Grüße, 世界 😀"}) == '{"text": "Grüße, 世界 😀"}\n'


def test_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        print_json({"answer": BREAKS}, line=True)
    assert documents(capsys.readouterr().out) == [{"answer": BREAKS}] * 2
    print_json({"answer": BREAKS})
    assert json.loads("\n".join(capsys.readouterr().out.splitlines())) == {"answer": BREAKS}


def test_answers_to_a_file_of_queries(shell: QuickShell) -> None:
    queries = [{"user_id": "ada", "id": f"q{n}", "text": "thing", "gold": BREAKS} for n in range(2)]
    (shell.folder / "odd.jsonl").write_text("".join(json.dumps(one) + "\n" for one in queries), "utf8")
    shell.run("history", "add", "people.jsonl", "--task", "sorting.toml")
    told = shell.run("ask", "--file", "odd.jsonl", "--task", "sorting", "--base-only", "--json")
    assert [one["gold"] for one in documents(told)] == [BREAKS] * 2


def test_imported_histories(tmp_path: Path) -> None:
    rows = [{"user_id": "ada", "text": BREAKS}] * 2
    assert write_rows(tmp_path / "out.jsonl", rows) == 2
    assert documents((tmp_path / "out.jsonl").read_text("utf8")) == rows


def test_predictions(tmp_path: Path) -> None:
    with Writer(tmp_path / "predictions.jsonl") as writer:
        writer.write(*[Prediction("ada", f"q{n}", BREAKS, 0.5) for n in range(2)])
    assert [one["output"] for one in documents((tmp_path / "predictions.jsonl").read_text("utf8"))] == [BREAKS] * 2
