"""The addresses of LaMP's and LongLaMP's files, their download, and their places in a folder.

LaMP. The addresses are those that the benchmark's download page links to, as public programs use them. For the
user-based separation (other users in train, dev and test):

    {OFFICIAL}/LaMP_1/train/train_questions.json, train_outputs.json; the same with dev; test/test_questions.json

and for the time-based one (the same users, later queries) the same below {OFFICIAL}/time. Answers to test questions
are not given out. The benchmark's second task was news categories first and became film tags later, and both are
called LaMP_2: the news lie in LaMP_2, the films in LaMP_2/new. Several programs agree upon that much, while
time/LaMP_2/new is named by one alone; the server itself could not be asked when this was written. A wrong address there
is said to answer with status 200 and a web page: such a page is refused, and so are files of another task.

LongLaMP. The hub's dataset LongLaMP/LongLaMP holds Parquet files by configuration (such as topic_writing_temporal) and
split (train, val, test). In which folders is not certain: what is looked for here are the hub's own usual places.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from filelock import FileLock

from ownlm.errors import ConfigError, DataError, NotFoundError, quoted
from ownlm.history.files import kind_of, read_array
from ownlm.history.lamp import read_golds
from ownlm.history.row import as_object
from ownlm.history.task import Task, load_task
from ownlm.history.values import as_id
from ownlm.importers.fetch import check_url, fetch_file
from ownlm.progress import Progress, silent

Split = Literal["user", "time"]
Kind = Literal["train", "dev", "test"]

OFFICIAL: Final = "https://ciir.cs.umass.edu/downloads/LaMP"
_FOLDERS: Final = {
    "LaMP_1": "LaMP_1",
    "LaMP_2M": "LaMP_2/new",
    "LaMP_2N": "LaMP_2",
    "LaMP_3": "LaMP_3",
    "LaMP_4": "LaMP_4",
    "LaMP_5": "LaMP_5",
    "LaMP_7": "LaMP_7",
}
_CONFIGURATIONS: Final = {
    "LongLaMP_abstract": "abstract_generation",
    "LongLaMP_review": "product_review",
    "LongLaMP_topic": "topic_writing",
}
_ON_THE_HUB: Final = "LongLaMP/LongLaMP"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file of the benchmark in its folder, and whether this call fetched it."""

    path: Path
    new: bool


def download_lamp(
    folder: Path,
    *,
    task: str,
    split: Split = "user",
    parts: Sequence[Kind] = ("train", "dev"),
    url: str = OFFICIAL,
    progress: Progress = silent,
) -> list[Fetched]:
    """Downloads a task's missing files into a folder, under their names on the server.

    It may be killed at any time; the same call continues. Each file is checked before it gets its name: questions
    must be of this task, and outputs must answer exactly these questions.

    Args:
        task: LaMP_1, LaMP_2M (films), LaMP_2N (news), ...; or a task file of such a name.
        split: other users in train and dev ("user"), or the same users later ("time").
        parts: the parts to fetch; test has questions only.
        url: a mirror with the same files.
        progress: called with bytes.

    Raises:
        ConfigError: the task's files cannot be fetched, or the URL cannot be used.
        DataError: a file cannot be fetched or written, or is not what it should be.
        NotFoundError, TaskError: of the task.

    Source: https://lamp-benchmark.github.io/download.
    """
    if task == "LaMP_2":
        raise NotFoundError("Two tasks are called LaMP_2", expected="LaMP_2M, film tags, or LaMP_2N, news categories")
    loaded = None if task == "LaMP_6" else load_task(task)
    name = loaded.name if loaded else task
    if loaded is None or name not in _FOLDERS:
        raise ConfigError(f"The files of task {name!r} cannot be fetched", **_elsewhere(name))
    check_url(url)
    fetched = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".ownlm-download.lock")
        lock.acquire()
    except OSError as error:
        raise DataError(
            f"The folder {folder} cannot be written", got=error.strerror, hint="choose another folder"
        ) from None
    with lock:
        for part in dict.fromkeys(parts):
            for file in _official(name, split, part):
                path = folder / file
                new = fetch_file(
                    f"{url.rstrip('/')}/{file}", path, check=_checker(path, loaded, part), progress=progress
                )
                fetched.append(Fetched(path, new))
    return fetched


def find_lamp(folder: Path, *, task: Task, split: Split = "user", part: Kind = "dev") -> list[Path]:
    """Finds a task's files in a folder: LaMP's questions with their outputs, or LongLaMP's Parquet files.

    LaMP's may lie where `download_lamp` puts them, or in DIR/dev/, or in DIR itself; LongLaMP's in
    DIR/topic_writing_user/, in a folder val/ there, or in DIR itself.

    Raises:
        ConfigError: the task is not of these benchmarks.
        DataError: a file is missing.
    """
    if task.name in _CONFIGURATIONS:
        return _find_parquet(folder, task.name, split, part)
    if task.name not in _FOLDERS:
        raise ConfigError(f"The folder of task {task.name!r} is not known", hint="give the file, not the folder")
    questions, *outputs = _official(task.name, split, part)
    places = [folder / questions, folder / part / Path(questions).name, folder / Path(questions).name]
    for place in places:
        if place.is_file():
            if outputs and not (place.parent / Path(outputs[0]).name).is_file():
                raise DataError(
                    f"The answers to {place} are missing",
                    expected=place.parent / Path(outputs[0]).name,
                    hint="download them; or give the file of questions, and that of the labels if it is elsewhere",
                )
            return [place]
    raise DataError(
        f"The folder {folder} holds no {part} questions of {task.name}, {split}-based",
        expected=places[0],
        hint="download them",
        command=f"ownlm import lamp --task {task.name} --download {quoted(folder)} --split {split} --part {part}",
    )


def _official(task: str, split: Split, part: Kind) -> list[str]:
    """The paths of the questions and, where published, the outputs, relative to a URL or folder."""
    parent = ("time/" if split == "time" else "") + f"{_FOLDERS[task]}/{part}"
    kinds = ("questions",) if part == "test" else ("questions", "outputs")
    return [f"{parent}/{part}_{kind}.json" for kind in kinds]


def _find_parquet(folder: Path, task: str, split: Split, part: Kind) -> list[Path]:
    """Finds all Parquet files of a split, in order."""
    wanted = "val" if part == "dev" else part
    configuration = f"{_CONFIGURATIONS[task]}_{'temporal' if split == 'time' else 'user'}"
    places = [folder / configuration, folder / "data" / configuration]
    if not any(
        (folder / f"{name}_{kind}").is_dir() for name in _CONFIGURATIONS.values() for kind in ("user", "temporal")
    ):
        places.append(folder)  # else it would be another configuration's
    for place in places:
        for pattern in (f"{wanted}-*.parquet", f"{wanted}.parquet", f"{wanted}/*.parquet"):
            if found := sorted(place.glob(pattern)):
                return found
    raise DataError(
        f"The folder {folder} holds no Parquet files of {configuration}, {wanted}",
        expected=folder / configuration / f"{wanted}-*.parquet",
        **_elsewhere(task),
    )


def _elsewhere(task: str) -> dict[str, str]:
    """The parts of an error that say how to get a task's files otherwise."""
    if task in _CONFIGURATIONS:
        return {
            "hint": f"download {_ON_THE_HUB} from the Hugging Face hub, then import that folder",
            "command": f"hf download {_ON_THE_HUB} --repo-type dataset --local-dir DIR",
        }
    if task == "LaMP_6":
        return {"got": "mail of the Avocado collection, which may not be passed on", "hint": "take another task"}
    return {"expected": f"one of {', '.join(_FOLDERS)}"}


def _checker(path: Path, task: Task, part: Kind) -> Callable[[Path], None]:
    """The check of a downloaded file, by its name."""
    if path.name == f"{part}_questions.json":
        return lambda temporary: check_questions(temporary, task)
    return lambda temporary: check_outputs(temporary, path.with_name(f"{part}_questions.json"))


def check_questions(file: Path, task: Task) -> None:
    """Checks that a file is a list of a task's questions.

    Raises:
        DataError: the file is not.
    """
    _, fields = _questions(file)
    if fields and not fields >= set(task.required_in_records):
        expected = f"profiles whose records have {', '.join(task.required_in_records)}"
        raise DataError("it holds the questions of another task", expected=expected)


def check_outputs(file: Path, questions: Path) -> None:
    """Checks that outputs answer exactly the given questions.

    Raises:
        DataError: they do not.
    """
    golds, asked = set(read_golds(file)), _questions(questions)[0]
    if golds != asked:
        raise DataError(
            "it does not answer the questions",
            got=f"{len(asked - golds):,} of {len(asked):,} without an answer, {len(golds - asked):,} answers to others",
        )


def _questions(file: Path) -> tuple[set[str], set[str]]:
    """Reads the ids of the questions, and the field names of the records in their profiles."""
    ids, fields = set[str](), set[str]()
    try:
        if kind_of(file) != "array":
            raise TypeError
        for item in read_array(file):
            question = as_object(item)
            key = as_id(question["id"])
            if key in ids or not (isinstance(question["input"], str) and isinstance(question["profile"], list)):
                raise TypeError
            ids.add(key)
            fields.update(name for record in question["profile"] if isinstance(record, dict) for name in record)
    except DataError:
        raise
    except (TypeError, KeyError, ValueError):
        ids = set()
    if not ids:
        raise DataError(
            "it is not a list of questions", expected="questions with an id of their own, input and profile"
        )
    return ids, fields
