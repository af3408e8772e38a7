"""How fast many people are answered together, each with their own adapter, beside the bare base and beside `peft`.

    python benchmarks/serve.py                          all parts
    python benchmarks/serve.py --only throughput        tokens/s of the base, own adapters, assembled people, and `peft`
    python benchmarks/serve.py --only latency           1, 8 and 32 clients
    python benchmarks/serve.py --only people            the first token of a new person, as their number grows
    python benchmarks/serve.py --only joining           joining the running batch, beside micro-batches
    python benchmarks/serve.py --base tiny              a small trial of the script

The engine is that of `ownlm serve`, without HTTP. Adapters are random, of the shape that training gives (r 8, q and v),
in a home of their own; assembled people mix 3 of 50 sharers' random pieces (r 8, q, k, v, o). All methods get the same
made-up prompts and greedy decoding, and take turns in one process, `--rounds` times; what is told is the median round.
tokens/s are answer tokens over the whole time, reading the prompts included.

`peft` has all adapters loaded and switches with `set_adapter` before each request's `generate`: one request at a time,
since a batch has one adapter. It gets the first `--peer-requests` of the requests.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import save, table
from serving_fixture import LORA, Stand, alone, open_stand, prompt, random_adapter

from ownlm.inference.async_engine import AsyncEngine
from ownlm.inference.decoder import Decoder
from ownlm.inference.protocol import OutputStream
from ownlm.inference.request import Request
from ownlm.inference.scheduler import EngineLimits
from ownlm.inference.sequence import Sequence as RunningSequence
from ownlm.model.adapter import write_peft_folder
from ownlm.model.bank import LoraBank
from ownlm.store.rows import AdapterInfo

PARTS = ("throughput", "latency", "people", "joining")
CLIENTS = (1, 8, 32)
TOGETHER = 8  # so many at once are answered as fast as requests come, in `joining`


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; may be given more than once")
    parser.add_argument("--base", choices=("smollm2", "tiny"), default="smollm2")
    parser.add_argument("--people", type=int, default=64, help="different people in a batch")
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=48, help="of each answer, at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-requests", type=int, default=8)
    parser.add_argument(
        "--crowd", type=int, default=2000, help="people who come one after the other; 1.8 MB of disk each"
    )
    parser.add_argument("--name", default="serve", help="of the file in results/; each part is kept in one of its own")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stand = alone(open_stand, asked.base, Path(folder))
        for part in asked.only or PARTS:
            result = {"throughput": throughput, "latency": latency, "people": people, "joining": joining}[part](
                asked, stand
            )
            options = {name: value for name, value in vars(asked).items() if name != "only"}
            threads = torch.get_num_threads()
            save(f"{asked.name}_{part}", {"options": options | {"threads": threads}, **result})


def throughput(asked: Namespace, stand: Stand) -> dict[str, Any]:
    """Tokens a second of each method, in turn, and what share of the bare base's that is."""
    own = alone(lambda: [stand.person(number) for number in range(asked.people)])
    assembled = alone(lambda: [stand.assembled(number) for number in range(asked.people)])
    methods: dict[str, Callable[[], tuple[int, float]]] = {}
    for name, whose in (("base", [None]), ("own adapters", own), ("assembled", assembled)):
        requests = [stand.request(whose[n % len(whose)], n, asked.tokens) for n in range(asked.requests)]
        methods[name] = engine_method(stand, asked, requests)
    methods["peft, switching"] = alone(peft_method, stand, asked, own)
    rounds: list[dict[str, float]] = []
    for number in range(asked.rounds):
        rates = {}
        for name in list(methods)[:: 1 if number % 2 else -1]:  # nobody is always the first
            tokens, seconds = alone(methods[name])
            rates[name] = tokens / seconds
        rounds.append(rates)
        print(json.dumps({name: round(rate, 1) for name, rate in rates.items()}), flush=True)
    shares = {name: statistics.median(one[name] / one["base"] for one in rounds) for name in methods}
    over_peft = {name: statistics.median(one[name] / one["peft, switching"] for one in rounds) for name in methods}
    median = {name: statistics.median(one[name] for one in rounds) for name in methods}
    rows = [(name, f"{median[name]:.1f}", f"{shares[name]:.2f}", f"{over_peft[name]:.1f}") for name in methods]
    table(f"{asked.people} people in mixed batches", ["method", "tokens/s #", "of the base #", "times peft #"], rows)
    return {"tokens_per_s": median, "of_base": shares, "times_peft": over_peft, "rounds": rounds}


def latency(asked: Namespace, stand: Stand) -> dict[str, Any]:
    """How long clients wait, each asking again as soon as it is answered, each another person."""
    whose = alone(lambda: [stand.person(number) for number in range(max(CLIENTS))])
    engine, found = make_engine(stand, asked), dict[str, Any]()

    async def client(number: int, asks: int, waits: list[tuple[float, float, int]]) -> None:
        for again in range(asks):
            request = stand.request(whose[number], number + 100 * again, asked.tokens)
            waits.append(await timed(engine.submit(request)))

    async def use() -> None:
        await all_of(engine, [stand.request(one, n, 2) for n, one in enumerate(whose)])  # all are in memory
        for clients in CLIENTS:
            waits: list[tuple[float, float, int]] = []
            started = time.perf_counter()
            await asyncio.gather(*(client(number, max(2, 16 // clients), waits) for number in range(clients)))
            seconds = time.perf_counter() - started
            firsts, wholes, counts = zip(*waits, strict=True)
            gaps = [(whole - first) / max(1, n - 1) for first, whole, n in waits]
            found[str(clients)] = {
                "first_token_s": spread(firsts), "answer_s": spread(wholes), "between_tokens_s": spread(gaps),
                "tokens_per_s": sum(counts) / seconds,
            }  # fmt: skip

    in_loop(engine, use)
    told = ("first_token_s", "between_tokens_s", "answer_s")
    rows = [
        (n, *(f"{one[what]['p50']:.3f} / {one[what]['p95']:.3f}" for what in told), f"{one['tokens_per_s']:.1f}")
        for n, one in found.items()
    ]
    head = ["clients #", "first token, s", "between tokens, s", f"{asked.tokens} tokens, s", "tokens/s #"]
    table("Clients that ask again at once (median / 95%)", head, rows)
    return {"clients": found}


def people(asked: Namespace, stand: Stand) -> dict[str, Any]:
    """Seconds to the first token of people who come for the first time, early and late; and again, at once.

    All are added to the home, the first and the last ask, and one in twenty of the others.
    """
    some = max(1, min(50, asked.crowd // 4))
    engine, new, known = make_engine(stand, asked), list[float](), list[float]()

    async def use() -> None:
        await all_of(engine, [stand.request(None, 0, 1)])  # the base is loaded
        for number in range(asked.crowd):
            adapter = alone(stand.person, number)
            if some < number < asked.crowd - some and number % 20:
                continue
            for waits in (new, known):
                waits.append((await timed(engine.submit(stand.request(adapter, 0, 1))))[0])

    in_loop(engine, use)
    found = {
        "first people": spread(new[1 : 1 + some]), "last people": spread(new[-some:]), "in memory": spread(known),
    }  # fmt: skip
    rows = [(name, f"{1e3 * one['p50']:.0f}", f"{1e3 * one['p95']:.0f}") for name, one in found.items()]
    table(
        f"First token, of {asked.crowd:,} people ({some} first, {some} last)",
        ["who", "median, ms #", "95%, ms #"],
        rows,
    )
    return {"seconds": found, "last_over_first": found["last people"]["p50"] / found["first people"]["p50"]}


def joining(asked: Namespace, stand: Stand) -> dict[str, Any]:
    """Requests that come one by one, with answers of different lengths: joining at once, and in micro-batches."""
    rng = random.Random(0)
    bank = LoraBank(stand.base.model, LORA, asked.people)
    for slot in range(asked.people):
        bank.load(slot, random_adapter(stand.base, slot))
    lengths = [rng.randint(4, 2 * asked.tokens) for _ in range(asked.requests // 2)]
    with bank.attached():
        pace = one_step(stand, bank) * sum(lengths) / len(lengths) / TOGETHER
    comes = np.cumsum([rng.expovariate(1 / pace) for _ in lengths]).tolist()
    found: dict[str, dict[str, Any]] = {}
    with bank.attached():
        for name, at_once in (("joining", True), ("micro-batches", False)):
            waits, seconds = arrivals(stand, bank, lengths, comes, at_once)
            found[name] = {"answer_s": spread(waits), "seconds": seconds, "tokens_per_s": sum(lengths) / seconds}
    rows = [
        (name, f"{one['answer_s']['p50']:.2f}", f"{one['answer_s']['p95']:.2f}", f"{one['tokens_per_s']:.1f}")
        for name, one in found.items()
    ]
    table("Requests that come one by one", ["how", "answer, median s #", "95%, s #", "tokens/s #"], rows)
    return {"pace_s": pace, "ways": found}


def arrivals(
    stand: Stand, bank: LoraBank, lengths: Sequence[int], comes: Sequence[float], at_once: bool
) -> tuple[list[float], float]:
    """How long each waited for the whole answer, and how long all took."""
    decoder, waits, number, came = (
        Decoder(stand.base, bank, prompt_tokens=256),
        list[float](),
        0,
        dict[RunningSequence, float](),
    )
    decoder._stop_tokens = set()  # so that each answer has its length
    started = time.perf_counter()
    while len(waits) < len(lengths):
        if not decoder.running and number < len(comes):
            time.sleep(max(0.0, comes[number] - (time.perf_counter() - started)))
        now, door = time.perf_counter() - started, at_once or not decoder.running
        while door and number < len(comes) and comes[number] <= now:
            sequence = new_sequence(stand, number % bank.slots, number, lengths[number])
            came[sequence] = comes[number]
            decoder.join(sequence)
            number += 1
        for sequence in decoder.step():
            if sequence.finish:
                waits.append(time.perf_counter() - started - came[sequence])
    return waits, time.perf_counter() - started


def one_step(stand: Stand, bank: LoraBank) -> float:
    """Seconds of a pass in which `TOGETHER` people get their next token."""
    decoder = Decoder(stand.base, bank)
    for slot in range(TOGETHER):
        decoder.join(new_sequence(stand, slot, slot, 100))
    decoder.step()
    started = time.perf_counter()
    for _ in range(5):
        decoder.step()
    return (time.perf_counter() - started) / 5


def engine_method(stand: Stand, asked: Namespace, requests: Sequence[Request]) -> Callable[[], tuple[int, float]]:
    """Answers all requests by the engine, adapters and pieces in memory; returns tokens and seconds."""

    def run() -> tuple[int, float]:
        engine = make_engine(stand, asked, queue=len(requests))

        async def use() -> tuple[int, float]:
            await all_of(engine, [Request(one.base, one.adapter, "a", 1) for one in requests])  # all are in memory
            started = time.perf_counter()
            tokens = await all_of(engine, requests)
            return tokens, time.perf_counter() - started

        result: tuple[int, float] = in_loop(engine, use)
        return result

    return run


def peft_method(stand: Stand, asked: Namespace, whose: Sequence[AdapterInfo]) -> Callable[[], tuple[int, float]]:
    """Answers some of the requests by `peft`, which switches to each one's adapter, loaded before."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    requests = range(min(asked.peer_requests, asked.requests))
    model: Any = AutoModelForCausalLM.from_pretrained(stand.base.folder, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(len(whose)):
            path = Path(folder, str(number))
            write_peft_folder(path, random_adapter(stand.base, number).to_bytes(), LORA, str(stand.base.folder))
            if number == 0:
                model = PeftModel.from_pretrained(model, path, adapter_name="0")
            else:
                model.load_adapter(path, adapter_name=str(number))
    model.eval()

    def run() -> tuple[int, float]:
        tokens, started = 0, time.perf_counter()
        for number in requests:
            model.set_adapter(str(number % len(whose)))
            ids = torch.tensor([stand.base.encode_prompt(prompt(number))])
            with torch.inference_mode():
                out = model.generate(input_ids=ids, max_new_tokens=asked.tokens, do_sample=False)
            tokens += out.shape[1] - ids.shape[1]
        return tokens, time.perf_counter() - started

    return run


async def all_of(engine: AsyncEngine, requests: Sequence[Request]) -> int:
    """Sends all requests at once; how many tokens were given."""
    streams = [engine.submit(request) for request in requests]
    return sum(tokens for _, _, tokens in await asyncio.gather(*map(timed, streams)))


async def timed(stream: OutputStream) -> tuple[float, float, int]:
    """Returns the seconds to the first output and to the last, and the number of tokens."""
    started, first, tokens = time.perf_counter(), 0.0, 0
    async for output in stream:
        first, tokens = first or time.perf_counter() - started, output.completion_tokens
    return first, time.perf_counter() - started, tokens


def in_loop(engine: AsyncEngine, use: Callable[[], Awaitable[Any]]) -> Any:
    """Uses an engine, and stops it."""

    async def run() -> Any:
        try:
            return await use()
        finally:
            await engine.stop(0)

    return asyncio.run(run())


def new_sequence(stand: Stand, slot: int, number: int, tokens: int) -> RunningSequence:
    """Makes a sequence that is ready to join."""
    sequence = RunningSequence(stand.request(None, number, tokens))
    sequence.begin(stand.base, stand.base.encode_prompt(prompt(number)))
    sequence.slot = slot
    return sequence


def make_engine(stand: Stand, asked: Namespace, queue: int = 256) -> AsyncEngine:
    """Makes an engine with a slot for each user."""
    limits = EngineLimits(slots=asked.people, running=asked.people)
    return AsyncEngine(stand.home.store, stand.home.placement, limits, queue=queue)


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """The median, and what 95% stay below."""
    return {"p50": float(np.percentile(seconds, 50)), "p95": float(np.percentile(seconds, 95))}


if __name__ == "__main__":
    main()
