"""The real histories beside the repository, where they are there."""

import json
from pathlib import Path

import pytest

from ownlm.history.readers import read_dataset, read_queries
from ownlm.history.task import load_task, with_instruction
from ownlm.prompt.example import history_examples, query_prompt

DATA = Path(__file__).parents[3] / "shared" / "data"
FOLDERS = [("huffpost_category", "LaMP_2N", 29), ("huffpost_headline", "LaMP_4", 0), ("acl_title", "LaMP_5", 0)]

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"THE REAL DATA ARE NOT THERE: no folder {DATA}")


@pytest.mark.parametrize(("folder", "name", "labels"), FOLDERS)
@pytest.mark.parametrize("people", ["user_top_history", "user_others"])
def test_everything_is_read(folder: str, name: str, labels: int, people: str) -> None:
    file, task = DATA / folder / f"{people}.json", load_task(name)
    dataset, raw = read_dataset(file, task), json.loads(file.read_text("utf8"))
    assert [history.user_id for history in dataset.histories] == [person["user_id"] for person in raw]
    for history, person in zip(dataset.histories, raw, strict=True):
        assert {record.id for record in history.records} == {record["id"] for record in person["profile"]}
        assert all(task.answer_field in record.fields for record in history.records)
        assert [record.time for record in history.records] == sorted(record.time or "" for record in history.records)
    assert len(dataset.queries) == sum(len(person["query"]) for person in raw)
    assert all(query.gold and query.fields[task.input_fields[0]] for query in dataset.queries)
    assert dataset.instruction and not dataset.instruction.endswith(":")
    assert len(dataset.labels or ()) == labels


@pytest.mark.parametrize(("folder", "name", "labels"), FOLDERS)
def test_prompts_are_made(folder: str, name: str, labels: int) -> None:
    file = DATA / folder / "user_others.json"
    dataset = read_dataset(file, load_task(name))
    task = with_instruction(load_task(name), dataset.instruction, dataset.labels)
    assert len(task.labels or ()) == labels
    histories = {history.user_id: history for history in dataset.histories}
    for history in dataset.histories[:20]:
        examples = history_examples(task, history, rag=1)
        assert [example.record_id for example in examples] == [record.id for record in history.records]
        assert [len(example.retrieved) for example in examples] == [min(place, 1) for place in range(len(history))]
        assert all(example.prompt.startswith(f"{dataset.instruction}\n\n") for example in examples)
    query = read_queries(file, task)[0]
    prompt, retrieved = query_prompt(task, query.fields, histories[query.user_id], rag=2)
    assert len(retrieved) == 2
    assert prompt.endswith(f"{query.fields[task.input_fields[0]]}\n{task.cue}")
