"""Users of the speed benchmarks: real histories, or random tokens in the same lengths.

    python benchmarks/workload.py         writes lengths.json: token lengths of the real sets, and no text

`huffpost_category` and `acl_title` are real where the data lie beside the repository and the base has SmolLM2's
vocabulary; else users with those token lengths and random tokens. `synthetic` draws histories of 5 to 500 records, the
logarithm of their number uniform, with token lengths out of both sets.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from random import Random

from bases import open_base
from record import DATA

from ownlm.history.readers import read_dataset
from ownlm.history.task import load_task, with_instruction
from ownlm.model.base import BaseLM
from ownlm.model.packed import common_prefix
from ownlm.oppu.examples import tokenize
from ownlm.oppu.fleet import Job
from ownlm.oppu.minibatches import TokenizedExample
from ownlm.prompt.example import history_examples

TASKS = {"huffpost_category": "LaMP_2N", "acl_title": "LaMP_5"}
SETS = (*TASKS, "synthetic")
LENGTHS = Path(__file__).with_name("lengths.json")
FEWEST, MOST = 5, 500  # records of a synthetic user
SPECIAL = 3  # the first token ids are left out of random text


def open_users(name: str, base: BaseLM, users: int, records: int | None) -> tuple[Iterator[Job], str]:
    """`users` people with at most `records` latest records each, and what is to be said about them."""
    if name == "synthetic":
        return synthetic(base, users, records or MOST), f"random tokens, {FEWEST} to {MOST} records a user"
    if base.tokenizer is not None and (DATA / name).exists():
        return real(name, base, users, records), "real people's records"
    return recorded(name, base, users, records), "random tokens with the real set's lengths"


def real(name: str, base: BaseLM, users: int, records: int | None) -> Iterator[Job]:
    """Every n-th person of a real set."""
    task = load_task(TASKS[name])
    dataset = read_dataset(DATA / name / "user_top_history.json", task)
    task = with_instruction(task, dataset.instruction, dataset.labels)
    people = sorted(dataset.histories, key=lambda history: history.user_id)
    for history in people[:: max(len(people) // users, 1)][:users]:
        examples = history_examples(task, history, recent=records)
        yield Job(history.user_id, tokenize(base, history.user_id, examples), seed=0)


def recorded(name: str, base: BaseLM, users: int, records: int | None) -> Iterator[Job]:
    """Users with a real set's token lengths, again from the first where more are asked for than there are."""
    lengths = json.loads(LENGTHS.read_text())[name]
    for number in range(users):
        own = lengths["users"][number % len(lengths["users"])]
        yield _random_job(f"{name}-{number:05d}", lengths["shared"], own[-(records or len(own)) :], base)


def synthetic(base: BaseLM, users: int, records: int) -> Iterator[Job]:
    """Users with up to `records` records, each with the token lengths of some record of one of the real sets."""
    sets = [lengths for _, lengths in sorted(json.loads(LENGTHS.read_text()).items())]
    for number in range(users):
        draw = Random(number)
        lengths, count = draw.choice(sets), round(math.exp(draw.uniform(math.log(FEWEST), math.log(MOST))))
        pool = [pair for user in lengths["users"] for pair in user]
        own = draw.choices(pool, k=min(count, records))
        yield _random_job(f"synthetic-{number:05d}", lengths["shared"], own, base)


def _random_job(user: str, shared: int, own: list[list[int]], base: BaseLM) -> Job:
    """A job of random tokens; the prompts of all users begin with the same `shared` tokens."""
    vocab = range(SPECIAL, base.model.config.vocab_size)
    instruction, draw = Random(0).choices(vocab, k=shared), Random(user)
    examples = [
        TokenizedExample(instruction + draw.choices(vocab, k=prompt), draw.choices(vocab, k=answer))
        for prompt, answer in own
    ]
    return Job(user, examples, seed=0)


def main() -> None:
    base, _ = open_base("smollm2", "cpu")
    found = {}
    for name in TASKS:
        jobs = list(real(name, base, users=40, records=50))
        shared = common_prefix([example.prompt for job in jobs for example in job.examples])
        found[name] = {
            "shared": shared,
            "users": [[[len(e.prompt) - shared, len(e.answer)] for e in job.examples] for job in jobs],
        }
    LENGTHS.write_text(json.dumps(found, separators=(",", ":")) + "\n")
    print(f"written to {LENGTHS.name}: {[len(one['users']) for one in found.values()]} users")


if __name__ == "__main__":
    main()
