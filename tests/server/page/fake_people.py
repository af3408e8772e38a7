"""What the fake server holds: tasks, people by what they have, what models answer, pieces. All of it is made up."""

import random
from dataclasses import dataclass, field
from typing import Any

LABELS = ["today", "week", "later", "family", "work", "money", "help", "reply", "fun", "read", "bin"]
TASKS = [
    {
        "name": "triage",
        "instruction": "File the message into one of these folders: {labels}.",
        "input_fields": ["text"],
        "required": ["text"],
        "answer_field": "folder",
        "labels": LABELS,
    },
    {
        "name": "git-commit",
        "instruction": "Write the subject line of the commit below, as its author would.",
        "input_fields": ["files", "diff"],
        "required": ["files"],
        "answer_field": "subject",
        "labels": None,
    },
    {
        "name": "LaMP_1",
        "instruction": "Of a paper and two references, say which of them its author cites: {labels}.",
        "input_fields": ["title", "option_1", "option_2"],
        "required": ["title", "option_1", "option_2"],
        "answer_field": "cited",
        "labels": ["[1]", "[2]"],
        "record_fields": ["title", "citation", "other"],
    },
]
XSS = '<img src=x onerror="window.hurt=1"><script>window.hurt=1</script>'
FOLDERS = {"club": "later", "bank": "money", "mum": "family", "office": "work", "shop": "bin"}
SAYINGS = [
    "your card is ready today", "who is in on Friday?", "call me when you can", "minutes of the meeting attached",
    "thirty per cent off everything", "the boiler makes that noise again", "can you look at this before noon?",
]  # fmt: skip
LONG = "A long message about nothing in particular, which goes on and on. " * 40
UNBROKEN = "https://example.org/" + "a-very-long-address-without-a-blank-" * 8
ANSWERS = {  # by task and folder label chosen or not: what the base says, and what an own model says
    ("triage", True): ("bin", "later"),
    ("triage", False): ("folder: bin, since it is from a club and nobody you know", "later"),
    ("git-commit", False): ("Update the files in the store", "store: keep the lock while the blob is renamed"),
}
SHARERS = [
    "3f2a91c07be4",
    "9bc14d20aa17",
    "77de0c5513f8",
    "e1045bb29c6d",
    "5a6f83d1e290",
    "c80d7714b3a2",
    "08b2fe96417c",
    "d43319ac0e5b",
]
KINDS = ["q_proj", "k_proj", "v_proj", "o_proj"]


NOT_KNOWN: dict[str, Any] = {"verdict": None, "records": None, "words": ""}


@dataclass
class Someone:
    """One person, and what the server holds of them."""

    user: str
    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    versions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by task, newest first
    jobs: list[dict[str, Any]] = field(default_factory=list)
    consent: dict[str, Any] = field(default_factory=lambda: {"shares": False, "licence": None, "since": None})
    worth: dict[str, Any] = field(default_factory=lambda: NOT_KNOWN)  # of the newest version
    scope: str = "user"


def adapter(number: int, method: str, records: int, **more: Any) -> dict[str, Any]:
    """One version of an adapter."""
    made = {
        "id": f"{number:02d}c4e1a7f3b24d5c9e8f0a1b2c3d4e5f", "method": method, "base": "triage-base",
        "records": records, "steps": 0, "loss_first": None, "loss_last": None, "bytes": 1455,
        "created": f"2026-11-{number:02d}T14:03:00+00:00", "behind": 0, "forgotten": 0,
        "stale": None, "waits": False,
    }  # fmt: skip
    if method == "lora":
        made |= {"steps": 2 * records // 8, "loss_first": 4.753, "loss_last": 1.204, "bytes": 1_858_776}
    return made | more


def records(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """So many records of triage, newest first."""
    chance, made = random.Random(seed), []
    for number in range(count):
        who = chance.choice(sorted(FOLDERS))
        day = f"2026-{1 + number * 9 // max(count, 1):02d}-{1 + number % 28:02d}"
        fields = {"text": f"From the {who}: {chance.choice(SAYINGS)}", "folder": FOLDERS[who]}
        made.append({"id": f"r-{number:04d}", "task": "triage", "time": day, "fields": fields})
    return made[::-1]


def pieces(layers: int = 30) -> dict[str, Any]:
    """What an assembled adapter is made of: three pieces a module, of eight sharers."""
    chance = random.Random(7)
    amount = [[[0.0] * layers for _ in SHARERS] for _ in KINDS]
    for rows in amount:
        for layer in range(layers):
            chosen = chance.choices(range(len(SHARERS)), weights=[30, 20, 14, 10, 6, 4, 3, 1], k=3)
            left = 1.0
            for place, sharer in enumerate(chosen):
                part = left if place == 2 else round(left * chance.uniform(0.3, 0.7), 4)
                rows[sharer][layer] += part
                left -= part
    totals = [sum(sum(rows[s]) for rows in amount) for s in range(len(SHARERS))]
    share = [total / sum(totals) for total in totals]
    return {"sharers": SHARERS, "kinds": KINDS, "layers": list(range(layers)), "amount": amount, "share": share}


def everybody() -> dict[str, Someone]:
    """By token: a newcomer with nothing, a trained one, an assembled one, one whose training fails, a hostile one."""
    ada = Someone("ada", {"triage": records(43), "git-commit": records(0)})
    ada.versions["triage"] = [adapter(20, "lora", 40, behind=3), adapter(12, "lora", 25), adapter(3, "recipe", 11)]
    ada.consent = {"shares": True, "licence": "CC-BY-4.0", "since": "2026-10-02T09:30:00+00:00"}
    iris = Someone("iris", {"triage": records(12, 1)})
    iris.versions["triage"] = [adapter(21, "recipe", 12)]
    eve = Someone("eve", {"triage": records(3, 2)})
    eve.records["triage"][:0] = [
        {"id": XSS, "task": "triage", "time": None, "fields": {"text": XSS, "folder": "bin"}},
        {"id": "long", "task": "triage", "time": "2026-11-02T08:00:00Z", "fields": {"text": LONG, "folder": "read"}},
        {"id": "unbroken", "task": "triage", "time": "2019", "fields": {"text": UNBROKEN, "folder": "read"}},
    ]
    eve.versions["triage"] = [adapter(22, "recipe", 6, stale=f"pieces of it were withdrawn {XSS}")]
    tokens = {"newcomer": Someone("newt"), "trained": ada, "assembled": iris, "hostile": eve}
    tokens["failing"] = Someone("fay.longname+reports@example.org", {"triage": records(5, 3)})
    return {f"tok-{name}-0123456789": someone for name, someone in tokens.items()}
