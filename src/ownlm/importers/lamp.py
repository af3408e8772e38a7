"""Importer of LaMP's JSON and LongLaMP's Parquet: plain files of histories, queries and the task."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from ownlm.errors import DataError
from ownlm.history.files import kind_of
from ownlm.history.lamp import lamp_items
from ownlm.history.readers import read_dataset
from ownlm.history.record import Dataset, History, Query, Record
from ownlm.history.task import Task, load_task, with_instruction
from ownlm.importers.imported import Imported, plain_rows, unwritable, write_rows
from ownlm.importers.lamp_files import Kind, Split, find_lamp
from ownlm.importers.longlamp import GIVEN_AWAY, read_longlamp

UNLABELLED: Final = "records without an answer"


def import_lamp(
    file: Path, out: Path, *, task: str, labels: Path | None = None, split: Split = "user", part: Kind = "dev"
) -> Imported:
    """Converts LaMP's files to `OUT.jsonl`, `OUT.queries.jsonl` and `OUT.toml`.

    The query file is written if the data has queries, the task file if the queries contain an instruction.

    Args:
        file: LaMP's questions, users with a profile and queries, or a Parquet file of LongLaMP; or a folder of the
            benchmark's files.
        out: the history file to write; the other files are written beside it.
        task: a task's name, or the path of a task file.
        labels: the label file; by default the file of the usual name beside `file`.
        split: the split to read from a folder: other users in train and dev ("user"), or the same users later ("time").
        part: the part to read from a folder.

    Returns:
        The result. Records without an answer are left out: they give no example.

    Raises:
        ConfigError: the task has no such folder.
        DataError: the file has another shape, is damaged, or has no record with its answer; or an output file would
            replace an input file.
        NotFoundError, TaskError: the task is unknown or invalid.

    Source: ours.
    """
    loaded = load_task(task)
    files = find_lamp(file, task=loaded, split=split, part=part) if file.is_dir() else [file]
    queries_file, task_file = out.parent / f"{out.stem}.queries.jsonl", out.parent / f"{out.stem}.toml"
    _check_targets([out, queries_file, task_file], [*files, Path(task), *([labels] if labels else [])])
    left_out = Counter[str]()
    dataset = _read(files, loaded, labels, left_out)
    imported = Imported(task, files=[out])
    write_rows(out, _rows(dataset.histories, loaded, imported, file))
    imported.left_out |= {reason: count for reason, count in left_out.items() if count}
    if dataset.queries:
        imported.queries = write_rows(queries_file, map(_query_row, dataset.queries))
        imported.golds = sum(query.gold is not None for query in dataset.queries)
        imported.files.append(queries_file)
    if dataset.instruction or dataset.labels:
        _write(task_file, to_toml(with_instruction(loaded, dataset.instruction, dataset.labels)))
        imported.files.append(task_file)
        imported.task = str(task_file)
    return imported


def _read(files: list[Path], task: Task, labels: Path | None, left_out: Counter[str]) -> Dataset:
    kind = kind_of(files[0])
    if kind == "parquet":
        if labels is not None:
            raise DataError("LongLaMP's files hold the right answers themselves", hint="give no label file")
        return read_longlamp(files, task, left_out)
    if lamp_items(files[0], kind) is None:
        expected = "a JSON array, or JSON Lines, of users or questions, each with a profile"
        raise plain_rows(f"The file {files[0]} is not of LaMP's shape", expected)
    dataset = read_dataset(files[0], task, labels=labels, all_rows=True)
    left_out[GIVEN_AWAY] += dataset.given_away
    return dataset


def to_toml(task: Task) -> str:
    """A task as the text of a task file."""
    spec = task.model_dump(mode="json", exclude_defaults=True)
    options = spec.pop("options", {})
    lines = [f"{name} = {_value(value)}" for name, value in spec.items()]
    lines += [f"options.{name} = {_value(value)}" for name, value in options.items()]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    """A text, a number, or a list of texts in TOML, which differs from JSON in one control character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _rows(histories: Iterable[History], task: Task, imported: Imported, file: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of complete records, and counts them."""
    for history in histories:
        for record in history.records:
            if all(name in record.fields for name in task.required_in_records):
                imported.records[history.user_id] = imported.records.get(history.user_id, 0) + 1
                yield _row(record)
            else:
                imported.left_out[UNLABELLED] = imported.left_out.get(UNLABELLED, 0) + 1
    if not imported.records:
        raise DataError(f"No record in {file} can be learnt from", expected="profiles of records with their answers")


def _row(record: Record | Query) -> dict[str, Any]:
    row = {"user_id": record.user_id, "id": record.id, "time": record.time, **record.fields}
    return {name: value for name, value in row.items() if value is not None}


def _query_row(query: Query) -> dict[str, Any]:
    return _row(query) | ({} if query.gold is None else {"gold": query.gold})


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf8")
    except OSError as error:
        raise unwritable(path, error) from None


def _check_targets(targets: list[Path], sources: list[Path]) -> None:
    """Raises a DataError if an output file would replace an input file."""
    taken = {Path(os.path.realpath(path)) for path in sources} & {Path(os.path.realpath(path)) for path in targets}
    if taken or len(set(targets)) < len(targets):
        raise DataError(
            f"The import would write over {min(taken, default=targets[0])}",
            expected="a history file whose name, and the names with .queries.jsonl and .toml, are free",
            hint="choose another name",
        )
