"""lm-eval: a task of its own, from a local file, through completions (texts and token ids) and chats."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Served
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from texts import SAYS

TASK = """
task: ours
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: {until}
  max_gen_toks: 40
  do_sample: false
  temperature: 0.0
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""
QUESTIONS = ("hello", "what is new?", "and then?", "who are you?")


@pytest.fixture
def evaluate(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def run(kind: str, path: str, answers: list[str], until: list[str], key: str, **how: Any) -> list[dict[str, Any]]:
        monkeypatch.setenv("OPENAI_API_KEY", key)
        rows = [{"question": one, "answer": two} for one, two in zip(QUESTIONS, answers, strict=True)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf8")
        folder = tmp_path / "tasks"
        folder.mkdir(exist_ok=True)
        text = TASK.format(file=tmp_path / "rows.jsonl", until=json.dumps(until))
        (folder / "ours.yaml").write_text(text, "utf8")
        given = {"model": "reply", "base_url": served.url + path, "max_retries": 1} | how
        chats = kind == "local-chat-completions"
        done = simple_evaluate(
            kind, given, ["ours"], task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            apply_chat_template=chats, bootstrap_iters=0,
        )  # fmt: skip
        samples: list[dict[str, Any]] = done["samples"]["ours"]
        return samples

    return run


@pytest.mark.parametrize("concurrent", [1, 4])
@pytest.mark.parametrize("as_tokens", [True, False])
def test_completions(served: Served, evaluate: Any, as_tokens: bool, concurrent: int) -> None:
    right = served.continued(list(QUESTIONS), max_tokens=40, temperature=0)
    samples = evaluate(
        "local-completions", "/completions", right, ["\n\n\n"], served.tokens["ada"], tokenizer=str(served.base),
        tokenized_requests=as_tokens, num_concurrent=concurrent, batch_size=2,
    )  # fmt: skip
    assert [one["resps"][0][0] for one in sorted(samples, key=lambda one: one["doc_id"])] == right


def test_chats(served: Served, evaluate: Any) -> None:
    right = [SAYS["jo"]] * len(QUESTIONS)
    samples = evaluate("local-chat-completions", "/chat/completions", right, ["\n\n"], served.tokens["jo"])
    assert [one["resps"][0][0] for one in samples] == right and all(one["exact_match"] == 1 for one in samples)


def test_a_wrong_token_ends_the_evaluation(evaluate: Any) -> None:
    with pytest.raises(Exception, match="401"):
        evaluate("local-chat-completions", "/chat/completions", [""] * len(QUESTIONS), [], "own_wrong")
