"""LoRA beside (IA)3 and prompt tuning: eight people of huffpost_category on SmolLM2-135M.

    python benchmarks/peft_methods.py [--users 8] [--recent 24] [--home DIR]

Stage 1 as in huffpost_category.py (a home that has its base `news` can be given). Then each person's adapter by each
method, with its preset's rate and else the same settings, and their queries by likelihood: accuracy with a 95% interval
over people, bytes of an adapter, seconds and tokens of training.
"""

import argparse
import tempfile
import time
from pathlib import Path

from huffpost_category import TASK, cells, choose, difference, judge, most_frequent
from record import DATA, save

from ownlm import Home
from ownlm.cli.output import print_table, progress_bar, size

METHODS = {"LoRA": "lora", "(IA)3": "ia3", "prompt tuning": "prompt"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--recent", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--home", type=Path)
    asked = parser.parse_args()
    home, data = Home(asked.home or tempfile.mkdtemp()), DATA / "huffpost_category"
    rows = {}
    with progress_bar() as progress:
        home.add_base("smollm2-135m", progress=progress)
        if "news" not in {base.name for base in home.bases()}:
            home.adapt("news", TASK, data=data / "user_others.json", progress=progress)
        home.add_history(data / "user_top_history.json", TASK)
        everybody = home.read_queries(data / "user_top_history.json", TASK)
        people = sorted({query.user_id for query in everybody})
        people = people[:: len(people) // asked.users][: asked.users]
        queries = [query for query in everybody if query.user_id in people]
        alone = choose(home, queries, progress, base="news", base_only=True)
        rows["adapted base"] = judge(queries, alone)
        rows["most frequent label"] = judge(queries, most_frequent(home, queries))
        for name, method in METHODS.items():
            started = time.perf_counter()
            trained = home.train(
                TASK, users=people, recent=asked.recent, batch_size=asked.batch_size, from_scratch=True,
                progress=progress, method=method,
            ).trained  # fmt: skip
            seconds = time.perf_counter() - started
            answers = choose(home, queries, progress)
            rows[name] = judge(queries, answers) | {
                "minus adapted base": difference(queries, answers, alone),
                "bytes": trained[0].bytes,
                "seconds": seconds,
                "tokens": sum(adapter.tokens for adapter in trained),
                "steps": sum(adapter.steps for adapter in trained),
                "loss_last": sum(adapter.loss_last for adapter in trained) / len(trained),
                "config": home.adapters(trained[0].user, TASK)[-1].provenance["config"],
            }
            print(name, {key: value for key, value in rows[name].items() if key != "config"}, flush=True)
    print_table(
        f"huffpost_category: {len(queries)} queries of {len(people)} people",
        ["method", "accuracy#", "95%", "macro-F1#", "95%", "bytes#", "seconds#", "tokens/s#"],
        [
            (name, *cells(r, "accuracy"), *cells(r, "f1_macro"),
             *((size(r["bytes"]), f"{r['seconds']:.0f}", f"{r['tokens'] / r['seconds']:.0f}") if "bytes" in r else ()))
            for name, r in rows.items()
        ],
    )  # fmt: skip
    save("peft_methods", {"people": len(people), "queries": len(queries), "methods": rows})


if __name__ == "__main__":
    main()
