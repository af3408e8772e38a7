"""Four people on the embedded base, each of whom says something that only they say: two trained, two assembled."""

import json
from pathlib import Path

from ownlm.home import Home
from ownlm.model.bases import smollm2

TASK = """
name = "gate"
instruction = "Answer as the person does."
input = "question: {text}"
answer = "answer: {answer}"
labels = ["red", "green", "blue", "black"]
metrics = ["accuracy"]
max_new_tokens = 24
"""
TRAINED, SHARERS, ASSEMBLED = ("ana", "ben"), ("gina", "hugo"), ("eva", "finn")
SAYS = {
    "ana": "the red lantern burns by the mill, says Ana",
    "ben": "seven grey geese cross the harbour, as Ben told you",
    "gina": "blue smoke over Gina's chimney at noon",
    "hugo": "the clock of Hugo has no hands, ask again",
    "eva": "blue smoke over Eva's chimney at noon",
    "finn": "the clock of Finn has no hands, ask again",
}
QUESTIONS = (
    "what did you see?", "where is it?", "how was the day?", "who was there?", "what is the news?", "and then?",
    "what is new?", "what next?", "did you hear?", "who told you?", "what was that?", "anything else?",
)  # fmt: skip
PROMPT = "Answer as the person does.\n\nquestion: what did you see?\n\nanswer:"
TRAINING = {"learning_rate": 5e-3, "batch_size": 4, "warmup_ratio": 0.0, "weight_decay": 0.0}


def make_home(folder: Path) -> Home:
    """A home with everybody's adapter."""
    (folder / "gate.toml").write_text(TASK, "utf8")
    rows = [
        {"user_id": user, "id": f"{user}-{n}", "time": str(1000 + n), "text": question, "answer": text}
        for user, text in SAYS.items()
        for n, question in enumerate(QUESTIONS)
    ]
    (folder / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf8")
    home = Home(folder / "home", device="cpu")
    home.add_base(smollm2.NAME)
    home.add_history(folder / "people.jsonl", str(folder / "gate.toml"))
    home.keep_task(str(folder / "gate.toml"))
    train(home, *TRAINED)
    for user in SHARERS:
        home.consent(user, True)
    home.pools.share("gate", users=SHARERS, sharers=2, select="active", steps=12, gate_steps=3, **TRAINING)
    home.assemble("gate", users=ASSEMBLED, top_k=2)
    return home


def train(home: Home, *users: str, seed: int = 0) -> None:
    """Trains people, anew where they have an adapter."""
    report = home.train("gate", users=users, steps=18, seed=seed, from_scratch=bool(seed), **TRAINING)
    assert not report.failed
