"""Export of a user's adapter for other programs: a PEFT folder with its prompt and a script that answers."""

import json
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from ownlm.config import TrainConfig
from ownlm.durable import unfinished
from ownlm.errors import AdapterError, quoted
from ownlm.history.record import Record
from ownlm.history.task import Task
from ownlm.history.template import template_fields
from ownlm.inference.load import RECIPE, licence_of, read_adapter
from ownlm.model.adapter import write_peft_folder
from ownlm.model.base import BaseLM, load_without_weights
from ownlm.model.bases.source import hub_id
from ownlm.model.peft_adapter import PeftAdapter
from ownlm.model.peft_names import check_folder, peft_targets, skeleton
from ownlm.perpcs.materialise import of_rank
from ownlm.prompt.example import ABOUT, HEADER, prompt_text
from ownlm.store.rows import AdapterInfo, BaseInfo
from ownlm.store.store import Store

PROMPT, SCRIPT, README = "prompt.json", "answer.py", "README.md"
WHOLE: Final = 10**6  # word limit of an answer that is not cut


def export_adapter(store: Store, adapter: AdapterInfo, folder: Path, rank: int | None) -> float:
    """Writes an adapter as a PEFT folder, whole or not at all, with its prompt and its provenance.

    The folder names a base from the hub by id and revision, any other by its folder. It is put in place after `peft`
    has read it on the base's modules without weights.

    Args:
        rank: rank of the exported adapter, for LoRA adapters and recipes; None for its own rank.

    Returns:
        Relative error of the exported adapter.

    Raises:
        AdapterError: the folder is not empty, the assembly is stale, or `peft` reads another adapter from it.
        BaseModelError: the base's configuration cannot be read.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AdapterError(f"The folder {folder} is not empty", expected="a new or empty folder", hint="choose another")
    if adapter.stale is not None:
        command = f"ownlm assemble --task {adapter.task} --user {quoted(adapter.user)}"
        what = f"The assembly of user {adapter.user!r} is stale: {adapter.stale}"
        raise AdapterError(what, hint="assemble it again", command=command)
    base, error = store.base(adapter.base), 0.0
    name, revision = hub_id(Path(base.folder)) or (str(Path(base.folder).absolute()), None)
    bare = skeleton(base.folder)
    with unfinished(folder, folder=True) as temporary:
        if adapter.method in ("lora", RECIPE):
            own = read_adapter(store, adapter)
            if rank is not None:
                own, error = of_rank(own, rank)
            targets = peft_targets(bare, list(own.pairs))
            write_peft_folder(temporary, own.to_bytes(), own.lora, name, revision, targets)
        elif rank is not None:
            raise AdapterError(f"An adapter of the method {adapter.method!r} has no rank", hint="export it as it is")
        else:
            PeftAdapter(adapter.shape, store.weights(adapter)).write_folder(temporary, name, revision)
        check_folder(temporary, bare)
        note = {
            "adapter": adapter.id,
            "user": adapter.user,
            "task": adapter.task,
            "base": adapter.base,
            "base_fingerprint": adapter.base_fingerprint,
            "records": adapter.records,
            "forgotten": adapter.forgotten,
            **({} if adapter.pool is None else {"pool": adapter.pool, "licence": licence_of(store, adapter)}),
            **({} if rank is None else {"rank": rank, "relative_error": error}),
            **adapter.provenance,
        }
        write_prompt(store, adapter, temporary)
        (temporary / "ownlm.json").write_text(json.dumps(note, indent=1) + "\n", "utf8")
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
        return error


def write_prompt(store: Store, adapter: AdapterInfo, folder: Path) -> None:
    """Writes the prompt's specification, the script and a README into an exported folder.

    The prompt contains the user's profile if the adapter was trained with one. Records stay in the home.

    Raises:
        BaseModelError: the base's tokenizer cannot be loaded.
    """
    info = store.base(adapter.base)
    base = load_without_weights(Path(info.folder), name=info.name, fingerprint=info.fingerprint)
    task = Task.model_validate(adapter.provenance["task"])
    how = TrainConfig.model_validate(adapter.provenance["config"]).prompt
    profile = store.profile(task.name, adapter.user) if how.profile else None
    virtual = int(adapter.shape.get("num_virtual_tokens", 0))
    spec = prompt_spec(base, task, how.model_dump() | {"profile": profile.text if profile else ""}, virtual)
    (folder / PROMPT).write_text(json.dumps(spec, indent=1, ensure_ascii=False) + "\n", "utf8")
    (folder / SCRIPT).write_bytes((files("ownlm.workflows") / "answer_script.txt").read_bytes())
    (folder / README).write_text(_readme(task, info, spec, bool(profile), how.profile), "utf8")


def prompt_spec(base: BaseLM, task: Task, show: dict[str, Any], virtual: int = 0) -> dict[str, Any]:
    """The specification of a task's prompts that the script reads, with an example.

    Args:
        show: arguments of `query_prompt`: rag, profile, and numbers of words.
        virtual: number of tokens that the adapter itself puts before each prompt.
    """
    invented = {name: f"an invented {name}" for name in task.input_fields}
    answer = task.labels[0] if task.labels and task.options is None else "an invented answer"
    record_answer = task.options.right if task.options else task.answer_field
    earlier = Record("", "", {name: f"an earlier {name}" for name in task.input_fields} | {record_answer: answer})
    records = [earlier] if show["rag"] else []
    words = {name: show[name] for name in ("max_words", "max_words_retrieved")}
    return {
        "task": task.name,
        "begins": [task.instruction_text, *([f"{ABOUT} {show['profile']}"] if show["profile"] else [])],
        "header": HEADER,
        "records": show["rag"],
        "record_words": show["max_words_retrieved"],
        "record_answer": record_answer,
        "record_answer_words": WHOLE if task.labels and task.options is None else show["max_words_retrieved"],
        "input": [[line, list(template_fields(line))] for line in task.input.splitlines()],
        "fields": list(task.input_fields),
        "required": list(task.required_inputs),
        "text_field": (task.required_inputs or task.input_fields)[0],
        "words": show["max_words"],
        "cue": task.cue,
        "labels": list(task.labels) if task.labels else None,
        "max_new_tokens": task.max_new_tokens,
        "one_line": task.one_line,
        "chat_template": False,
        "prefix_tokens": base.text.prefix,
        "stop_tokens": sorted(base.stop_tokens),
        "end_of_text": base.end_of_text,
        "context_tokens": base.max_tokens - virtual,
        "example": {
            "fields": invented,
            "records": [dict(one.fields) for one in records],
            "prompt": prompt_text(task, invented, records, profile=show["profile"], **words),
        },
    }


def _readme(task: Task, base: BaseInfo, spec: dict[str, Any], has_profile: bool, wants_profile: bool) -> str:
    example, choose = spec["example"], " --choose" if task.labels else ""
    given = example["fields"] if len(task.required_inputs) > 1 else next(iter(example["fields"].values()))
    command = f"python {SCRIPT} {shlex.quote(given if isinstance(given, str) else json.dumps(given))}"
    notes = [_base_note(base)]
    if spec["records"]:
        notes.append(
            f"It was trained with up to {spec['records']} of the user's earlier records in each prompt, those that "
            "match the input best (BM25+). They are not in this folder: `--records FILE` takes them, one JSON object a "
            "line, the best match first. Without them the prompt is that of a user who has none, and answers differ."
        )
    if has_profile:
        notes.append(f"Each prompt shows a text about the user. It is in `{PROMPT}`: mind that when you pass it on.")
    elif wants_profile:
        notes.append("It was trained with a text about the user in each prompt, which the home no longer has.")
    notes.append(
        f"Each field of the input is cut to its first {spec['words']} words. Nothing else is cut: a prompt and its "
        f"answer must fit into {spec['context_tokens']} tokens. No chat template is used."
    )
    lines = "\n".join(f"    {line}".rstrip() for line in example["prompt"].splitlines())
    return f"""# A personal adapter for the task `{task.name}`

An ordinary PEFT adapter. It answers as it should only after the prompt that it was trained on: `{PROMPT}` has all that
decides it, and `{SCRIPT}` builds it and answers, with `pip install torch transformers peft` and without ownlm.

    {command}{choose}

{"With `--choose` it picks the likeliest label; without, it writes the answer freely. " if choose else ""}\
The whole prompt for an invented input:

{lines}

{"".join(f"- {note}" + chr(10) for note in notes)}"""


def _base_note(base: BaseInfo) -> str:
    """Where to find the base on another machine."""
    named = "`adapter_config.json` names the base"
    if base.parent is not None:
        return (
            f"{named}: `{base.name}`, which is `{base.parent}` adapted to the task `{base.task}` in the home that this "
            "comes from, and nowhere else. On another machine copy its folder, and give it with `--base FOLDER`."
        )
    return f"{named}, `{base.name}`. Where that is a folder of another machine, give your copy with `--base FOLDER`."
