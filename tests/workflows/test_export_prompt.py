"""The script of an exported adapter answers as `ownlm ask` does, where there is no ownlm."""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from ownlm.history.record import Query
from ownlm.home import Home
from ownlm.prompt.example import query_prompt
from ownlm.workflows.ask import Assignment, prompt_settings
from ownlm.workflows.options import AskOptions
from tests.community import rows, write_rows, write_task

NOTING = """
name = "noting"
instruction = "Write the {note} as they would."
input = '''
title: {title}
by {author} on {day}

{{text}}: {text}'''
answer = "note: {note}"
optional = ["author", "day"]
max_new_tokens = 6
one_line = true
"""
CITING = """
name = "citing"
instruction = "Which one: {labels}?"
input = "paper: {title} [1] {option_1} [2] {option_2}"
answer = "cited: {cited}"
labels = ["[1]", "[2]"]
max_new_tokens = 3
[options]
right = "citation"
wrong = "other"
"""
FAST = {"epochs": 2, "batch_size": 2, "learning_rate": 1e-2}
ODD = 'it\'s  {odd} <s>"日本"\n\nyes'
SORTING = [({"text": "thing"}, False), ({"text": ODD}, False), ({"text": "thing"}, True), ({"text": ODD}, True)]
NOTES = [
    ({"title": ODD, "text": " one two  three "}, False),
    ({"title": "t", "author": "a b", "text": "x " * 30}, False),
    ({"title": "t", "author": " ", "day": "{day}", "text": "x"}, False),
]
CITED = [({"title": "t", "option_1": "alpha beta", "option_2": "gamma"}, choose) for choose in (True, False)]


def lively(tiny: Path, folder: Path) -> Path:
    """A base whose answers depend on more than the last token."""
    shutil.copytree(tiny, folder)
    weights = load_file(folder / "model.safetensors")
    scaled = {name: tensor * (8 if "layers" in name and tensor.ndim == 2 else 1) for name, tensor in weights.items()}
    save_file(scaled, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def with_bos(tiny: Path, folder: Path) -> Path:
    """The same with a tokenizer that begins every text with a token."""
    lively(tiny, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf8"))
    bos, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    special = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing", "single": [bos, text], "pair": [bos, text, text], "special_tokens": special,
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf8")
    return folder


def noted(user: str) -> list[dict[str, str]]:
    several = []
    for n in range(5):
        one = {"user_id": user, "id": f"{user}{n}", "title": f"{user} {n}", "text": f"text {n}", "note": f"n {n} " * 20}
        several.append(one | ({"author": "al", "day": f"{n}"} if n % 2 else {}))
    return several


def cited(user: str) -> list[dict[str, str]]:
    return [
        {"user_id": user, "id": f"{user}{n}", "title": f"paper {n}", "citation": f"right {n}", "other": f"wrong {n}"}
        for n in range(6)
    ]


@dataclass(frozen=True)
class Case:
    task: str | None = None
    data: Callable[[str], list[dict[str, str]]] = lambda user: rows(user, 5)
    asked: Any = tuple(SORTING)
    how: Any = None
    adapted: bool = False
    profile: bool = False
    base: Callable[[Path, Path], Path] = lively


CASES = {
    "free text and labels": Case(),
    "beginning of text, adapted base": Case(base=with_bos, adapted=True),
    "optional fields, records shown": Case(NOTING, noted, NOTES, {"rag": 2, "max_words": 20, "max_words_retrieved": 5}),
    "options, records shown": Case(CITING, cited, CITED, {"rag": 1}),
    "labels, a profile, records shown": Case(how={"rag": 3, "profile": True}, profile=True),
    "activated": Case(how={"activated": True, "rag": 1}, adapted=True),
    "ia3": Case(how={"method": "ia3"}),
    "prompt tuning": Case(how={"method": "prompt", "virtual_tokens": 3}),
}

CHILD = """
import json, os, runpy, sys
sys.modules["ownlm"] = None
for line in sys.stdin:
    folder, asked, command = json.loads(line)
    os.chdir(folder)
    script = runpy.run_path("answer.py")
    loaded, said = script["load"](), []
    for fields, records, choose in asked:
        prompt = script["prompt"](fields, records)
        ids = script["P"]["prefix_tokens"] + loaded[1](prompt)
        said.append([prompt, ids, script["answer"](*loaded, prompt, choose)])
    example = script["P"]["example"]
    whole = script["prompt"](example["fields"], example["records"])
    print("\\0" + json.dumps([said, whole == example["prompt"]]), flush=True)
    if command:
        sys.argv = command
        runpy.run_path(command[0], run_name="__main__")
"""


def exported(case: Case, tiny: Path, folder: Path) -> tuple[Home, Path]:
    home, out = Home(folder / "home"), folder / "out"
    home.add_base(str(case.base(tiny, folder / "base")), "base")
    task = write_task(folder)
    if case.task:
        task.write_text(case.task, "utf8")
    home.add_history(write_rows(folder / "people.jsonl", case.data("ada"), case.data("secretive")), str(task))
    name = home.store.tasks()[0]
    if case.adapted:
        home.adapt("adapted", name, users=["secretive"], **FAST)
    if case.profile:
        home.profile(name, counted=True)
    home.train(name, users=["ada"], **FAST | (case.how or {}))
    home.export("ada", out)
    return home, out


def at_home(home: Home, fields: dict[str, str], choose: bool) -> tuple[list[str], Any]:
    """The prompt of a query, its token ids and the answer; and the records shown."""
    (info,) = home.latest_adapters().values()
    task, query = home.task(info.task), Query("ada", "", fields)
    (answer,) = home.ask_many([query], info.task, choose=choose)
    assert answer.error is None
    base = home.store.base(info.base)
    how = prompt_settings(home.store, Assignment.of("ada", task, base, info), AskOptions())
    history = home.store.history(info.task, "ada")
    prompt, shown = query_prompt(task, fields, history, **how)
    by_id = {one.id: dict(one.fields) for one in history.records}
    return [prompt, home.load(base).encode_prompt(prompt), answer.answer], [by_id[one] for one in shown]


def command_of(out: Path, base: Path) -> list[str]:
    """The command of the folder's page, on a copy of the base in another place."""
    command = next(line for line in (out / "README.md").read_text("utf8").splitlines() if "python " in line)
    assert command == "    python answer.py 'an invented text' --choose"
    return [*shlex.split(command)[1:], "--base", str(shutil.copytree(base, base.with_name("moved")))]


def test_the_script_answers_as_at_home(tiny_base: Path, tmp_path: Path) -> None:
    expected, asked, invented = dict[str, list[list[str]]](), list[str](), ""
    for name, case in CASES.items():
        home, out = exported(case, tiny_base, tmp_path / name)
        own = [(*at_home(home, fields, choose), fields, choose) for fields, choose in case.asked]
        expected[name] = [said for said, *_ in own]
        given = [(fields, records, choose) for _, records, fields, choose in own]
        assert all(len(records) == (case.how or {}).get("rag", 0) for _, records, _ in given)
        asked.append(json.dumps([str(out), given, [] if asked else command_of(out, tmp_path / name / "base")]))
        invented = invented or home.ask("ada", "an invented text", "sorting", choose=True).answer
        text = "".join(file.read_text("utf8") for file in out.iterdir() if file.suffix != ".safetensors")
        assert "secretive" not in text and "secret1" not in text  # of a record of somebody else, and of the user
    child = subprocess.run(
        [sys.executable, "-c", CHILD], input="\n".join(asked), capture_output=True, encoding="utf8", check=False
    )
    assert child.returncode == 0, child.stderr
    (by_command,) = (line for line in child.stdout.splitlines() if not line.startswith("\0"))
    assert by_command == invented
    told = [json.loads(line[1:]) for line in child.stdout.splitlines() if line.startswith("\0")]
    for (name, own), (theirs, example) in zip(expected.items(), told, strict=True):
        assert theirs == own and example, name
    said = {answer for own in expected.values() for _, _, answer in own}
    assert len(said) > 6, said  # they do not all say the same
