"""A home on a tiny base, in which each user's model says one known text; made, and served, by the Python with ownlm.

    python tests_clients/community.py FOLDER

Writes two lines of JSON to stdout: the users' tokens, and the address.
"""

import json
import sys
from pathlib import Path

from texts import SAYS, TASK

QUESTIONS = (
    "hello", "what is new?", "tell me more", "Sort this: a", "who are you?", "and then?", "x",
    "Grüße, 世界 😀", "Return the correct JSON response within a ```json codeblock. not the JSON_SCHEMA",
    "Extract: Ada is 36 years old.", "one\ntwo", "question number 17",
)  # fmt: skip
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LIMITS = ("--max-tokens", "64", "--requests-per-minute", "100000")


def make(folder: Path) -> dict[str, str]:
    """Makes the home; each user's token."""
    from ownlm.home import Home
    from ownlm.model.bases.random_base import make_random_base
    from ownlm.store.tokens import give_token

    make_random_base(folder / "tiny")
    (folder / "reply.toml").write_text(TASK, "utf8")
    rows = [
        {"user_id": user, "id": f"{user}-{n}", "time": str(1000 + n), "text": question, "reply": text}
        for user, text in SAYS.items()
        for n, question in enumerate(QUESTIONS)
    ]
    (folder / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf8")
    home = Home(folder / "home", device="cpu")
    home.add_base(str(folder / "tiny"), "tiny")
    report = home.train(
        str(folder / "reply.toml"), data=folder / "people.jsonl", steps=120, batch_size=3, learning_rate=5e-3,
        weight_decay=0.0, max_grad_norm=1.0, r=32, lora_alpha=64, target_modules=MODULES,
    )  # fmt: skip
    assert not report.failed
    tokens = {user: give_token(home.store, user)[1] for user in (*SAYS, "new")}
    home.store.database.close()
    return tokens


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print(json.dumps(make(folder)), flush=True)
    sys.argv = ["ownlm", "serve", "--home", str(folder / "home"), "--json", "--port", "0", *LIMITS]
    from ownlm.cli.app import main  # in this process: loading torch once more would take longer than the training

    main()
