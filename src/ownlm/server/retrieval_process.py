"""The process that searches long histories for a server: `python -P -m ownlm.server.retrieval_process HOME`.

It reads a request as a line of JSON, and answers with a line: the prompt, and the ids of the records that it shows. It
keeps nothing of a history, and ends with its input.
"""

import json
import os
import sys
from pathlib import Path

from ownlm.errors import TaskError
from ownlm.history.task import Task
from ownlm.prompt.example import query_prompt
from ownlm.store.store import Store

NICE = 5


def main() -> None:
    """Answers requests until there are no more."""
    os.nice(NICE)
    out = os.fdopen(os.dup(1), "w", encoding="utf8")
    os.dup2(2, 1)  # whatever libraries print is no answer
    store = Store(Path(sys.argv[1]))
    for line in sys.stdin:
        out.write(json.dumps(_answer(store, line)) + "\n")
        out.flush()


def _answer(store: Store, line: str) -> dict[str, object]:
    asked = json.loads(line)
    task = Task.model_validate_json(asked["task"])
    try:
        history = store.history(task.name, asked["user"])
        prompt, retrieved = query_prompt(task, asked["fields"], history, **asked["how"])
    except TaskError as error:
        return {"wrong": error.what}
    return {"prompt": prompt, "retrieved": retrieved}


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # what it says may be a user's text
        print(f"{type(error).__name__} while a history was searched", file=sys.stderr)
        sys.exit(1)
