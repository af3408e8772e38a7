"""The same requests of different people, by our own engine and by vLLM's CPU build, in turn, in one run.

    make test-vllm                           makes the environment in which vLLM lies
    python benchmarks/serve_vllm.py          32 people, 32 requests, SmolLM2-135M in float32
    python benchmarks/serve_vllm.py --people 4 --tokens 8 --rounds 1      a small trial of the script

Adapters are random, of the shape that training gives (r 8, q and v), in a home of their own. Both get the same made-up
prompts and greedy decoding; their first round, in which adapters are loaded, does not count. tokens/s are answer tokens
over the whole time, reading the prompts included. How many answers are the same is told as well.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from record import save, table
from serving_fixture import alone, open_stand

from ownlm.home import Home
from ownlm.inference.async_engine import AsyncEngine
from ownlm.inference.protocol import ServingEngine
from ownlm.inference.request import Request
from ownlm.inference.scheduler import EngineLimits
from ownlm.server.vllm.engine import start_engine
from ownlm.server.vllm.server import VllmSettings

PYTHON = Path(__file__).resolve().parents[1] / ".venv-vllm" / "bin" / "python"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=32, help="different people; each asks once")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer, at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default=str(PYTHON), help="of the environment with vLLM")
    parser.add_argument("--name", default="serve_vllm", help="of the file in results/")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stand = alone(open_stand, "smollm2", Path(folder))
        people = alone(lambda: [stand.person(number) for number in range(asked.people)])
        requests = [stand.request(who, number, asked.tokens) for number, who in enumerate(people)]
        result = asyncio.run(compare(stand.home, requests, asked.rounds, asked.python))
    save(asked.name, {"options": vars(asked) | {"threads": torch.get_num_threads()}, **result})


async def compare(home: Home, requests: Sequence[Request], rounds: int, python: str) -> dict[str, object]:
    """Tokens a second of both, round by round."""
    many = len(requests)
    settings = VllmSettings(python=python, slots=many, in_memory=2 * many, sequences=many, max_tokens=2048)
    vllm = await asyncio.to_thread(start_engine, home.store, settings, device="cpu")
    own = AsyncEngine(home.store, home.placement, EngineLimits(slots=many, running=many), queue=many)
    engines: dict[str, ServingEngine] = {"ownlm": own, "vLLM": vllm}
    texts, found = dict[str, list[str]](), list[dict[str, float]]()
    try:
        for engine in engines.values():
            await answer(engine, [replace(one, max_tokens=1) for one in requests])
        for number in range(rounds):
            rates = {}
            for name in list(engines)[:: 1 if number % 2 else -1]:  # nobody is always the first
                started = time.perf_counter()
                texts[name], tokens = await answer(engines[name], requests)
                rates[name] = tokens / (time.perf_counter() - started)
            found.append(rates)
            print(json.dumps({name: round(rate, 1) for name, rate in rates.items()}), flush=True)
    finally:
        for engine in engines.values():
            await engine.stop(0)
    ratio = statistics.median(one["ownlm"] / one["vLLM"] for one in found)
    median = {name: statistics.median(one[name] for one in found) for name in engines}
    same = sum(one == other for one, other in zip(*texts.values(), strict=True))
    table(
        f"{many} people in one batch",
        ["engine", "tokens/s #"],
        [(name, f"{rate:.1f}") for name, rate in median.items()],
    )
    print(f"ownlm over vLLM: {ratio:.2f}; {same} of {many} answers are the same")
    return {"tokens_per_s": median, "ownlm_over_vllm": ratio, "same_answers": same, "rounds": found}


async def answer(engine: ServingEngine, requests: Sequence[Request]) -> tuple[list[str], int]:
    """All requests, sent at once: the answers, and how many tokens they have."""

    async def one(request: Request) -> tuple[str, int]:
        outputs = [output async for output in engine.submit(request)]
        return "".join(output.text for output in outputs), outputs[-1].completion_tokens

    texts, counts = zip(*await asyncio.gather(*map(one, requests)), strict=True)
    return list(texts), sum(counts)


if __name__ == "__main__":
    main()
